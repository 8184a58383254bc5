"""What takes part in a job and why not: cells and crystals, and what is left over.

Everything left out is counted by reason, in arrays (N_REASONS,) of int64 indexed by `Reason`, which
can be added; each observation counts for its first reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Crystals, Detector, Ints, Reason, Reflections, Status, Table
from sfxproc.errors import ConfigError, DataError, InputError
from sfxproc.formats.inputs import InputFile
from sfxproc.merging.cell_clusters import Clusters, cell_clusters
from sfxproc.merging.shells import shell_edges
from sfxproc.settings.sections import Selection, Symmetry
from sfxproc.symmetry import (
    SpaceGroup,
    cell_fits,
    median_cell,
    require_cell,
)

F8 = NDArray[np.float64]
I8 = NDArray[np.int64]
U1 = NDArray[np.uint8]

N_REASONS = max(Reason) + 1


@dataclass(frozen=True, eq=False)
class CrystalClasses(Table):
    """What crystals are sorted into while they are read: columns of frames.h5, a row a crystal.

    cell_cluster : int32, −1 for those in none. reindexing : int8 setting, 0 as indexed;
    reindexing_cc, reindexing_margin : float64 correlation with the merge of the others or the
    reference, and how much better that is than in the next best setting, in standard errors, NaN
    where not known; None without an ambiguity.
    """

    cell_cluster: Ints
    reindexing: Ints | None = None
    reindexing_cc: F8 | None = None
    reindexing_margin: F8 | None = None


@dataclass(frozen=True, eq=False)
class Inventory:
    """What a job works on, after selection, without the observations; the same wherever it is.

    crystals, status, reason, n_observations : of the whole job. reflections : all unique ones.
    left_out : observations left out, by reason, of the whole job; no zeros.
    """

    space_group: SpaceGroup
    cell: F8
    crystals: Crystals
    status: U1
    reason: U1
    n_observations: I8
    reflections: Reflections
    left_out: Mapping[Reason, int]
    n_images: int
    detector: Detector | None
    files: tuple[InputFile, ...]
    classes: CrystalClasses


def require_columns(path: Path, present: Collection[str], wanted: Collection[str]) -> None:
    """Raise InputError if a file lacks an optional column of observations that is wanted."""
    missing = sorted(set(wanted) - set(present))
    if missing:
        raise InputError(
            f"'{path}' has no column {' and '.join(missing)}, which this job's settings ask "
            'for. Integrate with a program that writes it, or set scaling.partiality = "ignore".'
        )


def require_crystals(n_crystals: int) -> None:
    """Raise DataError if there are none at all."""
    if not n_crystals:
        raise DataError(
            "The inputs hold no crystals. Check with `sfxproc show` that the images were indexed."
        )


def target_cell(group: SpaceGroup, symmetry: Symmetry, crystals: Crystals) -> F8:
    """The cell given, or the median of the data's; checked against the space group."""
    known = np.asarray(np.isfinite(crystals.cell).all(axis=1))
    if not known.any():
        raise DataError(
            f"None of the {len(crystals)} crystals has a unit cell or an orientation, so they "
            "cannot be told to be of one crystal form. Give the files that the indexing program "
            "wrote, with cells; `sfxproc show` tells what a file holds."
        )
    if symmetry.unit_cell is not None:
        target = np.array(symmetry.unit_cell, dtype=np.float64)
        require_cell(group, target)
        return target
    require_cell(group, np.median(crystals.cell[known], axis=0))
    return np.asarray(median_cell(group, crystals.cell[known]))


def select_crystals(
    crystals: Crystals, cell: F8, symmetry: Symmetry, oriented: bool = False
) -> tuple[U1, U1]:
    """Status and reason of every crystal after the cell check. oriented : leave out also those
    whose orientation is not recorded."""
    status = np.full(len(crystals), Status.USED, dtype=np.uint8)
    reason = np.full(len(crystals), Reason.NONE, dtype=np.uint8)
    known = np.asarray(np.isfinite(crystals.cell).all(axis=1))
    if oriented:
        known &= np.isfinite(crystals.A).all(axis=(1, 2))
        if not known.any():
            raise DataError(
                f"None of the {len(crystals)} crystals has an orientation (an A matrix) recorded, "
                "which postrefinement begins with. Give the files that the indexing program wrote, "
                'or use job = "scale".'
            )
    fits = np.zeros(len(crystals), dtype=bool)
    fits[known] = cell_fits(
        crystals.cell[known], cell, symmetry.length_tolerance_percent, symmetry.angle_tolerance_deg
    )
    status[~fits] = Status.LEFT_OUT
    reason[~fits] = np.where(known[~fits], Reason.CELL_OFF_TARGET, Reason.NO_ORIENTATION)
    if not fits.any():
        found = " ".join(f"{v:.2f}" for v in np.nanmedian(crystals.cell, axis=0))
        wanted = " ".join(f"{v:.2f}" for v in cell)
        raise DataError(
            f"None of the {len(crystals)} crystals has a cell near the target {wanted} (within "
            f"{symmetry.length_tolerance_percent:g} % and {symmetry.angle_tolerance_deg:g}°): "
            f"their median is {found}. Correct symmetry.unit_cell, or widen "
            "symmetry.length_tolerance_percent and symmetry.angle_tolerance_deg."
        )
    return status, reason


def by_cell_cluster(
    crystals: Crystals, status: U1, reason: U1, group: SpaceGroup, wanted: int | None
) -> tuple[U1, U1, Clusters]:
    """Status and reason, and the clusters of the cells of crystals in use; with a wanted one
    (counted from 1) the others are left out. Raises ConfigError if there are not so many."""
    cells = np.where((status == Status.USED)[:, None], crystals.cell, np.nan)
    clusters = cell_clusters(cells, group)
    if wanted is None:
        return status, reason, clusters
    if wanted > len(clusters.size):
        raise ConfigError(
            f"selection.cell_cluster = {wanted}, but the cells form {len(clusters.size)} "
            f"{'cluster' if len(clusters.size) == 1 else 'clusters'}: {clusters_text(clusters)}. "
            "Choose one of these, or leave it out."
        )
    other = (status == Status.USED) & (clusters.label != wanted - 1)
    return (
        np.where(other, np.uint8(Status.LEFT_OUT), status),
        np.where(other, np.uint8(Reason.OTHER_CELL_CLUSTER), reason),
        clusters,
    )


def clusters_notes(clusters: Clusters) -> list[str]:
    """What the log says of them, if there are several."""
    return [f"Cells form clusters: {clusters_text(clusters)}."] if len(clusters.size) > 1 else []


def clusters_text(clusters: Clusters) -> str:
    """Sizes and median cells in words."""
    each = zip(clusters.size, clusters.median, strict=True)
    return "; ".join(
        f"{number}: {size:,} crystals, {' '.join(f'{v:.2f}' for v in cell)}"
        for number, (size, cell) in enumerate(each, 1)
    )


def coded(counts: Mapping[Reason, int]) -> I8:
    """Counts by reason as an array."""
    left_out = np.zeros(N_REASONS, dtype=np.int64)
    for why, n in counts.items():
        left_out[why] += n
    return left_out


def by_reason(left_out: I8) -> dict[Reason, int]:
    """An array of counts as a mapping without zeros, in the order of the codes."""
    return {Reason(int(code)): int(left_out[code]) for code in np.flatnonzero(left_out)}


def require_rows(n_observations: I8, reason: U1, left_out: I8, cell: F8) -> None:
    """Raise DataError, with all that was left out, if no observation is left."""
    if n_observations.any():
        return

    def told(counts: Counter[Reason]) -> str:
        return ", ".join(f"{r.text} {n:,}" for r, n in counts.most_common()) or "none"

    crystals = Counter(Reason(int(r)) for r in reason if r != Reason.NONE)
    raise DataError(
        f"No usable observation is left of {len(reason):,} crystals (cell "
        f"{' '.join(f'{v:.2f}' for v in cell)}). Observations left out: "
        f"{told(Counter(by_reason(left_out)))}; crystals left out: {told(crystals)}. Check "
        "symmetry.space_group and the limits in [selection]."
    )


def require_reach(selection: Selection, unique: Reflections) -> None:
    """Raise ConfigError if the resolution limit asked for lies beyond the data."""
    reach = float(unique.d_A.min())
    if selection.d_min_A is None:
        return
    edges = shell_edges(np.array([unique.s2.min(), 0.25 / selection.d_min_A**2]), 10)
    if float(unique.s2.max()) < edges[-2]:
        raise ConfigError(
            f"selection.d_min_A = {selection.d_min_A:g} is beyond the data, which reach "
            f"{reach:.2f} Å: the last of ten resolution shells would be empty. Set "
            f"selection.d_min_A = {reach:.2f} or leave it out."
        )
