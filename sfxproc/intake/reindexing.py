"""Bringing crystals that could be indexed in several settings into one.

Without a reference a sample of the crystals is gathered on rank 0, which finds their settings;
every rank then compares the rest of its own with the sample's merge. With one all ranks compare
theirs with it. Each crystal is looked at on its own, so the result is the same at any number of
ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Crystals, Observations, ReferenceSet, Status, concatenate
from sfxproc.errors import ConfigError, DataError
from sfxproc.formats.inputs import missing_file
from sfxproc.formats.reference import read_any_reference
from sfxproc.intake.reference_group import in_group
from sfxproc.merging.ambiguity import (
    SIGNIFICANT,
    Choice,
    RankSums,
    decide,
    merged_ranks,
    ranks,
    resolve,
    trusted,
)
from sfxproc.parallel.comm import Comm
from sfxproc.report.log import Log
from sfxproc.settings.sections import Symmetry
from sfxproc.symmetry import (
    Reindexing,
    SpaceGroup,
    absent,
    cell_fits,
    reindexed_cells,
    reindexed_hkl,
    relative_settings,
    s_squared,
    same_laue_group,
    space_group,
    twin_operators,
    unique_keys,
)

F8 = NDArray[np.float64]
I8 = NDArray[np.int64]

SAMPLE_CRYSTALS, SAMPLE_ROWS = 2000, 4_000_000  # of the sample, at most
BATCH_ROWS = 1 << 20  # of crystals compared at a time
MIN_COMMON = 20  # reflections that crystals must have in common with a reference

MODEL_D_MIN_A = 2.0  # to which a reference is calculated from coordinates, without another limit


@dataclass(frozen=True, eq=False)
class Ambiguity:
    """What all ranks know. operators : of settings 1, 2 …; 0 is as indexed. cell : (6,)."""

    group: SpaceGroup
    cell: F8
    operators: tuple[Reindexing, ...]

    def keys(self, hkl: NDArray[Any]) -> I8:
        """(n, k) of the unique reflections that hkl (n, 3) are in each setting."""
        moved = (hkl, *(reindexed_hkl(hkl, operator) for operator in self.operators))
        return np.stack([unique_keys(self.group, h, False) for h in moved], axis=1)

    def ranks(self, start: I8, hkl: NDArray[Any], intensity: NDArray[Any]) -> F8:
        """(n,) ranks of observations, grouped by crystal."""
        return ranks(start, s_squared(hkl, self.cell), intensity)


@dataclass(frozen=True, eq=False)
class KnownMerge:
    """A merge to compare crystals with; keys (n_reflections,), sorted."""

    keys: I8
    sums: RankSums

    def rows(self, keys: I8) -> I8:
        """Where keys of any shape are in the merge; −1 for those that are not."""
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[at] == keys, at, -1)


@dataclass(frozen=True, eq=False)
class Reindexed:
    """Crystals, and this rank's observations of them, in one setting.

    columns : of frames.h5, `Inventory.found`. n_absent : (n_crystals,) observations of the whole
    job taken out because they are systematically absent in the new setting.
    """

    crystals: Crystals
    observations: Observations
    columns: Mapping[str, NDArray[Any]]
    n_absent: I8


def ambiguity_reference(symmetry: Symmetry, reference: ReferenceSet | None) -> ReferenceSet | None:
    """The set that settings are compared with: one of its own, else the job's. Raises InputError
    or ConfigError."""
    if symmetry.ambiguity_reference is None:
        return reference
    group = space_group(symmetry.space_group)
    return reference_in_group(symmetry.ambiguity_reference, "symmetry.ambiguity_reference", group)


def reference_in_group(
    name: str, setting: str, group: SpaceGroup, d_min_A: float | None = None
) -> ReferenceSet:
    """The reference that a setting names, in the job's own asymmetric unit; from coordinates it is
    calculated to d_min_A.

    Raises InputError if it cannot be read, ConfigError if its Laue group is another.
    """
    path = Path(name).expanduser()
    if not path.is_file():
        raise missing_file(path.absolute(), f"{setting}: '{path}'")
    reference = read_any_reference(path, d_min_A or MODEL_D_MIN_A)
    theirs = space_group(reference.space_group)
    if not same_laue_group(group, theirs):
        raise ConfigError(
            f"The reference '{reference.path}' has space group {theirs.hm} (Laue class "
            f"{theirs.laue_class}), the job {group.hm} ({group.laue_class}): their reflections "
            f"cannot be matched. Correct symmetry.space_group or choose another {setting}."
        )
    return replace(reference, space_group=group.hm, reflections=in_group(reference, group))


def operators_of(group: SpaceGroup, cell: F8, symmetry: Symmetry) -> tuple[Reindexing, ...]:
    """How crystals of the job may have to be reindexed; none where that is to be ignored."""
    if symmetry.ambiguity == "ignore":
        return ()
    return twin_operators(group, cell, symmetry.ambiguity_obliquity_deg)


def warn_unresolved(group: SpaceGroup, cell: F8, symmetry: Symmetry, log: Log) -> None:
    """Say so where crystals may be of several settings and nothing is done about it."""
    operators = operators_of(group, cell, symmetry)
    if operators:
        log(
            f"WARNING: crystals in {group.hm} with this cell may have been indexed in "
            f'{len(operators) + 1} settings ({_triplets(operators)}), which strategy "blocks" '
            'does not resolve. Resolve them before, use parallel.strategy = "global", or set '
            'symmetry.ambiguity = "ignore" if they are of one setting.'
        )


def in_one_setting(
    group: SpaceGroup, cell: F8, symmetry: Symmetry, crystals: Crystals,
    status: NDArray[np.uint8], observations: Observations, reference: ReferenceSet | None,
    comm: Comm, log: Log,
) -> Reindexed:  # fmt: skip
    """Decide on the setting of every crystal and reindex those that need it; collective.

    crystals, status : of the whole job. observations : usable ones that this rank has read, of
    whole crystals, `crystal` counted in the job. Nothing happens without operators. Raises
    DataError if the reference is of another cell or has too little in common.
    """
    n = len(crystals)
    operators = operators_of(group, cell, symmetry)
    if not operators:
        return Reindexed(crystals, observations, {}, np.zeros(n, dtype=np.int64))
    ambiguity = Ambiguity(group, cell, operators)
    if reference is None:
        choice = _among_themselves(ambiguity, observations, n, comm)
    else:
        _require_cell(reference, cell, symmetry)
        choice = _with_reference(ambiguity, observations, n, reference, comm)
    known = status != Status.LEFT_OUT
    if trusted(choice.margin[known], reference is not None):
        setting, seen = np.where(known, choice.setting, np.int8(0)), known
    else:
        setting, seen = np.zeros(n, dtype=np.int8), np.zeros(n, dtype=bool)
    _tell(ambiguity, setting, seen, choice.margin[known], reference, log)
    columns = {
        "reindexing": setting,
        "reindexing_cc": np.where(seen, choice.cc, np.nan),
        "reindexing_margin": np.where(seen, choice.margin, np.nan),
    }
    crystals = _moved_crystals(crystals, setting, operators)
    observations, n_absent = _moved_observations(observations, setting, ambiguity)
    return Reindexed(crystals, observations, columns, sum(comm.allgather(n_absent)))


def _tell(
    ambiguity: Ambiguity, setting: NDArray[np.int8], seen: NDArray[np.bool_], margin: F8,
    reference: ReferenceSet | None, log: Log,
) -> None:  # fmt: skip
    """What was found. margin : of the crystals in use."""
    names = _triplets(ambiguity.operators)
    against = "each other" if reference is None else f"'{reference.path}'"
    if not seen.any():
        log(
            f"WARNING: crystals in {ambiguity.group.hm} with this cell may have been indexed in "
            f"{len(ambiguity.operators) + 1} settings ({names}), but compared with {against} they "
            f"do not tell in which: the median margin is {np.median(margin):.1f} standard errors. "
            "All are left as indexed. Give symmetry.ambiguity_reference, or set "
            'symmetry.ambiguity = "ignore" if they are of one setting.'
        )
        return
    counts = np.bincount(setting[seen], minlength=len(ambiguity.operators) + 1)
    moved = ", ".join(
        f"{n:,} by {o.triplet}" for n, o in zip(counts[1:], ambiguity.operators, strict=True)
    )
    log(
        f"indexing ambiguity ({names}), crystals compared with {against}: of {len(margin):,} "
        f"crystals {counts[0]:,} stay as indexed, reindexed are {moved}; "
        f"{np.count_nonzero(margin < SIGNIFICANT):,} are uncertain (margin below "
        f"{SIGNIFICANT:g} standard errors; median {np.median(margin):.1f})"
    )


def _triplets(operators: tuple[Reindexing, ...]) -> str:
    return "; ".join(o.triplet for o in operators)


def _require_cell(reference: ReferenceSet, cell: F8, symmetry: Symmetry) -> None:
    tolerances = symmetry.length_tolerance_percent, symmetry.angle_tolerance_deg
    if not cell_fits(reference.cell[None], cell, *tolerances)[0]:
        raise DataError(
            f"The reference '{reference.path}' has the cell "
            f"{' '.join(f'{v:.2f}' for v in reference.cell)}, the data "
            f"{' '.join(f'{v:.2f}' for v in cell)}: another crystal form cannot tell in which "
            "setting crystals were indexed. Choose another reference, or widen "
            "symmetry.length_tolerance_percent and symmetry.angle_tolerance_deg."
        )


def _moved_crystals(
    crystals: Crystals, setting: NDArray[np.int8], operators: tuple[Reindexing, ...]
) -> Crystals:
    A, cell = crystals.A.copy(), crystals.cell.copy()
    for number, operator in enumerate(operators, 1):
        rows = setting == number
        A[rows], cell[rows] = reindexed_cells(A[rows], cell[rows], operator)
    return replace(crystals, A=A, cell=cell)


def _moved_observations(
    observations: Observations, setting: NDArray[np.int8], ambiguity: Ambiguity
) -> tuple[Observations, I8]:
    """This rank's observations in the new setting; those of each crystal that are absent there."""
    hkl, of_row = observations.hkl.copy(), setting[observations.crystal]
    for number, operator in enumerate(ambiguity.operators, 1):
        hkl[of_row == number] = reindexed_hkl(hkl[of_row == number], operator)
    gone = (of_row > 0) & absent(ambiguity.group, hkl)
    n_absent = np.bincount(observations.crystal[gone], minlength=len(setting))
    return replace(observations, hkl=hkl).take(~gone), n_absent


# ---- deciding --------------------------------------------------------------------------------


def _among_themselves(
    ambiguity: Ambiguity, observations: Observations, n_crystals: int, comm: Comm
) -> Choice:
    """Settings of all crystals without a reference."""
    counts = sum(comm.allgather(np.bincount(observations.crystal, minlength=n_crystals)))
    sampled = _sample(np.asarray(counts))
    inside = np.zeros(n_crystals, dtype=bool)
    inside[sampled] = True
    part = observations.take(inside[observations.crystal])
    gathered = [comm.gather_arrays(c) for c in (part.crystal, part.hkl, part.intensity)]
    merge, choice = comm.bcast(None if comm.rank else _resolved(ambiguity, sampled, gathered))
    found = _compared(ambiguity, observations.take(~inside[observations.crystal]), merge)
    return _everywhere([*comm.allgather(found), (sampled, choice)], n_crystals)


def _sample(counts: I8) -> I8:
    """Crystals (n,), ascending, that stand for all with observations (n_crystals,)."""
    order = np.random.default_rng(0).permutation(len(counts))
    order = order[counts[order] > 0][:SAMPLE_CRYSTALS]
    return np.sort(order[np.cumsum(counts[order]) <= SAMPLE_ROWS])


def _resolved(
    ambiguity: Ambiguity, sampled: I8, gathered: list[list[NDArray[Any]] | None]
) -> tuple[KnownMerge, Choice]:
    """The merge of the sample and its settings, from the columns of all ranks."""
    crystal, hkl, intensity = (np.concatenate(parts) for parts in gathered if parts is not None)
    order = np.argsort(crystal, kind="stable")
    hkl, intensity = hkl[order], intensity[order]
    start = np.searchsorted(crystal[order], np.append(sampled, len(crystal) + sampled[-1] + 1))
    unique, row = np.unique(ambiguity.keys(hkl), return_inverse=True)
    choice, sums = resolve(
        start, row.reshape(len(hkl), -1), ambiguity.ranks(start, hkl, intensity), len(unique),
        relative_settings(ambiguity.group, ambiguity.operators),
    )  # fmt: skip
    return KnownMerge(unique, sums), choice


def _with_reference(
    ambiguity: Ambiguity, observations: Observations, n_crystals: int, reference: ReferenceSet,
    comm: Comm,
) -> Choice:  # fmt: skip
    """Settings of all crystals compared with a reference."""
    theirs = reference.reflections
    assert theirs.intensity is not None
    sums = merged_ranks(theirs.s2, theirs.intensity)
    merge = KnownMerge(unique_keys(ambiguity.group, theirs.hkl, False), sums)
    seen = np.unique(merge.rows(unique_keys(ambiguity.group, observations.hkl, False)))
    n_common = np.count_nonzero(np.unique(comm.allgather_rows(seen)) >= 0)
    if n_common < MIN_COMMON:
        raise DataError(
            f"The reference '{reference.path}' has {n_common} reflections in common with the data, "
            "too few to decide between the settings in which crystals may have been indexed "
            f"({_triplets(ambiguity.operators)}). Choose another set, other limits in [selection], "
            'or set symmetry.ambiguity = "ignore".'
        )
    return _everywhere(comm.allgather(_compared(ambiguity, observations, merge)), n_crystals)


def _compared(
    ambiguity: Ambiguity, observations: Observations, merge: KnownMerge
) -> tuple[I8, Choice]:
    """Crystals that this rank has observations of, and the settings in which they agree with a
    merge that they are not part of."""
    crystals, first = np.unique(observations.crystal, return_index=True)
    start = np.append(first, len(observations)).astype(np.int64)
    cuts = np.searchsorted(start, np.arange(BATCH_ROWS, len(observations), BATCH_ROWS))
    choices = []
    for a, b in pairwise([0, *cuts.tolist(), len(crystals)]):
        table, own = observations.take(slice(start[a], start[b])), start[a : b + 1] - start[a]
        z = ambiguity.ranks(own, table.hkl, table.intensity)
        choices.append(decide(own, merge.rows(ambiguity.keys(table.hkl)), z, merge.sums))
    return crystals.astype(np.int64), concatenate(choices)


def _everywhere(parts: list[tuple[I8, Choice]], n_crystals: int) -> Choice:
    """The settings of all crystals from parts for some; zeros for those in none."""
    crystals = np.concatenate([rows for rows, _ in parts])
    columns = {}
    for name, values in concatenate([choice for _, choice in parts]).columns().items():
        columns[name] = np.zeros(n_crystals, dtype=values.dtype)
        columns[name][crystals] = values
    return Choice(**columns)
