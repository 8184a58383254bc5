"""Overlapping blocks of crystals in a seeded order, and the segments that make them up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ORDER = 1  # tells this random stream from others of the same seed


@dataclass(frozen=True, eq=False)
class Blocks:
    """Which crystals each block holds, by their position in a shuffled order.

    order : (n,) int64, the crystals 0 … n − 1 as shuffled. segments : (n_segments + 1,) int64,
    borders in the order: each crystal is in one segment. blocks : (n_blocks, 2) int64, first and
    last + 1 segment of each block.
    """

    order: NDArray[np.int64]
    segments: NDArray[np.int64]
    blocks: NDArray[np.int64]

    @property
    def bounds(self) -> NDArray[np.int64]:
        """(n_blocks, 2) first and last + 1 position of each block in the order."""
        return np.asarray(self.segments[self.blocks])


def plan_blocks(n: int, size: int, overlap: int, seed: int) -> Blocks:
    """Cut n crystals into blocks of `size`, each with `overlap` of the one before it.

    The last block is moved back where it would be smaller, so it may overlap by more. If there are
    no more than `size` crystals, one block holds them all. Raises ValueError for n or size below 1
    and for an overlap that is negative or not smaller than size.
    """
    if n < 1 or not 0 <= overlap < size:
        raise ValueError(f"no blocks of {size} with overlap {overlap} from {n} crystals")
    last = max(n - size, 0)
    starts = np.append(np.arange(0, last, size - overlap), last)
    bounds = np.stack([starts, np.minimum(starts + size, n)], axis=1)
    segments = np.unique(bounds)
    order = np.random.default_rng((seed % (1 << 64), ORDER)).permutation(n)
    return Blocks(order, segments, np.searchsorted(segments, bounds))
