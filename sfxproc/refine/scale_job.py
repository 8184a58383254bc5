"""A scaling or postrefining job under way: what it is given, and how it begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Merged, ReferenceSet
from sfxproc.formats.mtz_scaled import ScaledObservations
from sfxproc.intake.reading import Dataset, read_dataset
from sfxproc.intake.reference import require_overlap
from sfxproc.intake.selection import Inventory
from sfxproc.models.error_model import ErrorModel
from sfxproc.models.scale_start import ScaleProblem
from sfxproc.parallel.comm import Comm
from sfxproc.refine import scale_steps as steps
from sfxproc.report.log import Log
from sfxproc.results import tables as report
from sfxproc.runs.checkpoints import JobCheckpoint
from sfxproc.settings.scale import ScaleConfig
from sfxproc.settings.sections import Input


@dataclass(frozen=True, eq=False)
class ScaleJob:
    """A scaling job under way. threads : of this rank."""

    config: ScaleConfig
    comm: Comm
    log: Log
    checkpoint: JobCheckpoint
    inputs: Input
    reference: ReferenceSet | None
    threads: int


@dataclass(frozen=True, eq=False)
class Scaled:
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


def read_all(job: ScaleJob, columns: frozenset[str], oriented: bool = False) -> Dataset:
    """Read the inputs, each rank its share, and tell what there is."""
    config, comm, log = job.config, job.comm, job.log
    data = read_dataset(
        job.inputs, config.symmetry, config.selection, columns, comm, log, oriented, job.reference,
        config.corrections,
    )  # fmt: skip
    report.tell_data(data, log)
    if job.reference is not None:
        require_overlap(data, job.reference, config.symmetry)
    return data


def with_fixed(
    job: ScaleJob, data: Dataset, problem: ScaleProblem
) -> tuple[Dataset, NDArray[np.int64]]:
    """The data with the crystals marked that keep their start values; overlaps of all crystals."""
    own = problem.reasons, problem.n_overlaps
    reasons, n_overlaps = (job.comm.allgather_rows(a) for a in own)
    return steps.with_fixed(data, reasons, n_overlaps, problem.set_sizes, job.log), n_overlaps
