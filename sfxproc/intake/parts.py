"""Observations of a part of the crystals: which are selected, brought into one setting, counted.

A part is some whole crystals of the job, whatever makes it one: what a rank holds in memory, or
some millions of rows on disk. What is found of a part is small and does not depend on how the
crystals are parted: numbers by crystal, sets of reflections, counts by reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Ints, Observations, Reason, Status, concatenate
from sfxproc.intake.selection import N_REASONS
from sfxproc.settings.sections import Selection
from sfxproc.symmetry import Reindexing, SpaceGroup, absent, reindexed_hkl, s_squared, unique_keys

F8 = NDArray[np.float64]
I8 = NDArray[np.int64]
U1 = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Criteria:
    """By what observations are selected, as decided on rank 0; the same on every rank.

    cell : (6,). anomalous : whether Friedel mates are kept apart. first : (n_files + 1,) first
    crystal of each input in the job, and the number of crystals. status : (n_crystals,) after the
    check of cells.
    """

    space_group: SpaceGroup
    cell: F8
    anomalous: bool
    selection: Selection
    first: I8
    status: U1


@dataclass(frozen=True, eq=False)
class CrystalSettings:
    """In which setting each crystal was indexed. setting : (n_crystals,) int8, 0 as indexed.
    operators : that bring a crystal of setting 1, 2 … into the one of all."""

    setting: NDArray[np.int8]
    operators: tuple[Reindexing, ...]


@dataclass(frozen=True, eq=False)
class PartCounts:
    """How many observations of a part are selected.

    crystals : (k,) int64 of the job, increasing. n_observations : (k,) int64 selected ones.
    too_few : (k,) whether a crystal is left out for having too few. left_out : (N_REASONS,) int64.
    """

    crystals: I8
    n_observations: I8
    too_few: Mask
    left_out: I8


@dataclass(frozen=True, eq=False)
class PartSummary(PartCounts):
    """What is found of a part in the end. keys : (n,) int64, sorted: its unique reflections."""

    keys: I8


@dataclass(frozen=True, eq=False)
class Part:
    """The selected observations of some whole crystals; `crystal` counts in the job."""

    observations: Observations
    counts: PartCounts


def selected(table: Observations, first: int, last: int, criteria: Criteria) -> Part:
    """What is selected of the crystals first … last − 1 of the job.

    table : all observations of these, `crystal` counted from the first of them.
    """
    status = criteria.status[first:last]
    table, left_out = usable(table, status, criteria)
    n = np.bincount(table.crystal, minlength=last - first).astype(np.int64)
    few = too_few(status, n, criteria.selection)
    status = np.where(few, np.uint8(Status.LEFT_OUT), status)
    table, with_crystals = of_kept_crystals(table, status)
    counts = PartCounts(
        np.arange(first, last),
        np.where(status == Status.LEFT_OUT, 0, n),
        few,
        left_out + with_crystals,
    )
    return Part(replace(table, crystal=(table.crystal + first).astype(np.int32)), counts)


def joined(parts: Sequence[Part]) -> Part:
    """One part of several, in the order of their crystals."""
    counts = [part.counts for part in parts]
    return Part(
        concatenate([part.observations for part in parts]),
        PartCounts(
            np.concatenate([c.crystals for c in counts]),
            np.concatenate([c.n_observations for c in counts]),
            np.concatenate([c.too_few for c in counts]),
            np.sum([c.left_out for c in counts], axis=0),
        ),
    )


def in_settings(part: Part, settings: CrystalSettings, group: SpaceGroup) -> Part:
    """The part with all its crystals in one setting, and without observations that are
    systematically absent there."""
    table, counts = part.observations, part.counts
    of_row = settings.setting[table.crystal]
    if not of_row.any():
        return part
    hkl = table.hkl.copy()
    for number, operator in enumerate(settings.operators, 1):
        hkl[of_row == number] = reindexed_hkl(hkl[of_row == number], operator)
    gone = (of_row > 0) & absent(group, hkl)
    at = np.searchsorted(counts.crystals, table.crystal[gone])
    left_out = counts.left_out.copy()
    left_out[Reason.SYSTEMATIC_ABSENCE] += len(at)
    n_absent = np.bincount(at, minlength=len(counts.crystals))
    counts = replace(counts, n_observations=counts.n_observations - n_absent, left_out=left_out)
    return Part(replace(table, hkl=hkl).take(~gone), counts)


def keys_of(part: Part, criteria: Criteria) -> I8:
    """(n,) the unique reflection that each observation is one of."""
    return unique_keys(criteria.space_group, part.observations.hkl, criteria.anomalous)


def summary_of(part: Part, keys: I8) -> PartSummary:
    """What is told of a part. keys : of its reflections, sorted."""
    counts = part.counts
    of_crystals = counts.crystals, counts.n_observations, counts.too_few
    return PartSummary(*of_crystals, counts.left_out, keys)


# ---- rows ------------------------------------------------------------------------------------


def usable(table: Observations, status: U1, criteria: Criteria) -> tuple[Observations, I8]:
    """Rows without a reason against them, and how many each reason took.

    status : of the crystals that `table.crystal` counts.
    """
    selection = criteria.selection
    reason = np.full(len(table), Reason.NONE, dtype=np.uint8)

    def mark(rows: Mask, why: Reason) -> None:
        reason[rows & (reason == Reason.NONE)] = why

    d = 0.5 / np.sqrt(np.maximum(s_squared(table.hkl, criteria.cell), 1e-12))
    mark(status[table.crystal] == Status.LEFT_OUT, Reason.CRYSTAL_LEFT_OUT)
    mark(~np.isfinite(table.intensity) | ~np.isfinite(table.variance), Reason.NOT_FINITE)
    with np.errstate(invalid="ignore"):
        mark(table.variance <= 0, Reason.VARIANCE_NOT_POSITIVE)
    mark(absent(criteria.space_group, table.hkl), Reason.SYSTEMATIC_ABSENCE)
    if selection.d_min_A is not None:
        mark(d < selection.d_min_A, Reason.BELOW_D_MIN)
    if selection.d_max_A is not None:
        mark(d > selection.d_max_A, Reason.ABOVE_D_MAX)
    if table.partiality is not None:
        mark(~(table.partiality > selection.min_partiality), Reason.PARTIALITY_TOO_LOW)
    left_out = np.bincount(reason, minlength=N_REASONS)
    left_out[Reason.NONE] = 0
    return table.take(reason == Reason.NONE), left_out


def too_few(status: U1, n_usable: I8, selection: Selection) -> Mask:
    """Which of the crystals in use have fewer usable observations than selection asks for."""
    return np.asarray((status == Status.USED) & (n_usable < selection.min_observations))


def of_kept_crystals(table: Observations, status: U1) -> tuple[Observations, I8]:
    """Rows of crystals that are not left out, and how many are left out with theirs."""
    kept = status[table.crystal] != Status.LEFT_OUT
    left_out = np.zeros(N_REASONS, dtype=np.int64)
    left_out[Reason.CRYSTAL_LEFT_OUT] = len(kept) - np.count_nonzero(kept)
    return table.take(kept), left_out


def sort_order(crystal: Ints, reflection: Ints, n_reflections: int) -> NDArray[np.intp]:
    """The order by crystal, then reflection; equal ones stay as they are."""
    return np.argsort(crystal.astype(np.int64) * n_reflections + reflection, kind="stable")
