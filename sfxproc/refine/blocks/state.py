"""What is known of a refinement in blocks, phase by phase; tasks see it as it stands.

    Surveyed → Common → Comparison, Merging

Arrays of crystals are in the order of the blocks, (n,) for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sfxproc.lsq import Point
from sfxproc.models.error_model import ErrorModel
from sfxproc.models.scale import B, shifted
from sfxproc.models.scale_start import Facts

F8 = NDArray[np.float64]
I1 = NDArray[np.int8]
I4 = NDArray[np.int32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Surveyed:
    """What the whole job tells before anything is refined.

    of_crystal (n,), of_reflection (n_reflections,) : the set that hangs together by common
    reflections each is in, −1 for none. absent : (n,) crystals that take no part any more: left out
    for what they showed, or of segments that were set aside.
    """

    facts: Facts
    of_crystal: I4
    of_reflection: I4
    absent: Mask

    @property
    def n_sets(self) -> int:
        """How many sets there are."""
        return 1 + max(int(a.max(initial=0)) for a in (self.of_crystal, self.of_reflection))


@dataclass(frozen=True, eq=False)
class Common:
    """The point that all blocks have in common.

    local : (n, p). shared, D, q : (n_reflections,), D and q curvature and reduced gradient of the
    whole job there, q None before a round has found it. refined : (n,) whose scale is. pulled :
    (n,) how far ln G is from where the prior of its block has it. centre : (n, p) of priors, None
    where they are the scaling model's own.
    """

    survey: Surveyed
    errors: ErrorModel
    local: F8
    shared: F8
    refined: Mask
    pulled: F8
    D: F8
    q: F8 | None = None
    centre: F8 | None = None

    def point(self, first: int, last: int) -> Point:
        """The point of the crystals first … last − 1."""
        return Point(self.local[first:last], self.shared)

    def to_zero_mean(self, crystals: Mask | bool = True) -> F8:
        """(n_sets, 2) what brings mean ln G and B of some crystals of each set to zero."""
        sets = self.survey.of_crystal
        inside = crystals & (sets >= 0) & ~self.survey.absent
        return -self._means(self.local, inside)

    def towards(self, other: Common, crystals: Mask) -> F8:
        """(n_sets, 2) what brings mean ln G and B of some crystals of each set to those of another
        point."""
        inside = crystals & (self.survey.of_crystal >= 0)
        return self._means(other.local[:, : B + 1] - self.local[:, : B + 1], inside)

    def _means(self, values: F8, inside: Mask) -> F8:
        sets, n_sets = self.survey.of_crystal, self.survey.n_sets
        total = np.zeros((n_sets, 2))
        np.add.at(total, sets[inside], values[inside, : B + 1])
        count = np.bincount(sets[inside], minlength=n_sets)
        return np.asarray(total / np.maximum(count, 1)[:, None])

    def shifted(self, shift: F8, s2: F8) -> Common:
        """The point with ln G and B of each set changed by shift (n_sets, 2), and the intensities,
        of s2 (n_reflections,), to match."""
        sets = self.survey.of_crystal, self.survey.of_reflection
        point = shifted(Point(self.local, self.shared), shift, *sets, s2)
        return replace(self, local=point.local, shared=point.shared)

    def without(self, crystals: Mask) -> Common:
        """The same, some crystals (n,) absent from now on."""
        survey = replace(self.survey, absent=self.survey.absent | crystals)
        return replace(self, survey=survey, refined=self.refined & ~crystals)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Crystals about to be compared with the merge of the others. half : (n,) half sets, −1 for
    those left out. moments : (4, n_reflections) of models.agreement, once they are known."""

    common: Common
    half: I1
    moments: F8 | None = None


@dataclass(frozen=True, eq=False)
class Merging:
    """Crystals about to be merged. halves : (k, n) half sets of each merge, −1 for crystals that
    are not in it. means : (k, n_reflections) merged intensities, once they are known."""

    common: Common
    halves: I1
    means: F8 | None = None
