"""Half sets of crystals, for CC½ and R_split."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray


def half_of(identities: Sequence[str]) -> NDArray[np.int8]:
    """Half set, 0 or 1, of each crystal: the lowest bit of a BLAKE2b digest of its identity.

    A crystal's half depends on nothing but its own identity, so it is the same on any machine,
    for any number of ranks and whatever other crystals take part. Returns (n,) int8.
    """
    bits = (blake2b(i.encode(), digest_size=1).digest()[0] & 1 for i in identities)
    return np.fromiter(bits, dtype=np.int8, count=len(identities))
