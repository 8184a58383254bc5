"""What rank 0 decides on all crystals of a job, and what it counts in the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Crystals, Detector, Reason, Status, concatenate, require_distinct
from sfxproc.formats.inputs import InputFile
from sfxproc.intake.parts import Criteria, PartCounts, PartSummary
from sfxproc.intake.reference import require_overlap
from sfxproc.intake.selection import (
    CrystalClasses,
    Inventory,
    by_cell_cluster,
    by_reason,
    clusters_notes,
    require_crystals,
    require_reach,
    require_rows,
    select_crystals,
    target_cell,
)
from sfxproc.intake.source import FileSummary, Intake
from sfxproc.symmetry import reflections, space_group

I8 = NDArray[np.int64]
U1 = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Census:
    """All crystals of a job once the files are read.

    reason : (n_crystals,) after the check of cells. left_out : (N_REASONS,) observations while
    files were read. cell : (6,) the target, of crystals in one setting. notes : for the log.
    """

    crystals: Crystals
    reason: U1
    left_out: I8
    n_images: int
    cell: NDArray[np.float64]
    classes: CrystalClasses
    notes: tuple[str, ...]
    criteria: Criteria


@dataclass(frozen=True, eq=False)
class Tally:
    """What has become of all crystals and observations: status, reason, n_observations
    (n_crystals,); left_out (N_REASONS,)."""

    status: U1
    reason: U1
    n_observations: I8
    left_out: I8


def census_of(files: Sequence[FileSummary], intake: Intake) -> Census:
    """Which crystals there are and which take part: target cell, check of cells, clusters.

    Raises InputError for crystals given twice, ConfigError or DataError.
    """
    symmetry, sizes = intake.symmetry, [len(file.crystals) for file in files]
    require_crystals(sum(sizes))
    crystals = concatenate([file.crystals for file in files])
    require_distinct(crystals)
    group = space_group(symmetry.space_group)
    cell = target_cell(group, symmetry, crystals)
    status, reason = select_crystals(crystals, cell, symmetry, intake.oriented)
    status, reason, clusters = by_cell_cluster(
        crystals, status, reason, group, intake.selection.cell_cluster
    )
    first = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return Census(
        crystals,
        reason,
        left_out=np.sum([file.left_out for file in files], axis=0),
        n_images=sum(file.n_images for file in files),
        cell=cell,
        classes=CrystalClasses(clusters.label),
        notes=tuple(clusters_notes(clusters)),
        criteria=Criteria(group, cell, symmetry.anomalous, intake.selection, first, status),
    )


def tally_of(census: Census, parts: Sequence[PartCounts]) -> Tally:
    """All parts counted together. Raises DataError if no observation is left."""
    status, reason = census.criteria.status.copy(), census.reason.copy()
    n_observations = np.zeros(len(status), dtype=np.int64)
    for part in parts:
        n_observations[part.crystals] = part.n_observations
        few = part.crystals[part.too_few]
        status[few], reason[few] = Status.LEFT_OUT, Reason.TOO_FEW_OBSERVATIONS
    left_out = census.left_out + np.sum([part.left_out for part in parts], axis=0)
    require_rows(n_observations, reason, left_out, census.criteria.cell)
    return Tally(status, reason, n_observations, left_out)


def inventory_of(
    census: Census,
    parts: Sequence[PartSummary],
    files: tuple[InputFile, ...],
    detector: Detector | None,
    intake: Intake,
) -> tuple[Inventory, I8]:
    """What the job works on, and the keys of its unique reflections. Raises ConfigError for a
    resolution limit beyond the data, DataError for a reference that does not fit or if nothing is
    left."""
    criteria, tally = census.criteria, tally_of(census, parts)
    keys = np.unique(np.concatenate([part.keys for part in parts]))
    unique = reflections(criteria.space_group, census.cell, keys)
    require_reach(criteria.selection, unique)
    inventory = Inventory(
        criteria.space_group,
        census.cell,
        census.crystals,
        tally.status,
        tally.reason,
        tally.n_observations,
        unique,
        by_reason(tally.left_out),
        census.n_images,
        detector,
        files,
        census.classes,
    )
    if intake.reference is not None:
        require_overlap(inventory, intake.reference, intake.symmetry)
    return inventory, keys
