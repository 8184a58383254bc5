"""True intensities: drawn from Wilson's statistics, or those of a given set.

    I = ε exp(−2 B s²) E²        E² ~ exponential (acentric), χ² of one degree (centric)
    I(±) = I (1 ± ½ f z)         z ~ normal: f is the r.m.s. of (I(+) − I(−))/I

(Wilson, Acta Cryst. 2, 318, 1949.) Draws are a hash of the seed and the Miller indices
(`kernels.splitmix64`), so a reflection's intensity depends neither on the
resolution limits nor on the order.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfxproc.data import Floats, ReferenceSet, Reflections, packed_hkl
from sfxproc.errors import DataError
from sfxproc.kernels.splitmix64 import GOLDEN, mixed
from sfxproc.symmetry import SpaceGroup, possible, unique_keys

MAX_RELATIVE_HALF_DIFFERENCE = 0.9  # keeps I(−) and I(+) positive


def wilson(table: Reflections, wilson_B_A2: float, seed: int) -> Floats:
    """Intensities (n,) of a table with ⟨I⟩ = ε exp(−2 B s²), the same for Friedel mates."""
    keys = packed_hkl(table.hkl)
    u = _uniform(seed, 0, keys)
    normal = _normal(seed, 1, keys)
    e2 = np.where(table.centric, normal**2, -np.log(u))
    return np.asarray(table.epsilon * np.exp(-2.0 * wilson_B_A2 * table.s2) * e2)


def anomalous_factor(table: Reflections, fraction: float, seed: int) -> Floats:
    """I(±)/I (n,) for an r.m.s. of (I(+) − I(−))/I of `fraction`; 1 where friedel is 0."""
    half = 0.5 * fraction * _normal(seed, 3, packed_hkl(table.hkl))
    limit = MAX_RELATIVE_HALF_DIFFERENCE
    return np.asarray(1.0 + table.friedel * np.clip(half, -limit, limit))


def true_reflections(
    sg: SpaceGroup,
    cell: ArrayLike,
    d_min_A: float,
    d_max_A: float,
    wilson_B_A2: float,
    anomalous_fraction: float,
    seed: int,
    reference: ReferenceSet | None,
) -> tuple[NDArray[np.int64], Reflections, Floats]:
    """Sorted keys, table and intensities of all reflections the crystals can show.

    With a reference, only its reflections: negative intensities become 0. Friedel mates are
    separate if anomalous_fraction > 0. Raises DataError if nothing is left.
    """
    anomalous = anomalous_fraction > 0
    table = possible(sg, cell, d_min_A, d_max_A, anomalous)
    keys = unique_keys(sg, table.hkl, False) + np.where(table.friedel < 0, 2, table.friedel)
    if reference is None:
        intensity = wilson(table, wilson_B_A2, seed)
    else:
        given, value = _averaged(sg, reference)
        row = np.searchsorted(given, keys >> 2)
        row[row == len(given)] = 0
        known = given[row] == keys >> 2 if len(given) else np.zeros(len(keys), dtype=bool)
        if not known.any():
            raise DataError(
                f"{reference.path} holds no intensity of space group {sg.hm} between {d_min_A} "
                f"and {d_max_A} Å. Give another file, or other limits."
            )
        table, keys = table.take(known), keys[known]
        intensity = np.maximum(value[row[known]], 0.0)
    if len(table) == 0:
        raise DataError(
            f"There is no reflection between {d_min_A} and {d_max_A} Å. Widen the limits."
        )
    return keys, table, intensity * anomalous_factor(table, anomalous_fraction, seed)


def _averaged(sg: SpaceGroup, reference: ReferenceSet) -> tuple[NDArray[np.int64], Floats]:
    """Packed indices (sorted, in the group's own asymmetric unit) and mean intensities."""
    rows = reference.reflections
    if rows.intensity is None:
        return np.zeros(0, dtype=np.int64), np.zeros(0)
    finite = np.isfinite(rows.intensity)
    keys = unique_keys(sg, rows.hkl[finite], False) >> 2
    unique, row = np.unique(keys, return_inverse=True)
    count = np.bincount(row, minlength=len(unique))
    return unique, np.bincount(row, rows.intensity[finite], len(unique)) / count


def _uniform(seed: int, stream: int, keys: NDArray[np.int64]) -> Floats:
    """Numbers in (0, 1), a function of seed, stream and key alone."""
    start = np.array([(seed * 8 + stream) % (1 << 64)], dtype=np.uint64)
    bits = mixed((mixed(keys.astype(np.uint64) + GOLDEN) ^ mixed(start + GOLDEN)) + GOLDEN)
    return np.asarray(((bits >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52)


def _normal(seed: int, stream: int, keys: NDArray[np.int64]) -> Floats:
    """Standard normal numbers from streams `stream` and `stream` + 1 (Box–Muller)."""
    radius = np.sqrt(-2.0 * np.log(_uniform(seed, stream, keys)))
    return np.asarray(radius * np.cos(2.0 * np.pi * _uniform(seed, stream + 1, keys)))
