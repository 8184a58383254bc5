"""DIALS's model of a detector: a tree of groups with panels as its leaves.

A panel or group is given in its parent's frame (F, S, O): with M = (F | S | F×S) its axes there are
M f, M s and its origin O + M o.

Source: dxtbx (DIALS 3.12), model/panel_data.h.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sfxproc.data import Detector, Floats

Model = Mapping[str, Any]

_X, _Y, _O = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 0.0)


def vector_of(model: Model, key: str) -> Floats:
    """(3,) a vector of a model. Raises ValueError if it is none."""
    vector = np.asarray(model[key], dtype=np.float64)
    if vector.shape != (3,) or not np.isfinite(vector).all():
        raise ValueError(f"{key} is not a vector of three numbers")
    return vector


def flattened(detector: Model) -> Detector:
    """The panels of a detector tree in the laboratory frame."""
    panels: list[Model] = detector["panels"]
    placed: dict[int, tuple[Floats, Floats]] = {}

    def place(node: Model, parent: Floats, origin: Floats) -> None:
        model = panels[node["panel"]] if "panel" in node else node
        fast, slow = vector_of(model, "fast_axis"), vector_of(model, "slow_axis")
        frame = parent @ np.column_stack([fast, slow, np.cross(fast, slow)])
        corner = origin + parent @ vector_of(model, "origin")
        if "panel" in node:
            placed[node["panel"]] = frame, corner
        for child in node.get("children", ()):
            place(child, frame, corner)

    roots = [detector["hierarchy"]] if "hierarchy" in detector else []
    for root in roots or [{"panel": i} for i in range(len(panels))]:
        place(root, np.eye(3), np.zeros(3))
    if missing := [i for i in range(len(panels)) if i not in placed]:
        raise ValueError(f"panels {missing} are not in the hierarchy")
    frames = np.array([placed[i][0] for i in range(len(panels))])
    return Detector(
        name=np.array([panel["name"] for panel in panels], dtype=object),
        fast=frames[:, :, 0],
        slow=frames[:, :, 1],
        origin_mm=np.array([placed[i][1] for i in range(len(panels))]),
        pixel_mm=np.array([panel["pixel_size"] for panel in panels], dtype=float),
        size_px=np.array([panel["image_size"] for panel in panels], dtype=int),
    )


def detector_tree(detector: Detector) -> dict[str, Any]:
    """The detector as DIALS models it: absolute panels under one group without a frame."""

    def node(name: str, fast: Any, slow: Any, origin: Any, size: Any, pixel: Any) -> dict[str, Any]:
        return {
            "name": name,
            "type": "",
            "fast_axis": fast,
            "slow_axis": slow,
            "origin": origin,
            "raw_image_offset": [0, 0],
            "image_size": size,
            "pixel_size": pixel,
            "trusted_range": [0.0, 1e9],
            "thickness": 0.0,
            "material": "",
            "mu": 0.0,
            "identifier": "",
            "mask": [],
            "gain": 1.0,
            "pedestal": 0.0,
            "px_mm_strategy": {"type": "SimplePxMmStrategy"},
        }

    columns = (
        detector.fast,
        detector.slow,
        detector.origin_mm,
        detector.size_px,
        detector.pixel_mm,
    )
    rows = zip(detector.name, *(column.tolist() for column in columns), strict=True)
    root = node("", _X, _Y, _O, [0, 0], [0.0, 0.0])
    root["children"] = [{"panel": i} for i in range(len(detector))]
    return {"panels": [node(str(name), *rest) for name, *rest in rows], "hierarchy": root}
