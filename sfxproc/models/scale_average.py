"""Averages of what overlapping blocks of crystals find, each in a gauge of its own.

A block's scales are free up to ln G + ln k and B + b, its intensities then I·exp(2 b s² − ln k).
Before it is averaged it is put on the scale of what is already there, by the reflections strong in
both:

    ln I_there − ln I_block = 2 b s² − ln k,   weights 1/(σ²/I² + σ′²/I′²)

Averages carry the information of each block: D_h for an intensity, the diagonal of C_m for ln G and
B. What else a crystal has (orientation, size) is taken from the last block that holds it: where two
blocks found different minima, their mean would be in neither. Blocks are added one by one in a
fixed order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxproc.lsq import Point
from sfxproc.models.scale import B, shifted

F8 = NDArray[np.float64]

STRONG = 3.0  # I/σ in both of reflections that tell the scale
FEWEST = 10  # of these, to tell B too


@dataclass(frozen=True, eq=False)
class BlockSolution:
    """What a block found. local, information : (n_block, p). shared, D : (n_shared,), D = 0 where
    the block has no observation. of_crystal (n_block,), of_reflection (n_shared,) : which set that
    hangs together in the block each is in, −1 for none."""

    local: F8
    information: F8
    shared: F8
    D: F8
    of_crystal: Any
    of_reflection: Any


class Averaging:
    """Running averages over blocks. begin : (n_crystals, p) of crystals that no block holds.
    `reference`, with its D, is what blocks are aligned on from the start, if there is one.
    b_factor : whether B is refined; without, only ln G is aligned."""

    def __init__(
        self,
        begin: F8,
        s2: F8,
        reference: Point | None = None,
        D: F8 | None = None,
        b_factor: bool = True,
    ) -> None:
        self.s2, self._b_factor = s2, b_factor
        self._reference = reference, D
        self._local = begin.copy()
        self._scales = np.zeros((2, len(begin), B + 1))  # Σ w x, Σ w, of ln G and B
        self._shared = np.zeros((3, len(s2)))  # Σ D I, Σ D, Σ D I²
        self._n = np.zeros(len(s2))

    def add(self, first: int, block: BlockSolution) -> None:
        """A block whose crystals are first, first + 1, …"""
        there, information = self._aligned_on()
        n_sets = 1 + max(block.of_crystal.max(initial=-1), block.of_reflection.max(initial=-1))
        shift = np.zeros((max(n_sets, 1), 2))
        for number in range(n_sets):
            inside = block.of_reflection == number
            both = block.D[inside], information[inside]
            shift[number] = gauge_between(
                block.shared[inside], there[inside], *both, self.s2[inside], self._b_factor
            )
        point = Point(block.local, block.shared)
        seen = np.maximum(block.of_reflection, 0)
        moved = shifted(point, shift, block.of_crystal, seen, self.s2)
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = np.where(point.shared != 0.0, point.shared / moved.shared, 1.0)
        D = block.D * factor**2
        rows = slice(first, first + len(block.local))
        weight = block.information[:, : B + 1]
        self._scales[0, rows] += weight * moved.local[:, : B + 1]
        self._scales[1, rows] += weight
        self._local[rows, B + 1 :] = moved.local[:, B + 1 :]
        self._shared += [D * moved.shared, D, D * moved.shared**2]
        self._n += D > 0.0

    def _aligned_on(self) -> tuple[F8, F8]:
        reference, D = self._reference
        if reference is not None and D is not None:
            return reference.shared, D
        return _ratio(*self._shared[:2]), self._shared[1]

    def point(self) -> Point:
        """The averages; scales and intensities that no block tells are 0."""
        local = self._local.copy()
        local[:, : B + 1] = _ratio(*self._scales)
        return Point(local, _ratio(*self._shared[:2]))

    def information(self) -> F8:
        """(n_shared,) Σ D of the averaged intensities."""
        return np.asarray(self._shared[1])

    def disagreement(self) -> float:
        """Root mean square of (I_block − average)/σ_block over blocks and reflections."""
        total, weight, squares = self._shared
        excess = np.maximum(squares - _ratio(total, weight) * total, 0.0)
        several = self._n > 1.0
        return float(np.sqrt(excess[several].sum() / max(self._n[several].sum(), 1.0)))


def gauge_between(block: F8, there: F8, D: F8, D_there: F8, s2: F8, b_factor: bool = True) -> F8:
    """(ln k, b) that puts a block's intensities on the scale of those there; zero if nothing tells
    it, b = 0 if too little or not wanted."""
    strong = (block * np.sqrt(D) > STRONG) & (there * np.sqrt(D_there) > STRONG)
    if not strong.any():
        return np.zeros(2)
    block, there, s2 = block[strong], there[strong], s2[strong]
    w = 1.0 / (1.0 / (D[strong] * block**2) + 1.0 / (D_there[strong] * there**2))
    y = np.log(there / block)
    mean_y, mean_x = np.average(y, weights=w), np.average(s2, weights=w)
    spread = np.sum(w * (s2 - mean_x) ** 2)
    slope = 0.0
    if b_factor and len(y) >= FEWEST and spread > 0.0:
        slope = float(np.sum(w * (s2 - mean_x) * y) / spread)
    return np.array([slope * mean_x - mean_y, 0.5 * slope])


def _ratio(total: F8, weight: F8) -> F8:
    """total/weight, 0 where there is no weight."""
    return np.divide(total, weight, out=np.zeros_like(total), where=weight > 0.0)
