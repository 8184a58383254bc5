"""What the scaling job tells: lines of the log, columns of frames.h5, statistics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Crystals, Merged, Reason, ReferenceSet, Status
from sfxproc.intake.selection import Inventory
from sfxproc.merging.compare import compare_sets
from sfxproc.merging.statistics import statistics, summary_sentence
from sfxproc.models.error_model import ErrorModel
from sfxproc.models.parameters import columns_of
from sfxproc.report.log import Log
from sfxproc.report.terminal import counts_table, statistics_table
from sfxproc.settings.scale import ScaleConfig
from sfxproc.symmetry import possible

F8 = NDArray[np.float64]


def tell_data(data: Inventory, log: Log) -> None:
    """What was read and what was left out."""
    used = int(np.count_nonzero(data.status != Status.LEFT_OUT))
    log(
        f"{data.n_images:,} images, {len(data.crystals):,} crystals ({used:,} used); "
        f"{n_used(data):,} of {n_read(data):,} observations used, of {len(data.reflections):,} "
        f"unique reflections to {data.reflections.d_A.min():.2f} Å in {data.space_group.hm}, cell "
        f"{' '.join(f'{v:.2f}' for v in data.cell)}"
    )
    _show_counts("Observations left out", {r.text: n for r, n in data.left_out.items()}, log)
    _show_counts("Crystals left out", crystal_reasons(data), log)


def _show_counts(title: str, counts: dict[str, int], log: Log) -> None:
    if counts:
        table = counts_table(title, counts)
        table.min_width = len(title) + 1  # or rich breaks the title
        log.show(table)


def n_used(data: Inventory) -> int:
    """Observations that take part."""
    return int(data.n_observations.sum())


def n_read(data: Inventory) -> int:
    """Rows of the input files, used or left out."""
    return n_used(data) + sum(data.left_out.values())


def crystal_reasons(data: Inventory) -> dict[str, int]:
    """Number of crystals by reason, those without one not counted."""
    return {
        Reason(int(r)).text: int(n)
        for r, n in zip(*np.unique(data.reason, return_counts=True), strict=True)
        if r != Reason.NONE
    }


def frame_columns(
    data: Inventory,
    n_overlaps: NDArray[np.int64],
    local: F8,
    sigma: F8,
    crystal_cc: F8,
    more: Mapping[str, NDArray[Any]],
    parameters: Sequence[str],
) -> dict[str, NDArray[Any]]:
    """The columns of frames.h5, for all crystals of the job; NaN where a crystal was left out.

    local, sigma : (n_crystals, p) of the parameters of these names; the others (n_crystals,).
    more : columns as they are.
    """
    refined = {**columns_of(parameters, local, sigma), "cc_to_merge": crystal_cc}
    left_out = data.status == Status.LEFT_OUT
    return {
        "status": data.status,
        "reason": data.reason,
        "n_observations": data.n_observations,
        "n_overlaps": n_overlaps,
        **{name: np.where(left_out, np.nan, values) for name, values in refined.items()},
        **more,
    }


def statistics_of(
    config: ScaleConfig,
    data: Inventory,
    merged: Merged,
    reference: ReferenceSet | None,
    errors: ErrorModel,
    scale_variance_error: float,
    solver: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything that statistics.json tells. solver : what it says of itself;
    scale_variance_error : relative, of what uncertain scales add to variances."""
    n_crystals = int(np.count_nonzero(data.status != Status.LEFT_OUT))
    told = shells_of(config, data, merged, n_crystals, reference)
    status = Counter(Status(int(s)).name.lower() for s in data.status)
    return {
        **told,
        **of_clusters(data),
        "space_group": data.space_group.hm,
        "unit_cell": [float(v) for v in data.cell],
        "crystals": {
            "n_images": data.n_images,
            "n_crystals": len(data.crystals),
            "status": dict(status),
            "reasons": crystal_reasons(data),
        },
        "observations": {
            "read": n_read(data),
            "used": n_used(data),
            "left_out": {r.text: n for r, n in data.left_out.items()},
        },
        "error_model": {
            **errors.as_dict(),
            **naive_sigmas(merged),
            "scale_variance_error": scale_variance_error,
        },
        "solver": dict(solver),
    }


def shells_of(
    config: ScaleConfig,
    data: Inventory,
    merged: Merged,
    n_crystals: int,
    reference: ReferenceSet | None = None,
) -> dict[str, Any]:
    """Statistics of a merge, overall and by shell."""
    unique = data.reflections
    # a hair wider than the data, so that rounding does not cut the reflections at the edge
    d_min_A = (config.selection.d_min_A or float(unique.d_A.min())) * (1.0 - 1e-6)
    d_max_A = (config.selection.d_max_A or float(unique.d_A.max())) * (1.0 + 1e-6)
    return statistics(
        merged,
        possible(data.space_group, data.cell, d_min_A, d_max_A, config.symmetry.anomalous),
        n_shells=config.output.n_shells,
        d_min_A=d_min_A,
        d_max_A=d_max_A,
        reference=None if reference is None else reference.reflections,
        n_crystals=n_crystals,
    )


def of_groups(config: ScaleConfig, data: Inventory, groups: Mapping[str, Merged]) -> dict[str, Any]:
    """How good the merge of each group is, and how much two of them agree; nothing without."""
    if not groups:
        return {}
    told = []
    for name, merged in groups.items():
        n = int(
            np.count_nonzero(
                in_pattern(data.crystals, config.merging.groups[name])
                & (data.status != Status.LEFT_OUT)
            )
        )
        overall = shells_of(config, data, merged, n)["overall"]
        keys = (
            "n_unique",
            "completeness",
            "multiplicity",
            "mean_i_over_sigma",
            "cc_half",
            "r_split",
        )
        told.append({"group": name, "n_crystals": n, **{k: overall[k] for k in keys}})
    pairs = []
    for (one, first), (other, second) in combinations(groups.items(), 2):
        overall = compare_sets(first.reflections, second.reflections).overall
        pairs.append({"groups": f"{one}, {other}", "cc": overall.cc, "r": overall.r})
    return {"groups": {"each": told, "pairs": pairs}}


def of_clusters(data: Inventory) -> dict[str, Any]:
    """Clusters of cells with their medians; nothing where all crystals are in one."""
    label = data.classes.cell_cluster
    if label.max(initial=0) < 1:
        return {}
    told = []
    for number in range(int(label.max()) + 1):
        cell = np.median(data.crystals.cell[label == number], axis=0)
        told.append(
            {
                "cluster": number + 1,
                "crystals": int(np.count_nonzero(label == number)),
                **dict(zip(("a", "b", "c", "alpha", "beta", "gamma"), cell.tolist(), strict=True)),
            }
        )
    unassigned = int(np.count_nonzero((label < 0) & (data.status != Status.LEFT_OUT)))
    return {"cell_clusters": {"clusters": told, "in none of them": unassigned}}


def in_pattern(crystals: Crystals, pattern: str) -> NDArray[np.bool_]:
    """(n,) whether the identity FILE//EVENT of each crystal is like a pattern with * and ?."""
    return np.array([fnmatchcase(name, pattern) for name in crystals.identity], dtype=bool)


def naive_sigmas(merged: Merged) -> dict[str, float]:
    """How σ(I) would be if the scales were known: ⟨I/σ⟩ then, and the mean share of σ² that
    their uncertainty makes."""
    table = merged.reflections
    assert table.intensity is not None
    assert table.sigma is not None
    assert merged.scale_variance is not None
    known = np.isfinite(table.sigma)
    total, from_scales = table.sigma[known] ** 2, merged.scale_variance[known]
    naive = np.sqrt(total - from_scales)
    return {
        "mean_i_over_naive_sigma": float(np.mean(table.intensity[known] / naive)),
        "scale_variance_share": float(np.mean(from_scales / total)),
    }


def tell_statistics(told: dict[str, Any], log: Log) -> None:
    """The table of shells."""
    log.show(statistics_table(told))


def closing_sentence(told: dict[str, Any], folder: Path) -> str:
    """How good the data are and where they lie."""
    converged = "" if told["solver"]["converged"] else " The refinement did NOT converge."
    return f"{summary_sentence(told)}{converged} Results are in '{folder}'."
