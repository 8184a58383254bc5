"""Bringing crystals that could be indexed in several settings into one.

Without a reference a sample of the crystals is gathered on rank 0, which finds their settings; the
others are then compared with the sample's merge, part by part. With a reference all are compared
with it. Each crystal is looked at on its own, so the result depends neither on the number of ranks
nor on how the crystals are parted.

    count    how many observations each crystal has
    sample   those of the sample (not with a reference)
    settle   how each of the other crystals agrees with the merge in each setting
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import (
    Crystals,
    Floats,
    Ints,
    Observations,
    ReferenceSet,
    Status,
    concatenate,
)
from sfxproc.errors import DataError
from sfxproc.intake.census import Census, Tally, tally_of
from sfxproc.intake.parts import CrystalSettings, Part, PartCounts
from sfxproc.intake.reference_group import reference_in_group
from sfxproc.intake.selection import target_cell
from sfxproc.intake.source import PartsT
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
from sfxproc.parallel.decide import decided, on_rank_0
from sfxproc.report.log import Log
from sfxproc.settings.sections import Symmetry
from sfxproc.symmetry import (
    Reindexing,
    SpaceGroup,
    cell_fits,
    reindexed_cells,
    reindexed_hkl,
    relative_settings,
    s_squared,
    space_group,
    twin_operators,
    unique_keys,
)

F8 = NDArray[np.float64]
I8 = NDArray[np.int64]

SAMPLE_CRYSTALS, SAMPLE_ROWS = 2000, 4_000_000  # of the sample, at most
BATCH_ROWS = 1 << 20  # of crystals compared at a time
MIN_COMMON = 20  # reflections that crystals must have in common with a reference


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
class SampleRows:
    """Observations of the sample in a part: crystal of the job (n,), hkl (n, 3), intensity (n,)."""

    crystal: Ints
    hkl: Ints
    intensity: Floats


@dataclass(frozen=True, eq=False)
class Compared:
    """Crystals (k,) int64 of a part and the settings in which they agree with a merge that they are
    not part of. seen : (n,) rows of the merge that they have as indexed, and −1 for what is not in
    it."""

    crystals: I8
    choice: Choice
    seen: I8


def ambiguity_reference(symmetry: Symmetry, reference: ReferenceSet | None) -> ReferenceSet | None:
    """The set that settings are compared with: one of its own, else the job's. Raises InputError
    or ConfigError."""
    if symmetry.ambiguity_reference is None:
        return reference
    group = space_group(symmetry.space_group)
    return reference_in_group(symmetry.ambiguity_reference, "symmetry.ambiguity_reference", group)


def ambiguity_of(group: SpaceGroup, cell: F8, symmetry: Symmetry) -> Ambiguity | None:
    """How crystals of a group in a cell (6,) may have to be reindexed; None if there is no other
    setting, or that is to be ignored."""
    if symmetry.ambiguity == "ignore":
        return None
    operators = twin_operators(group, cell, symmetry.ambiguity_obliquity_deg)
    return Ambiguity(group, cell, operators) if operators else None


def in_one_setting(
    census: Census | None,
    parts: PartsT,
    symmetry: Symmetry,
    reference: ReferenceSet | None,
    comm: Comm,
    log: Log,
) -> tuple[Census | None, PartsT]:
    """The census (on rank 0, None elsewhere) and the observations with all crystals in one setting;
    collective.

    The same as given where there is no ambiguity. Raises DataError if there are no observations, or
    if the reference is of another cell or has too little in common.
    """

    def look() -> Ambiguity | None:
        assert census is not None
        return ambiguity_of(census.criteria.space_group, census.cell, symmetry)

    ambiguity = decided(comm, look)
    if ambiguity is None:
        return census, parts
    counts = parts.each("count", lambda part: part.counts, PartCounts)

    def count() -> Tally:
        assert census is not None
        if reference is not None:
            _require_cell(reference, ambiguity.cell, symmetry)
        return tally_of(census, counts)

    tally = on_rank_0(comm, count)
    if reference is None:
        choices = _among_themselves(ambiguity, parts, tally, comm)
    else:
        choices = _with_reference(ambiguity, parts, reference, comm)

    def settle() -> tuple[Census, CrystalSettings]:
        assert census is not None
        assert tally is not None
        choice, used = _everywhere(choices, len(census.crystals)), tally.status != Status.LEFT_OUT
        sure = trusted(choice.margin[used], reference is not None)
        seen = used & sure
        setting = np.where(seen, choice.setting, np.int8(0))
        _tell(ambiguity, setting, seen, choice.margin[used], reference, log)
        classes = replace(
            census.classes,
            reindexing=setting,
            reindexing_cc=np.where(seen, choice.cc, np.nan),
            reindexing_margin=np.where(seen, choice.margin, np.nan),
        )
        settings = CrystalSettings(setting, ambiguity.operators)
        crystals = _moved_crystals(census.crystals, settings)
        cell = target_cell(ambiguity.group, symmetry, crystals)
        return replace(census, crystals=crystals, cell=cell, classes=classes), settings

    settled, settings = on_rank_0(comm, settle) or (None, None)
    return settled, parts.in_settings(comm.bcast(settings))


def _tell(
    ambiguity: Ambiguity,
    setting: NDArray[np.int8],
    seen: NDArray[np.bool_],
    margin: F8,
    reference: ReferenceSet | None,
    log: Log,
) -> None:
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


def _moved_crystals(crystals: Crystals, settings: CrystalSettings) -> Crystals:
    A, cell = crystals.A.copy(), crystals.cell.copy()
    for number, operator in enumerate(settings.operators, 1):
        rows = settings.setting == number
        A[rows], cell[rows] = reindexed_cells(A[rows], cell[rows], operator)
    return replace(crystals, A=A, cell=cell)


# ---- deciding --------------------------------------------------------------------------------

Choices = list[tuple[I8, Choice]]
"""Crystals and their settings; on rank 0."""


def _among_themselves(
    ambiguity: Ambiguity, parts: PartsT, tally: Tally | None, comm: Comm
) -> Choices:
    """Settings of all crystals without a reference."""
    sampled: I8 = comm.bcast(_sample(tally.n_observations) if tally else None)

    def sample(part: Part) -> SampleRows:
        table = part.observations
        table = table.take(np.isin(table.crystal, sampled))
        return SampleRows(table.crystal, table.hkl, table.intensity)

    rows = parts.each("sample", sample, SampleRows)
    merge, choice = comm.bcast(None if comm.rank else _resolved(ambiguity, sampled, rows))

    def compare(part: Part) -> Compared:
        table = part.observations
        return _compared(ambiguity, table.take(~np.isin(table.crystal, sampled)), merge)

    compared = parts.each("settle", compare, Compared)
    return [*((one.crystals, one.choice) for one in compared), (sampled, choice)]


def _sample(counts: I8) -> I8:
    """Crystals (n,), ascending, that stand for all with observations (n_crystals,)."""
    order = np.random.default_rng(0).permutation(len(counts))
    order = order[counts[order] > 0][:SAMPLE_CRYSTALS]
    return np.sort(order[np.cumsum(counts[order]) <= SAMPLE_ROWS])


def _resolved(
    ambiguity: Ambiguity, sampled: I8, rows: Sequence[SampleRows]
) -> tuple[KnownMerge, Choice]:
    """The merge of the sample and its settings, from the rows of all parts."""
    crystal = np.concatenate([part.crystal for part in rows])
    order = np.argsort(crystal, kind="stable")
    hkl = np.concatenate([part.hkl for part in rows])[order]
    intensity = np.concatenate([part.intensity for part in rows])[order]
    start = np.searchsorted(crystal[order], np.append(sampled, len(crystal) + sampled[-1] + 1))
    unique, row = np.unique(ambiguity.keys(hkl), return_inverse=True)
    choice, sums = resolve(
        start,
        row.reshape(len(hkl), -1),
        ambiguity.ranks(start, hkl, intensity),
        len(unique),
        relative_settings(ambiguity.group, ambiguity.operators),
    )
    return KnownMerge(unique, sums), choice


def _with_reference(
    ambiguity: Ambiguity, parts: PartsT, reference: ReferenceSet, comm: Comm
) -> Choices:
    """Settings of all crystals compared with a reference."""
    theirs = reference.reflections
    assert theirs.intensity is not None
    sums = merged_ranks(theirs.s2, theirs.intensity)
    merge = KnownMerge(unique_keys(ambiguity.group, theirs.hkl, False), sums)
    compared = parts.each(
        "settle", lambda part: _compared(ambiguity, part.observations, merge), Compared
    )

    def require_common() -> None:
        seen = np.unique(np.concatenate([one.seen for one in compared]))
        n_common = np.count_nonzero(seen >= 0)
        if n_common < MIN_COMMON:
            raise DataError(
                f"The reference '{reference.path}' has {n_common} reflections in common with the "
                "data, too few to decide between the settings in which crystals may have been "
                f"indexed ({_triplets(ambiguity.operators)}). Choose another set, other limits in "
                '[selection], or set symmetry.ambiguity = "ignore".'
            )

    on_rank_0(comm, require_common)
    return [(one.crystals, one.choice) for one in compared]


def _compared(ambiguity: Ambiguity, observations: Observations, merge: KnownMerge) -> Compared:
    """How the crystals that observations are of agree with a merge that they are not part of."""
    crystals, first = np.unique(observations.crystal, return_index=True)
    start = np.append(first, len(observations)).astype(np.int64)
    cuts = np.searchsorted(start, np.arange(BATCH_ROWS, len(observations), BATCH_ROWS))
    choices, seen = [], []
    for a, b in pairwise([0, *cuts.tolist(), len(crystals)]):
        table, own = observations.take(slice(start[a], start[b])), start[a : b + 1] - start[a]
        z = ambiguity.ranks(own, table.hkl, table.intensity)
        rows = merge.rows(ambiguity.keys(table.hkl))
        choices.append(decide(own, rows, z, merge.sums))
        seen.append(np.unique(rows[:, 0]))
    return Compared(crystals.astype(np.int64), concatenate(choices), np.concatenate(seen))


def _everywhere(parts: Choices, n_crystals: int) -> Choice:
    """The settings of all crystals from parts for some; zeros for those in none."""
    crystals = np.concatenate([rows for rows, _ in parts])
    columns = {}
    for name, values in concatenate([choice for _, choice in parts]).columns().items():
        columns[name] = np.zeros(n_crystals, dtype=values.dtype)
        columns[name][crystals] = values
    return Choice(**columns)
