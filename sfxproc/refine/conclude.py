"""The end of a job of the global strategy: gauge, uncertainties, merges, what crystals were."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Merged, ReferenceSet, Status
from sfxproc.errors import DataError
from sfxproc.intake.reading import Dataset
from sfxproc.intake.reference import reference_scales
from sfxproc.lsq import Engine, Point, Result
from sfxproc.lsq.covariance import Covariance, exact
from sfxproc.lsq.sampled import sampled
from sfxproc.merging.merge import merge
from sfxproc.models.postrefine import PostrefineModel
from sfxproc.models.scale import LN_G, B, ScaleModel
from sfxproc.models.scale_merge import merge_sums, weighted_sums
from sfxproc.refine.choices import loss_of
from sfxproc.refine.judge import Judging
from sfxproc.refine.scale_job import MODELS, Scaled, ScaleJob, own_halves
from sfxproc.refine.solve import solve
from sfxproc.results import tables as report
from sfxproc.results.exports import gathered_observations
from sfxproc.settings.scale import ScaleConfig

F8 = NDArray[np.float64]
I1 = NDArray[np.int8]


def concluded(
    job: ScaleJob, judging: Judging, n_overlaps: NDArray[np.int64], engine: Engine, result: Result,
    n_rows: NDArray[np.int64], more: Mapping[str, NDArray[Any]] | None = None,
) -> Scaled:  # fmt: skip
    """Everything that a solved job has to tell. n_rows : (n_own,) observations of each crystal when
    it was set up. more : columns of frames.h5, of all crystals."""
    config, loss = job.config, loss_of(job.config)
    data = judging.decided(n_rows)
    solution = in_gauge(engine, result, data, job.reference, config)
    half = own_halves(data)
    sums, crystal_cc = merge_sums(solution.model, solution.point, loss, half)
    from_scales = solution.covariance.from_local
    merged = merge(data.reflections, sums, from_scales)
    if config.merging.independent_halves:
        merged = with_halves_apart(job, engine, result, solution, half, merged)
    groups = {}
    for name, inside in group_masks(job, data).items():
        part = merge_sums(solution.model, solution.point, loss, np.where(inside, half, np.int8(-1)))
        # scales of fewer crystals are averaged over
        whole, inner = (s.weight.sum(axis=0) for s in (sums, part[0]))
        ratio = np.divide(whole, inner, out=np.zeros_like(whole), where=inner > 0.0)
        groups[name] = merge(data.reflections, part[0], from_scales * ratio)
    own = solution.point.local, solution.local_sigma, crystal_cc
    local, sigma, found_cc = (job.comm.allgather_rows(a) for a in own)
    frames = report.frame_columns(
        data, n_overlaps, local, sigma, found_cc,
        {**data.found, **judging.columns(solution.model, solution.point), **(more or {})},
        result.model.layout.parameters,
    )  # fmt: skip
    solver = {"method": config.solver.method, **result.as_dict()}
    unmerged = None
    if config.output.unmerged:
        unmerged = gathered_observations(data, solution.model, solution.point, loss)
    return Scaled(
        data, merged, frames, solver, solution.model.errors, solution.covariance.relative_error,
        groups, unmerged, pulls=told_pulls(solution.model, solution.point),
    )  # fmt: skip


def told_pulls(model: ScaleModel, point: Point) -> dict[str, list[dict[str, float]]]:
    """χ² of observations, in units of what normal deviates give, and their mean pull, in bins of
    the modelled intensity and, with partialities, of these."""
    by_intensity, by_partiality = model.pulls_in_bins(point)

    def rows(bins: F8) -> list[dict[str, float]]:
        return [
            {"intensity": y / n, "chi2": z / n / model.errors.mean, "pull": pull / n, "n": int(n)}
            for n, y, z, pull in bins.tolist()
            if n > 0
        ]

    told = {"bins": rows(by_intensity)}
    if len(model.partiality):
        n_bins = len(by_partiality)
        filled = np.flatnonzero(by_partiality[:, 0] > 0)
        told["partiality_bins"] = [
            {**row, "partiality": (bin + 0.5) / n_bins}
            for bin, row in zip(filled.tolist(), rows(by_partiality), strict=True)
        ]
    return told


def group_masks(job: ScaleJob, data: Dataset) -> dict[str, NDArray[np.bool_]]:
    """Which of this rank's crystals are in each group of `merging.groups`, by name. Raises
    DataError for a group without crystals."""
    wanted = job.config.merging.groups
    masks = {}
    for name, pattern in wanted.items():
        inside = report.in_pattern(data.own_crystals, pattern)
        used = inside & (data.status[data.chunks.crystals] != Status.LEFT_OUT)
        n = sum(job.comm.allgather(int(used.sum())))
        if n == 0:
            example = data.crystals.identity[0] if len(data.crystals) else ""
            raise DataError(
                f'merging.groups: no crystal in use is named like "{pattern}" of group "{name}". '
                f"Patterns are compared with FILE//EVENT, for example '{example}', and may have "
                "* and ?."
            )
        job.log(f'group "{name}": {n:,} crystals')
        masks[name] = inside
    return masks


def with_halves_apart(
    job: ScaleJob, engine: Engine, result: Result, solution: Solution, half: I1,
    merged: Merged,
) -> Merged:  # fmt: skip
    """The merge with half sets that were refined each by itself."""
    loss = loss_of(job.config)
    intensity, sigma = np.empty((2, 2, len(merged.reflections)))
    for side in (0, 1):
        job.log(f"half set {side + 1} refined by itself")
        assert isinstance(result.model, MODELS)
        others = half != side
        model = result.model.without(others)
        model = model.with_errors(replace(model.errors, refits=0))
        found = solve(
            engine, model, result.point, job.config, job.checkpoint, job.log, f"half-{side + 1}"
        )
        scale = model.at(found.point)
        point = aligned(engine, scale, found.point, solution.point, ~others)
        sums = weighted_sums(model.at(point), point, loss, np.where(others, np.int8(-1), half))
        weight, weighted = sums[side], sums[2 + side]
        nothing = np.full_like(weight, np.nan)
        intensity[side] = np.divide(weighted, weight, out=nothing.copy(), where=weight > 0.0)
        sigma[side] = np.sqrt(np.divide(1.0, weight, out=nothing, where=weight > 0.0))
    known = np.isfinite(merged.half_intensity)  # those with too little weight are none
    return replace(
        merged,
        half_intensity=np.where(known, intensity, np.nan),
        half_sigma=np.where(known, sigma, np.nan),
    )


def aligned(
    engine: Engine, model: Any, point: Point, to: Point, inside: NDArray[np.bool_]
) -> Point:
    """A point with mean ln G and B of the crystals inside (n_own,) as another point has them."""
    layout = model.layout
    off = np.where(inside[:, None], (to.local - point.local)[:, LN_G : B + 1], 0.0)
    count = engine.component_sums(layout, inside[:, None].astype(np.float64))
    mean = engine.component_sums(layout, off) / np.maximum(count, 1.0)
    moved: Point = model.gauged(point, mean[:, 0], mean[:, 1])
    return moved


EXACT_PARAMETERS = 2000  # of crystals; beyond this covariances are sampled


STRATA = 20  # shells of equal numbers of reflections, for calibrating sampled variances


@dataclass(frozen=True, eq=False)
class Solution:
    """Crystals and intensities in their final gauge, with what their uncertainties are.

    model : the scaling model of the point, with its partialities. covariance.from_local :
    (n_reflections,) what uncertain crystals add to the variance of an intensity.
    """

    point: Point
    model: ScaleModel
    covariance: Covariance

    @property
    def local_sigma(self) -> F8:
        """(n_own, p) of the local parameters."""
        return np.asarray(np.sqrt(np.einsum("mii->mi", self.covariance.local)))


def in_gauge(
    engine: Engine, result: Result, data: Dataset, reference: ReferenceSet | None,
    config: ScaleConfig,
) -> Solution:  # fmt: skip
    """The solution with mean ln G = 0 and mean B = 0, or on the scale of the reference."""
    assert isinstance(result.model, MODELS)
    # a gauge asks for no partialities
    model = result.model if isinstance(result.model, ScaleModel) else result.model.scale
    point = model.centred(result.point)
    if reference is not None:
        scales = reference_scales(
            point.shared, model.set_of_reflection, model.layout.n_components, data, reference
        )
        ln_k, b = scales.T
        point = model.gauged(point, ln_k, b)
    covariance = covariance_of(engine, result.model, point, model.s2, config)
    return Solution(point, result.model.at(point), covariance)


def covariance_of(
    engine: Engine,
    model: ScaleModel | PostrefineModel,
    point: Point,
    s2: F8,
    config: ScaleConfig,
) -> Covariance:
    """Covariances of the crystals' parameters and what they add to those of the intensities."""
    loss = loss_of(config)
    ones = np.ones((model.layout.n_local, 1))
    n_local = float(engine.dots(model.layout, ones, ones)[0]) * len(model.layout.parameters)
    kind = config.scaling.covariance
    if kind == "exact" or (kind == "auto" and n_local <= EXACT_PARAMETERS):
        # what reflections seen once take off must cancel to the last digit
        double = Engine(engine.sums, engine.threads, np.float64)
        return exact(double, double.linearise(model, point, loss))
    lin = engine.linearise(model, point, loss)
    order = np.argsort(np.argsort(s2, kind="stable"), kind="stable")
    strata = (order * STRATA // max(len(order), 1)).astype(np.int32)
    return sampled(engine, model, point, lin, loss, strata, seed=config.seed)
