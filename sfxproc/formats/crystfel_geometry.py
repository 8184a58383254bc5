"""CrystFEL geometry files: the panels, without what lies behind a path in image files.

A panel's first pixel has its outer corner at (corner_x, corner_y) px and z = clen + coffset; fs
and ss are written as "+0.01x -0.99y +0.0z". The beam propagates along +z. res is in pixels per
metre, lengths are in metres unless they name their unit.

Source: CrystFEL 0.12, libcrystfel/src/datatemplate.c.
"""

from __future__ import annotations

import re

import numpy as np

from sfxproc.data import Detector, Floats

_UNITS_MM = {"": 1e3, "m": 1e3, "mm": 1.0}
_TERM = re.compile(r"([+-]?)\s*([\d.]*(?:[eE][+-]?\d+)?)\s*([xyz])")
_NEEDED = ("corner_x", "corner_y", "fs", "ss", "res", "min_fs", "max_fs", "min_ss", "max_ss")


def panel_settings(header: str) -> dict[str, dict[str, str]]:
    """What a geometry says of each panel, in order: texts by key.

    A key without a panel name is the default of the panels defined after it.
    """
    panels: dict[str, dict[str, str]] = {}
    default: dict[str, str] = {}
    for line in header.splitlines():
        left, equals, right = line.partition(";")[0].partition("=")
        name, slash, key = left.strip().rpartition("/")
        if not equals or left.strip().startswith(("bad", "group", "rigid_group")):
            continue
        target = panels.setdefault(name, dict(default)) if slash else default
        target[key] = right.strip()
    return panels


def detector_of(header: str) -> tuple[Detector, float | None]:
    """The panels at z = coffset, and clen in mm, None where it lies in the image files.

    Raises ValueError, saying what is missing or wrong, if it is not a complete geometry.
    """
    panels = panel_settings(header)
    if not panels:
        raise ValueError("it defines no panels")
    rows, lengths = [], set()
    for name, told in panels.items():
        if missing := [key for key in _NEEDED if key not in told]:
            raise ValueError(f"panel '{name}' has no {missing[0]}")
        try:
            pixel_mm = 1e3 / float(told["res"])
            corner = [float(told[key]) * pixel_mm for key in ("corner_x", "corner_y")]
            size = [
                round(float(told[f"max_{axis}"]) - float(told[f"min_{axis}"])) + 1
                for axis in ("fs", "ss")
            ]
            coffset_mm = _length_mm(told.get("coffset", "0"))
            rows.append(
                (_vector(told["fs"]), _vector(told["ss"]), [*corner, coffset_mm], pixel_mm, size)
            )
        except (ValueError, ZeroDivisionError) as error:
            raise ValueError(f"panel '{name}': {error}") from error
        lengths.add(told.get("clen", ""))
    try:
        clen_mm = _length_mm(lengths.pop()) if len(lengths) == 1 else None
    except ValueError:
        clen_mm = None
    fast, slow, origin, pixel, size_px = zip(*rows, strict=True)
    detector = Detector(
        name=np.array(list(panels), dtype=object),
        fast=np.array(fast),
        slow=np.array(slow),
        origin_mm=np.array(origin),
        pixel_mm=np.repeat(np.array(pixel)[:, None], 2, axis=1),
        size_px=np.array(size_px),
    )
    return detector, clen_mm


def _length_mm(text: str) -> float:
    value, _, unit = text.partition(" ")
    if unit.strip() not in _UNITS_MM:
        raise ValueError(f"'{text}' is no length")
    return float(value) * _UNITS_MM[unit.strip()]


def _vector(text: str) -> Floats:
    """A direction such as "-0.0057x +0.99y"."""
    found = _TERM.findall(text)
    if not found:
        raise ValueError(f"'{text}' is no direction")
    vector = np.zeros(3)
    for sign, value, axis in found:
        vector["xyz".index(axis)] += float(f"{sign}{value or 1}")
    return vector
