"""CrystFEL geometry files: the panels, without what lies behind a path in image files, and the
polarisation of the beam as CrystFEL's programs are told it.

A panel's first pixel has its outer corner at (corner_x, corner_y) px and z = clen + coffset; fs
and ss are written as "+0.01x -0.99y +0.0z". The beam propagates along +z. res is in pixels per
metre, lengths are in metres unless they name their unit.

Source: CrystFEL 0.12, libcrystfel/src/datatemplate.c and geometry.c.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from sfxproc.data import BeamPolarisation, Detector, Floats

_UNITS_MM = {"": 1e3, "m": 1e3, "mm": 1.0}
_TERM = re.compile(r"([+-]?)\s*([\d.]*(?:[eE][+-]?\d+)?)\s*([xyz])")
_POLARISATION = re.compile(r"(?:(?P<angle>\d+)deg|(?P<word>horiz|vert))(?P<percent>100|\d\d?)?")
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


def shift_mm(detector: Detector, clen_mm: float | None, camera_m: float) -> float:
    """How far along z the panels of `detector_of` are from there, NaN if nobody says so.

    camera_m : the average camera length of an image, NaN if not told.
    """
    if np.isfinite(camera_m):
        return 1e3 * camera_m - float(detector.origin_mm[:, 2].mean())
    return np.nan if clen_mm is None else clen_mm


def placed_detector(header: str, camera_m: float) -> Detector | None:
    """The panels of a geometry in the laboratory frame, the mean of their z at the camera length;
    None for an incomplete geometry, and where nobody tells the distance."""
    try:
        detector, clen_mm = detector_of(header)
    except ValueError:
        return None
    shift = shift_mm(detector, clen_mm, camera_m)
    if not np.isfinite(shift):
        return None
    return replace(detector, origin_mm=detector.origin_mm + np.array([0.0, 0.0, shift]))


def polarisation_of(text: str) -> BeamPolarisation | None:
    """What "horiz", "vert", "10deg", with a percentage behind them or not, means; None for "none"
    and other words. The electric vector is turned from x towards y by the angle."""
    told = _POLARISATION.fullmatch(text)
    if told is None:
        return None
    angle = np.radians(float(told["angle"] or 0.0) + (90.0 if told["word"] == "vert" else 0.0))
    fraction = float(told["percent"] or 100) / 100.0
    return BeamPolarisation(fraction, (-float(np.sin(angle)), float(np.cos(angle)), 0.0))


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
