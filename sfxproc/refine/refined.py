"""What a refined problem is to the rest of a job, whichever strategy refines it.

Arrays of crystals are of the whole job, (n_crystals,) in the order of the files, those of
reflections (n_reflections,). All ranks call alike; what only the first one needs, the others do not
get.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import ReflectionSums
from sfxproc.formats.mtz_scaled import ScaledObservations
from sfxproc.models.agreement import Agreement
from sfxproc.models.error_model import ErrorModel

F8 = NDArray[np.float64]
I1 = NDArray[np.int8]
I4 = NDArray[np.int32]
I8 = NDArray[np.int64]
U1 = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Fates:
    """What became of crystals before any was judged.

    start_scale : why a crystal keeps its start scale, NONE for most. n_overlaps : its reflections
    that others show. lost : those whose task failed. set_sizes : crystals of each set that hangs
    together, the largest first.
    """

    start_scale: U1
    n_overlaps: I8
    lost: Mask
    set_sizes: I8


@dataclass(frozen=True, eq=False)
class Uncertain:
    """The crystals' parameters by name with what is uncertain about them.

    local, sigma : (n_crystals, p). columns : of frames.h5, what else follows from the parameters.
    variance : (n_reflections,) what uncertain crystals add to the variance of an intensity;
    variance_error : its relative error, NaN where not known.
    """

    parameters: tuple[str, ...]
    local: F8
    sigma: F8
    columns: Mapping[str, NDArray[Any]]
    variance: F8
    variance_error: float


@dataclass(frozen=True, eq=False)
class Sums:
    """What merging needs, at the final point.

    merges : sums of each merge that was asked for. crystal_cc : (n_crystals,) correlation with the
    first one. pulls_by_intensity, pulls_by_partiality : (bins, 4) as of ScaleModel.pulls_in_bins.
    """

    merges: tuple[ReflectionSums, ...]
    crystal_cc: F8
    uncertain: Uncertain
    pulls_by_intensity: F8
    pulls_by_partiality: F8


class Refined(Protocol):
    """Crystals and intensities as they are refined so far; what changes them returns new ones."""

    @property
    def errors(self) -> ErrorModel:
        """The error model."""

    @property
    def fates(self) -> Fates:
        """What became of crystals before any was judged."""

    @property
    def in_use(self) -> Mask:
        """(n_crystals,) whose parameters are refined."""

    @property
    def shared(self) -> F8:
        """(n_reflections,) the intensities."""

    @property
    def set_of_reflection(self) -> I4:
        """(n_reflections,) the set each is in; sets have no scale in common."""

    @property
    def n_sets(self) -> int:
        """How many there are."""

    def agreement(self, half: I1) -> Agreement | None:
        """How all crystals agree with the merge of the others, on rank 0. half : (n_crystals,) half
        sets, −1 for those left out."""

    def without(self, crystals: Mask, refit: bool = True) -> Self:
        """The same without some crystals. refit : whether the error model is found anew then."""

    def continued(self, name: str) -> Self:
        """Refined further, from where it is. name : of this, in a checkpoint."""

    def to_zero_mean(self) -> F8:
        """(n_sets, 2) what brings mean ln G and B of the crystals of each set to zero."""

    def towards(self, other: Self, crystals: Mask) -> F8:
        """(n_sets, 2) what brings the mean ln G and B of some crystals of each set to those of
        another refinement."""

    def shifted(self, shift: F8) -> Self:
        """With ln G and B of each set changed by shift (n_sets, 2), the intensities to match."""

    def weighted_sums(self, half: I1) -> F8:
        """(6, n_reflections) of models.scale_merge, on all ranks."""

    def sums(self, halves: I1) -> Sums | None:
        """What merging needs, on rank 0. halves : (k, n_crystals) half sets of each merge, −1 for
        crystals that are not in it."""

    def scaled_observations(self, half: I1) -> ScaledObservations | None:
        """All observations of crystals with a half set (n_crystals,), scaled, on rank 0; `crystal`
        is that of the job, in whose order they are."""

    def summary(self) -> Mapping[str, Any]:
        """Plain numbers and text on how it was solved, for statistics.json."""
