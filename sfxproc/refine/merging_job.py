"""A scaling or postrefining job under way: what it is given, and how it begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Merged, Reason, ReferenceSet, Status
from sfxproc.errors import DataError
from sfxproc.formats.mtz_scaled import ScaledObservations
from sfxproc.intake.reading import Dataset, read_dataset
from sfxproc.intake.selection import Inventory
from sfxproc.intake.source import Intake
from sfxproc.models.error_model import ErrorModel
from sfxproc.models.postrefine import PostrefineModel
from sfxproc.models.scale import ScaleModel
from sfxproc.parallel.comm import Comm
from sfxproc.refine.refined import Fates
from sfxproc.report.log import Log
from sfxproc.results import tables as report
from sfxproc.runs.run import Run
from sfxproc.settings.scale import ScaleConfig
from sfxproc.settings.sections import Input


@dataclass(frozen=True, eq=False)
class MergingJob:
    """A scaling job under way."""

    config: ScaleConfig
    run: Run
    inputs: Input
    reference: ReferenceSet | None

    @property
    def comm(self) -> Comm:
        """All ranks."""
        return self.run.comm

    @property
    def log(self) -> Log:
        """Where the job reports to."""
        return self.run.log

    @property
    def threads(self) -> int:
        """Of this rank."""
        return self.run.threads


@dataclass(frozen=True, eq=False)
class MergingOutcome:
    """What scaling has to tell. frames : columns of frames.h5 by name; solver : plain numbers and
    text; scale_variance_error : relative, of what uncertain scales add to variances, NaN where
    not known. groups : a merge of each. unmerged : if wanted, on rank 0. models : how partiality
    models compared, if they were. pulls : of observations, in bins."""

    data: Inventory
    merged: Merged
    frames: Mapping[str, NDArray[Any]]
    solver: Mapping[str, Any]
    errors: ErrorModel
    scale_variance_error: float
    groups: Mapping[str, Merged] = field(default_factory=dict)
    unmerged: ScaledObservations | None = None
    models: Sequence[Mapping[str, Any]] = ()
    pulls: Mapping[str, Sequence[Mapping[str, float]]] = field(default_factory=dict)


def read_all(job: MergingJob, columns: frozenset[str], oriented: bool = False) -> Dataset:
    """Read the inputs, each rank its share, and tell what there is."""
    data = read_dataset(intake_of(job, columns, oriented), job.comm, job.log)
    report.tell_data(data, job.log)
    return data


def intake_of(job: MergingJob, columns: frozenset[str], oriented: bool) -> Intake:
    """What the job takes in. oriented : crystals need an orientation."""
    config = job.config
    return Intake(
        job.inputs,
        config.symmetry,
        config.selection,
        columns,
        config.corrections,
        oriented,
        job.reference,
        indexed=config.output.unmerged,
    )


InventoryT = TypeVar("InventoryT", bound=Inventory)


def with_start_scales(data: InventoryT, reasons: NDArray[np.uint8]) -> InventoryT:
    """The data with the crystals marked that keep their start scale, for the reason (n_crystals,)
    that each has."""
    status, reason = data.status.copy(), data.reason.copy()
    fixed = (status == Status.USED) & (reasons != Reason.NONE)
    status[fixed], reason[fixed] = Status.FIXED, reasons[fixed]
    return replace(data, status=status, reason=reason)


def tell_start_scales(data: Inventory, fates: Fates, log: Log) -> None:
    """Say how many crystals keep their start scale, and which sets have no scale in common.

    data : with them marked. Raises DataError if no crystal shares enough reflections with others to
    be scaled.
    """
    if not np.any(data.status == Status.USED):
        raise DataError(
            f"No crystal has enough reflections in common with the others to be scaled (the best "
            f"has {int(fates.n_overlaps.max(initial=0))}; scaling.min_overlaps asks for more). The "
            "data are too few, or symmetry.space_group is of too low symmetry."
        )
    fixed = int(np.count_nonzero(data.status == Status.FIXED))
    if fixed:
        log(
            f"{fixed:,} crystals keep their start scale: too few reflections in common "
            "with others, or no signal."
        )
    sets = [int(n) for n in fates.set_sizes if n > 1]
    if len(sets) > 1:
        log(
            f"WARNING: the crystals fall into {len(sets)} sets without any reflection in common "
            f"(of {', '.join(str(n) for n in sets[:5])} crystals{' …' if len(sets) > 5 else ''}). "
            "Each has a scale of its own, and their merged intensities cannot be compared; give a "
            "reference.path to join them."
        )


CrystalModel = ScaleModel | PostrefineModel
