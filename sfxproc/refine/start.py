"""Crystals that begin where an earlier job left them: `[start] frames`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Reason
from sfxproc.errors import DataError
from sfxproc.formats.frames import read_frames
from sfxproc.formats.inputs import missing_file
from sfxproc.intake.reading import Dataset
from sfxproc.lsq import Point
from sfxproc.models.parameters import named
from sfxproc.models.postrefine import PostrefineModel
from sfxproc.models.scale import B, ScaleModel
from sfxproc.refine.judge import Judge
from sfxproc.refine.merging_job import MergingJob

F8 = NDArray[np.float64]
ModelT = TypeVar("ModelT", ScaleModel, PostrefineModel)


@dataclass(frozen=True, eq=False)
class Earlier:
    """Parameters of this rank's crystals as an earlier job found them.

    known : (n_own,) whether it did. local : (n_own, p), NaN where not known.
    """

    known: NDArray[np.bool_]
    local: F8


def earlier(job: MergingJob, data: Dataset, parameters: Sequence[str]) -> Earlier | None:
    """What `start.frames` says of this rank's crystals; None if the job begins anew.

    Crystals are known by file and event. Raises InputError if the file cannot be read, DataError if
    it has none of the crystals.
    """
    name = job.config.start.frames
    if name is None:
        return None
    told = None
    if job.comm.rank == 0:
        path = Path(name).expanduser()
        if path.is_dir():
            path = path / "frames.h5"
        if not path.is_file():
            raise missing_file(path.absolute(), f"start.frames: '{path}'")
        frames = read_frames(path)
        told = frames.crystals.identity, local_of(frames.columns, parameters, len(frames.crystals))
    identities, values = job.comm.bcast(told)
    row_of = {identity: n for n, identity in enumerate(identities)}
    rows = np.array([row_of.get(i, -1) for i in data.own_crystals.identity], dtype=np.int64)
    local = np.where((rows >= 0)[:, None], values[rows], np.nan)
    known: NDArray[np.bool_] = np.all(np.isfinite(local[:, : B + 1]), axis=1)
    n = sum(job.comm.allgather(int(known.sum())))
    if n == 0:
        raise DataError(
            f"start.frames: '{name}' has none of this job's crystals, which are known by file and "
            f"event, for example '{data.crystals.identity[0]}'. Give the frames.h5 of a job on the "
            "same files."
        )
    job.log(f"{n:,} of {len(data.crystals):,} crystals begin where '{name}' has them")
    return Earlier(known, np.where(known[:, None], local, np.nan))


def local_of(columns: Mapping[str, NDArray[Any]], parameters: Sequence[str], n: int) -> F8:
    """(n, p) parameters of all crystals from the columns of a frames.h5; NaN where it has none."""
    out = np.full((n, len(parameters)), np.nan)
    for number, parameter in enumerate(named(parameters)):
        if parameter.column in columns:
            column = np.asarray(columns[parameter.column], dtype=np.float64)
            out[:, number] = parameter.unit.read(column)
    return out


def as_earlier(
    found: Earlier | None, job: MergingJob, model: ModelT, start: Point, judge: Judge
) -> tuple[ModelT, Point]:
    """The model and its start with crystals where they were, held there unless they are to be
    refined again; those that are not known are then left out."""
    if found is None:
        return model, start
    local = np.where(np.isfinite(found.local), found.local, start.local)
    if not job.config.start.refine:
        known = job.comm.allgather(found.known)
        before = sum(len(own) for own in known[: job.comm.rank])
        unknown = ~np.concatenate(known) & (judge.half >= 0)
        judge.leave_out(np.where(unknown, np.uint8(Reason.NOT_REFINED_BEFORE), Reason.NONE))
        model = model.without(unknown[before : before + len(found.known)]).held()
    return model, Point(local, start.shared)
