"""Free-R flags that belong to the indices, not to a data set.

A flag is a hash (BLAKE2b) of the indices, 0 … 19, and 0 is the free set, 5 % of all, as CCP4 has
it. The indices are first replaced by the first of all those equivalent in the highest symmetry that
the lattice of the crystal system allows (its holohedry), Friedel's law included. Hence

- reflections related by a merohedral twin law or an indexing ambiguity share a flag;
- the same indices have the same flag in every data set of that setting, whatever its resolution,
  point group within the crystal system and completeness, as long as the seed is the same.

Twin laws that only a special cell allows (β = 90°, a = b) are not covered: the flags would then
depend on the cell. In hexagonal axes the holohedry is 6/mmm, also of rhombohedral lattices.
"""

from __future__ import annotations

from hashlib import blake2b
from itertools import product

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Ints, packed_hkl
from sfxproc.symmetry import SpaceGroup, reciprocal_matrix, symmetrised_cell

N_FLAGS = 20
GENERIC_CELL = (7.0, 11.0, 13.0, 81.0, 97.0, 106.0)


def free_flags(hkl: Ints, sg: SpaceGroup, seed: int = 0) -> NDArray[np.int32]:
    """Flags (n,) 0 … 19 of the indices hkl (n, 3); 0 is the free set."""
    return _hashed(_orbit(hkl, holohedry(sg)), N_FLAGS, seed)


def holohedry(sg: SpaceGroup) -> NDArray[np.int8]:
    """Rotations (m, 3, 3), h' = h R, proper and improper, of the lattice of the crystal system.

    They are the integer matrices that keep the metric of a cell with no other symmetry than the
    group asks for. In the axes of the setting; of conventional axes all elements are −1, 0 or 1.
    """
    orthogonal = np.linalg.inv(reciprocal_matrix(symmetrised_cell(sg, GENERIC_CELL))).T
    metric = orthogonal.T @ orthogonal
    candidates = np.array(list(product((-1, 0, 1), repeat=9)), dtype=np.int8).reshape(-1, 3, 3)
    image = np.einsum("mji,jk,mkl->mil", candidates, metric, candidates, optimize=True)
    same = np.all(np.abs(image - metric) < 1e-6 * metric.max(), axis=(1, 2))
    return candidates[same]


def _orbit(hkl: Ints, rotations: Ints) -> NDArray[np.int64]:
    """Packed indices (n,) of the first of the equivalents of each hkl (n, 3)."""
    wide = np.asarray(hkl, dtype=np.int64)
    first = packed_hkl(wide)
    for rotation in rotations:
        np.minimum(first, packed_hkl(wide @ rotation), out=first)
    return first


def _hashed(keys: NDArray[np.int64], n_flags: int, seed: int) -> NDArray[np.int32]:
    """A number 0 … n_flags − 1 for each key (n,), by key and seed alone."""
    unique, row = np.unique(keys.astype("<i8"), return_inverse=True)
    salt = str(seed).encode()[:64]
    digests = (blake2b(k.tobytes(), digest_size=8, key=salt).digest() for k in unique)
    bits = np.frombuffer(b"".join(digests), dtype="<u8")
    return (bits % np.uint64(n_flags)).astype(np.int32)[row]
