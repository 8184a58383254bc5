"""The end of a refinement: gauge, uncertainties, merges, what became of crystals."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Merged, Reason
from sfxproc.errors import DataError
from sfxproc.intake.reference import reference_scales
from sfxproc.intake.selection import Inventory
from sfxproc.merging.merge import merge
from sfxproc.parallel.decide import decided
from sfxproc.refine.judge import Judge, without_crystals
from sfxproc.refine.merging_job import MergingJob, MergingOutcome, with_start_scales
from sfxproc.refine.refined import Refined, Sums
from sfxproc.results import tables as report
from sfxproc.settings.scale import ScaleConfig

F8 = NDArray[np.float64]
I1 = NDArray[np.int8]
Mask = NDArray[np.bool_]
RefinedT = TypeVar("RefinedT", bound=Refined)


def outcome_of(
    job: MergingJob, refined: Refined, judge: Judge, data: Inventory | None
) -> MergingOutcome | None:
    """Everything that a refined job has to tell, on rank 0; None elsewhere. data : of the job, on
    rank 0 at least."""
    lost = None
    while lost is None or np.any(lost != refined.fates.lost):  # or all that follows is without them
        lost = refined.fates.lost
        solved, refined = refined, in_gauge(job, refined, data)
        masks = group_masks(job, data, (judge.half >= 0) & ~lost)
        each = (np.where(inside, judge.half, np.int8(-1)) for inside in masks.values())
        sums = refined.sums(np.stack([judge.half, *each]))
        apart = None
        if job.config.merging.independent_halves:
            apart = halves_apart(job, solved, refined, judge.half)
        agreement = judge.columns(refined)
    unmerged = refined.scaled_observations(judge.half) if job.config.output.unmerged else None
    if sums is None or data is None or job.comm.rank > 0:
        return None
    data = with_fates(data, refined, judge)
    uncertain = sums.uncertain
    whole, *parts = sums.merges
    merged = merge(data.reflections, whole, uncertain.variance)
    require_intensities(merged, job.config)
    if apart is not None:
        merged = with_halves(merged, apart)
    groups = {}
    for name, part in zip(masks, parts, strict=True):
        # scales of fewer crystals are averaged over
        every, inner = (s.weight.sum(axis=0) for s in (whole, part))
        ratio = np.divide(every, inner, out=np.zeros_like(every), where=inner > 0.0)
        groups[name] = merge(data.reflections, part, uncertain.variance * ratio)
    frames = report.frame_columns(
        data,
        refined.fates.n_overlaps,
        uncertain.local,
        uncertain.sigma,
        sums.crystal_cc,
        {**data.classes.columns(), **agreement, **uncertain.columns},
        uncertain.parameters,
    )
    return MergingOutcome(
        data,
        merged,
        frames,
        refined.summary(),
        refined.errors,
        uncertain.variance_error,
        groups,
        unmerged,
        pulls=told_pulls(sums, refined.errors.mean),
    )


def require_intensities(merged: Merged, config: ScaleConfig) -> None:
    """Raise DataError if no reflection has a merged intensity with a standard uncertainty."""
    sigma = merged.reflections.sigma
    if sigma is not None and np.any(np.isfinite(sigma)):
        return
    blocks = config.parallel.strategy == "blocks"
    remedy = (
        'Raise parallel.block_size or use parallel.strategy = "global"'
        if blocks
        else "Set selection.d_min_A, or leave crystals with few observations out with "
        "selection.min_observations"
    )
    raise DataError(
        "The refinement diverged: no reflection has a finite merged intensity, so nothing was "
        f"written. {remedy}; the log tells how the objective went."
    )


def with_fates(data: Inventory, refined: Refined, judge: Judge) -> Inventory:
    """The data with what became of crystals, for whatever reason."""
    fates = refined.fates
    lost = np.where(fates.lost, np.uint8(Reason.TASK_FAILED), judge.reason)
    return without_crystals(with_start_scales(data, fates.start_scale), lost)


def in_gauge(job: MergingJob, refined: RefinedT, data: Inventory | None) -> RefinedT:
    """The refinement with mean ln G = 0 and mean B = 0, or on the scale of the reference."""
    refined = refined.shifted(refined.to_zero_mean())
    reference = job.reference
    if reference is None:
        return refined

    def scales() -> F8:
        assert data is not None
        sets = refined.set_of_reflection, refined.n_sets
        return reference_scales(refined.shared, *sets, data, reference)

    return refined.shifted(decided(job.comm, scales))


def told_pulls(sums: Sums, mean: float) -> dict[str, list[dict[str, float]]]:
    """χ² of observations, in units of what normal deviates give, and their mean pull, in bins of
    the modelled intensity and, with partialities, of these. mean : of χ² of normal deviates."""

    def rows(bins: F8) -> list[dict[str, float]]:
        return [
            {"intensity": y / n, "chi2": z / n / mean, "pull": pull / n, "n": int(n)}
            for n, y, z, pull in bins.tolist()
            if n > 0 and np.isfinite(y)
        ]

    told = {"bins": rows(sums.pulls_by_intensity)}
    by_partiality = sums.pulls_by_partiality
    n_bins, filled = len(by_partiality), np.flatnonzero(by_partiality[:, 0] > 0)
    if len(filled):
        told["partiality_bins"] = [
            {**row, "partiality": (bin + 0.5) / n_bins}
            for bin, row in zip(filled.tolist(), rows(by_partiality), strict=True)
        ]
    return told


# ---- merges of parts of the crystals -------------------------------------------------------------


def group_masks(job: MergingJob, data: Inventory | None, merged: Mask) -> dict[str, Mask]:
    """(n_crystals,) which crystals are in each group of `merging.groups`, by name. Raises DataError
    for a group none of whose crystals is merged."""
    wanted = job.config.merging.groups
    if not wanted:
        return {}

    def decide() -> dict[str, Mask]:
        assert data is not None
        return {name: in_group(job, data, merged, name) for name in wanted}

    return decided(job.comm, decide)


def in_group(job: MergingJob, data: Inventory, merged: Mask, name: str) -> Mask:
    """(n_crystals,) which crystals are in a group. Raises DataError if none in use is."""
    pattern = job.config.merging.groups[name]
    inside = report.in_pattern(data.crystals, pattern)
    n = int(np.count_nonzero(inside & merged))
    if n == 0:
        example = data.crystals.identity[0] if len(data.crystals) else ""
        raise DataError(
            f'merging.groups: no crystal in use is named like "{pattern}" of group "{name}". '
            f"Patterns are compared with FILE//EVENT, for example '{example}', and may have "
            "* and ?."
        )
    job.log(f'group "{name}": {n:,} crystals')
    return inside


def halves_apart(job: MergingJob, solved: RefinedT, whole: RefinedT, half: I1) -> tuple[F8, F8]:
    """(2, n_reflections) intensities and sigmas of half sets that were refined each by itself, on
    from where all are solved, and brought to the scale of the whole in its final gauge."""
    intensity, sigma = np.empty((2, 2, len(whole.shared)))
    for side in (0, 1):
        job.log(f"half set {side + 1} refined by itself")
        others = half != side
        apart = solved.without(others, refit=False).continued(f"half-{side + 1}")
        if not apart.summary()["converged"]:
            job.log(
                f"WARNING: half set {side + 1} by itself did not converge; CC½ and R_split may be "
                "off."
            )
        apart = apart.shifted(apart.towards(whole, ~others))
        sums = apart.weighted_sums(np.where(others, np.int8(-1), half))
        weight, weighted = sums[side], sums[2 + side]
        nothing = np.full_like(weight, np.nan)
        intensity[side] = np.divide(weighted, weight, out=nothing.copy(), where=weight > 0.0)
        sigma[side] = np.sqrt(np.divide(1.0, weight, out=nothing, where=weight > 0.0))
    return intensity, sigma


def with_halves(merged: Merged, halves: tuple[F8, F8]) -> Merged:
    """The merge with other half sets, (2, n_reflections) intensities and sigmas."""
    known = np.isfinite(merged.half_intensity)  # those with too little weight are none
    intensity, sigma = (np.where(known, values, np.nan) for values in halves)
    return replace(merged, half_intensity=intensity, half_sigma=sigma)
