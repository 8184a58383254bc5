"""The kinds of task of scaling or postrefining in blocks: what is done with a block or segment.

Each takes the job, what is known so far and a range of crystals, reads these and returns a record
whose fields declare how those of all tasks combine; which rank does it makes no difference. Tasks
over blocks see overlapping crystals; those over segments see every crystal once. Each is a
`Kind`, at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Annotated, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Observations
from sfxproc.formats.mtz_scaled import ScaledObservations
from sfxproc.kernels.components import flatten, join_blocks
from sfxproc.lsq import Point
from sfxproc.lsq.components import components, merge_labels
from sfxproc.lsq.rounds import refit_local, step_of_block
from sfxproc.lsq.sampled import uncorrelated
from sfxproc.lsq.step import Outcome
from sfxproc.models.agreement import agreement_of, moments
from sfxproc.models.scale import LN_G
from sfxproc.models.scale_average import BlockSolution
from sfxproc.models.scale_merge import deviations, weighted_sums
from sfxproc.models.scale_start import prepared, scale_problem, start_reasons, survey
from sfxproc.models.scaled_rows import scaled_rows
from sfxproc.parallel.combine import LISTED, PER_CRYSTAL, SUMMED, joined
from sfxproc.parallel.records import R
from sfxproc.refine.blocks.state import Common, Comparison, Merging, Surveyed
from sfxproc.refine.blocks.work import Over, Work, bare, engine_of, model_of, scale_of

F8 = NDArray[np.float64]
I4 = NDArray[np.int32]
I8 = NDArray[np.int64]
U1 = NDArray[np.uint8]
SummedF8 = Annotated[F8, SUMMED]
CrystalF8 = Annotated[F8, PER_CRYSTAL]
S = TypeVar("S")

STEP_ACCURACY = 1e-3  # of a block's conjugate gradients


@dataclass(frozen=True)
class Kind(Generic[S, R]):
    """A kind of task: what does one from a state of type S, over what there is one each, and the
    class of the records that come of it."""

    name: str
    work: Callable[[Work, S, int, int], R]
    over: Over
    result: type[R]


# ---- before anything is refined ----------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class SurveySums:
    """Sums that set up the problem, and what hangs together by a segment's crystals.

    gain (6,), sums (3, n_reflections) : of models.scale_start.survey. n_rows, n_shown :
    observations, and how many show something of their reflection. labels : (n_reflections,) of
    connected reflections. first_reflection : one of each crystal's, −1 for none.
    """

    gain: SummedF8
    sums: SummedF8
    n_rows: Annotated[int, SUMMED]
    n_shown: Annotated[int, SUMMED]
    labels: Annotated[I4, joined(merge_labels)]
    first_reflection: Annotated[I4, PER_CRYSTAL]


def survey_segment(work: Work, state: None, first: int, last: int) -> SurveySums:
    """What a segment tells before anything is known."""
    table, n_shown = work.modelling.shown(work.read(first, last), first, last)
    model = bare(work, table, last - first)
    gain_sums, sums = survey(model)
    layout = model.layout
    labels = np.arange(layout.n_shared, dtype=np.int32)
    join_blocks(layout.start, layout.shared, labels)
    flatten(labels)
    holds = np.diff(layout.start) > 0
    first_shown = np.full(layout.n_local, -1, dtype=np.int32)
    first_shown[holds] = layout.shared[layout.start[:-1][holds]]
    return SurveySums(gain_sums, sums, layout.n_rows, n_shown, labels, first_shown)


@dataclass(frozen=True, eq=False)
class Overlaps:
    """Of each crystal: why it keeps its start scale, if it does, and how many of its reflections
    others show."""

    reasons: Annotated[U1, PER_CRYSTAL]
    n_overlaps: Annotated[I8, PER_CRYSTAL]


def overlaps_segment(work: Work, state: Surveyed, first: int, last: int) -> Overlaps:
    """What a block's own solution would say of a segment's crystals before it is found."""
    table, _ = work.modelling.shown(work.read(first, last), first, last)
    _, local, n_overlaps = prepared(bare(work, table, last - first), state.facts, work.settings)
    return Overlaps(start_reasons(local, n_overlaps, work.settings), n_overlaps)


# ---- blocks on their own -----------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class BlockSolved(BlockSolution):
    """A block's own solution, which is averaged in a gauge of its own (models.scale_average).

    reasons, n_overlaps : as of Overlaps. pulled : of each crystal, how far ln G is from where its
    prior has it. scatter : of the block's error model. converged : 1 if its solve did.
    """

    reasons: Annotated[U1, PER_CRYSTAL]
    n_overlaps: Annotated[I8, PER_CRYSTAL]
    pulled: CrystalF8
    scatter: Annotated[F8, LISTED]
    converged: Annotated[F8, LISTED]


def refine_block(work: Work, state: Surveyed | Common, first: int, last: int) -> BlockSolved:
    """The block's own solution, from the common point if there is one."""
    table, _ = work.modelling.shown(work.read(first, last), first, last)
    known = state.survey if isinstance(state, Common) else state
    absent = known.absent[first:last]
    if absent.any():
        table = table.take(~absent[table.crystal])
    engine, bounds = engine_of(work, table, last - first)
    problem = scale_problem(engine, table, bounds, work.reflections, work.settings, known.facts)
    result = work.modelling.solved(work, state, problem, table, first, last)
    lin = engine.linearise(result.model, result.point, work.loss)
    errors = result.model.errors
    return BlockSolved(
        local=result.point.local,
        information=np.einsum("mii->mi", lin.C),
        shared=result.point.shared,
        D=lin.D,
        of_crystal=problem.model.layout.component,
        of_reflection=problem.model.set_of_reflection,
        reasons=problem.reasons,
        n_overlaps=problem.n_overlaps,
        pulled=(result.point.local - lin.layout.prior_centre)[:, LN_G],
        scatter=np.array(errors.scatter),
        converged=np.array(float(result.converged)),
    )


# ---- rounds ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Value:
    """The objective with all that is lost on priors, χ² and the curvature D (n_reflections,) at the
    common point. errors : sums that the next error model comes from."""

    objective: Annotated[float, SUMMED]
    chi2: Annotated[float, SUMMED]
    D: SummedF8
    errors: SummedF8


@dataclass(frozen=True, eq=False)
class Gradient(Value):
    """The same, crystals refitted to the common intensities: their parameters (n, p), the reduced
    gradient q (n_reflections,), and how many segments' refits ended at a minimum."""

    local: CrystalF8
    q: SummedF8
    solved: Annotated[int, SUMMED]


def gradient_segment(work: Work, state: Common, first: int, last: int) -> Gradient:
    """Crystals refitted to the common intensities, and what they say about these."""
    model = model_of(work, state, first, last)
    start = work.modelling.second_chance(model, state, first, last, work.loss)
    refit = refit_local(scale_of(model).engine, model, start, work.loss)
    point = Point(refit.local, start.shared)
    fitted = model.errors.refits > 0
    errors = model.at(point).error_sums(point) if fitted else _NOTHING
    solved = int(refit.outcome is Outcome.SOLVED)
    return Gradient(refit.objective, refit.chi2, refit.D, errors, refit.local, refit.q, solved)


def value_segment(work: Work, state: Common, first: int, last: int) -> Value:
    """The objective at the common point as it is."""
    model, point = model_of(work, state, first, last), state.point(first, last)
    lin = scale_of(model).engine.linearise(model, point, work.loss)
    fitted = model.errors.refits > 0
    errors = model.at(point).error_sums(point) if fitted else _NOTHING
    return Value(lin.objective, lin.chi2, lin.D, errors)


@dataclass(frozen=True, eq=False)
class Steps:
    """What blocks take for the step of the whole job (n_reflections,), its square for their spread,
    and how many solved for it."""

    step: SummedF8
    square: SummedF8
    solved: Annotated[int, SUMMED]


def step_block(work: Work, state: Common, first: int, last: int) -> Steps:
    """What the block takes for the step of the whole job."""
    assert state.q is not None
    model = model_of(work, state, first, last)
    engine, layout = scale_of(model).engine, model.layout
    parts = components(engine, layout.start, layout.shared, layout.n_shared)
    layout = replace(layout, component=parts.local, n_components=len(parts.sizes))
    lin = engine.linearise(model, state.point(first, last), work.loss)
    lin = replace(lin, layout=layout)
    step = step_of_block(engine, lin, state.D, state.q, STEP_ACCURACY)
    shared = step.delta.shared
    return Steps(shared, shared * shared, int(step.outcome is Outcome.SOLVED))


_NOTHING = np.zeros(3)


# ---- merging -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class MergeSums:
    """Weighted sums (k, 6, n_reflections) of k merges; what uncertain scales add to them, spread
    (n_reflections,); variances (n, p) of crystals' parameters; pulls of observations in bins."""

    sums: SummedF8
    spread: SummedF8
    variance: CrystalF8
    pulls_by_intensity: SummedF8
    pulls_by_partiality: SummedF8


def merge_segment(work: Work, state: Merging, first: int, last: int) -> MergeSums:
    """Weighted sums by reflection, and the uncertainties of the scales."""
    common = state.common
    model, point = model_of(work, common, first, last), common.point(first, last)
    engine = scale_of(model).engine
    lin = engine.linearise(model, point, work.loss)
    V, spread = uncorrelated(engine, replace(lin, D=common.D))
    variance = np.einsum("mii->mi", V)
    scale = model.at(point)
    halves = state.halves[:, first:last]
    sums = np.stack([weighted_sums(scale, point, work.loss, half) for half in halves])
    return MergeSums(sums, spread, variance, *scale.pulls_in_bins(point))


@dataclass(frozen=True, eq=False)
class Weighed:
    """Weighted sums (k, 6, n_reflections) of k merges."""

    sums: SummedF8


def weigh_segment(work: Work, state: Merging, first: int, last: int) -> Weighed:
    """Weighted sums alone."""
    common = state.common
    model, point = model_of(work, common, first, last), common.point(first, last)
    scale = model.at(point)
    halves = state.halves[:, first:last]
    return Weighed(np.stack([weighted_sums(scale, point, work.loss, half) for half in halves]))


@dataclass(frozen=True, eq=False)
class Deviations:
    """Sums (k, 2, n_reflections) of deviations from k merges, and each crystal's correlation with
    the first."""

    sums: SummedF8
    cc: CrystalF8


def deviate_segment(work: Work, state: Merging, first: int, last: int) -> Deviations:
    """Deviations from the merged intensities, and each crystal's agreement with them."""
    assert state.means is not None
    common = state.common
    model, point = model_of(work, common, first, last), common.point(first, last)
    scale = model.at(point)
    each = [
        deviations(scale, point, mean, half[first:last])
        for mean, half in zip(state.means, state.halves, strict=True)
    ]
    return Deviations(np.stack([sums for sums, _ in each]), each[0][1])


def scaled_segment(work: Work, state: Merging, first: int, last: int) -> ScaledObservations:
    """The scaled observations of the crystals in the first merge, `crystal` in the order of the
    blocks."""
    common = state.common
    table = work.read(first, last)
    assert isinstance(table, Observations)
    model, point = model_of(work, common, first, last, table), common.point(first, last)
    table = table.take(~common.survey.absent[first:last][table.crystal])
    kept = state.halves[0, first:last] >= 0
    rows = scaled_rows(model.at(point), point, work.loss, kept)
    table = table.take(rows.row)
    return ScaledObservations(
        (rows.crystal + first).astype(np.int32),
        np.ascontiguousarray(table.hkl),
        rows.intensity,
        rows.sigma,
        rows.scale,
        rows.partiality,
        rows.weight,
        table.x_px,
        table.y_px,
    )


# ---- agreement -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Moments:
    """What crystals are compared with: (4, n_reflections) of models.agreement."""

    sums: SummedF8


def moments_segment(work: Work, state: Comparison, first: int, last: int) -> Moments:
    """What crystals are compared with."""
    common, half = state.common, state.half[first:last]
    model, point = model_of(work, common, first, last), common.point(first, last)
    return Moments(moments(model.at(point), point, work.loss, half))


@dataclass(frozen=True, eq=False)
class AgreementRows:
    """Columns (n,) of models.agreement.Agreement."""

    n: CrystalF8
    chi2: CrystalF8
    n_outliers: CrystalF8
    cc: CrystalF8
    cc_expected: CrystalF8
    signal: CrystalF8
    signal_sigma: CrystalF8
    delta_cc_half: CrystalF8
    delta_sigma: CrystalF8


def agreement_segment(work: Work, state: Comparison, first: int, last: int) -> AgreementRows:
    """How each crystal agrees with the others."""
    common, half = state.common, state.half[first:last]
    model, point = model_of(work, common, first, last), common.point(first, last)
    found = agreement_of(model.at(point), point, work.loss, half, state.moments)
    return AgreementRows(**{f.name: getattr(found, f.name) for f in fields(AgreementRows)})


SURVEY = Kind("survey", survey_segment, "segments", SurveySums)
OVERLAPS = Kind("overlaps", overlaps_segment, "segments", Overlaps)
REFINE = Kind("refine", refine_block, "blocks", BlockSolved)
GRADIENT = Kind("gradient", gradient_segment, "segments", Gradient)
VALUE = Kind("value", value_segment, "segments", Value)
STEP = Kind("step", step_block, "blocks", Steps)
MERGE = Kind("merge", merge_segment, "segments", MergeSums)
WEIGH = Kind("weigh", weigh_segment, "segments", Weighed)
DEVIATE = Kind("deviate", deviate_segment, "segments", Deviations)
SCALED = Kind("scaled", scaled_segment, "segments", ScaledObservations)
MOMENTS = Kind("moments", moments_segment, "segments", Moments)
AGREEMENT = Kind("agreement", agreement_segment, "segments", AgreementRows)
