"""Spots found on stills, where they hit the detector, and how far from the origin they scatter.

    p = o + x Δ_f f + y Δ_s s            x, y in px from the outer corner of the panel
    q = |p/|p| − b|/λ = 2 sin θ/λ        Å⁻¹

with o, f, s the corner and the axes of the panel, Δ the pixel size and b the direction of the beam.
Positions are kept in a frame whose z is the beam, so that b = (0, 0, 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Detector, Floats, Ints, Table

BEAM = np.array([0.0, 0.0, 1.0])


@dataclass(frozen=True, eq=False)
class Spots(Table):
    """One spot a row, indexed or not.

    shot : (n,) int32 which image, never decreasing. position_mm : (n, 3) on the detector, from the
    crystal, beam along +z. wavelength_A : (n,). intensity : (n,) float32 on any scale, NaN where
    not recorded.
    """

    shot: Ints
    position_mm: Floats
    wavelength_A: Floats
    intensity: Floats


@dataclass(frozen=True, eq=False)
class SpotSet:
    """The spots of a file. n_shots : images it speaks of, those without spots too. pixel_mm : edge
    of a pixel. notes : sentences for the log."""

    spots: Spots
    n_shots: int
    pixel_mm: float
    notes: tuple[str, ...] = ()


def on_panels(detector: Detector, panel: NDArray[Any], x_px: Floats, y_px: Floats) -> Floats:
    """Positions (n, 3) in mm in the frame of the detector."""
    x, y = x_px * detector.pixel_mm[panel, 0], y_px * detector.pixel_mm[panel, 1]
    return np.asarray(
        detector.origin_mm[panel]
        + x[:, None] * detector.fast[panel]
        + y[:, None] * detector.slow[panel]
    )


def q_of(spots: Spots, centre_mm: Floats | None = None) -> Floats:
    """q (n,) in Å⁻¹. centre_mm : (2,) where the beam meets the detector, if not at x = y = 0."""
    p = spots.position_mm
    if centre_mm is not None:
        p = p - np.append(centre_mm, 0.0)
    direction = p / np.linalg.norm(p, axis=1, keepdims=True)
    return np.asarray(np.linalg.norm(direction - BEAM, axis=1) / spots.wavelength_A)
