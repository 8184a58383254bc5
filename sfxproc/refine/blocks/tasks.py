"""The tasks of scaling or postrefining in blocks: what is done with one block or segment.

Each takes the job, the state that all ranks agree on and a number, reads its crystals and returns
named arrays; which rank does it makes no difference. One line in TASKS makes a kind known. Tasks
over blocks see overlapping crystals; those over segments see every crystal once. What crystals are
modelled by, the job says (`Modelling`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Observations, Reason, Reflections, Rows
from sfxproc.kernels.components import flatten, join_blocks
from sfxproc.lsq import Engine, LevenbergMarquardt, Loss, Point, Result
from sfxproc.lsq.components import components
from sfxproc.lsq.rounds import refit_local, step_of_block
from sfxproc.lsq.sampled import uncorrelated
from sfxproc.lsq.step import Outcome
from sfxproc.models.agreement import Agreement, agreement_of, moments
from sfxproc.models.error_model import ErrorModel
from sfxproc.models.postrefine import PostrefineModel
from sfxproc.models.scale import LN_G, ScaleModel
from sfxproc.models.scale_merge import deviations, weighted_sums
from sfxproc.models.scale_start import (
    Facts,
    ScaleProblem,
    ScaleSettings,
    bare_model,
    finish,
    scale_problem,
    split_variances,
    survey,
)
from sfxproc.parallel.blocks import Blocks
from sfxproc.parallel.chunks import ChunkSums, plan_chunks
from sfxproc.parallel.comm import SerialComm
from sfxproc.parallel.coordinator import Arrays
from sfxproc.report.log import Log

F8 = NDArray[np.float64]
Table = Rows | Observations
Model = ScaleModel | PostrefineModel

STEP_ACCURACY = 1e-3  # of a block's conjugate gradients
ROUGH = 1e-3  # relative decrease of the objective at which a block's own solution will do


@dataclass(frozen=True, eq=False)
class Work:
    """What a task needs besides the state, the same on all ranks.

    read : the observations of the crystals at positions first … last−1 of the blocks' order,
    `crystal` counted from first. threads : of this rank; results do not depend on it. modelling :
    what they are modelled by.
    """

    read: Callable[[int, int], Table]
    blocks: Blocks
    reflections: Reflections
    settings: ScaleSettings
    loss: Loss
    threads: int
    max_iterations: int
    tolerance: float
    modelling: Modelling

    @property
    def solver(self) -> LevenbergMarquardt:
        """What solves a block on its own."""
        return LevenbergMarquardt(
            loss=self.loss, max_iterations=self.max_iterations, tolerance=self.tolerance
        )

    def positions(self, over: str, number: int) -> tuple[int, int]:
        """The crystals of a block or segment, as a range of the order."""
        borders = self.blocks.segments
        first, last = (
            borders[number : number + 2] if over == "segments" else self.blocks.bounds[number]
        )
        return int(first), int(last)

    def count(self, over: str) -> int:
        """How many blocks or segments there are."""
        return len(self.blocks.blocks) if over == "blocks" else len(self.blocks.segments) - 1


@dataclass(frozen=True, eq=False)
class State:
    """What is known so far: `arrays` by name, those of crystals in the order of the blocks.

    Present as the job goes on: expected, seen (facts); local, shared (the point); refined (of each
    crystal, whether its scale is); pulled (of each crystal, how far ln G is from where its prior
    has it), centre (of priors); D, q (of the whole job); gone (of each crystal, whether it was left
    out for what it showed); half, mean (for merging); moments (for agreement).
    """

    errors: ErrorModel = field(default_factory=ErrorModel)
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.arrays[name]

    def with_arrays(self, **arrays: NDArray[Any]) -> State:
        """The state with some arrays new."""
        return replace(self, arrays={**self.arrays, **arrays})

    @property
    def facts(self) -> Facts:
        """What the whole job told before anything was refined."""
        return Facts(self.errors.counted, self["expected"], self["seen"])

    def point(self, first: int, last: int) -> Point:
        """The common point, of some crystals."""
        return Point(self["local"][first:last], self["shared"])


@dataclass(frozen=True)
class Kind:
    """A kind of task: what does one, and over what there is one each. rows : its arrays that hold
    a row a crystal; all others are summed."""

    work: Callable[[Work, State, int, int], Arrays]
    over: Literal["blocks", "segments"]
    rows: frozenset[str] = frozenset()


class Modelling(Protocol):
    """What a job models its crystals by. Arrays of crystals are in the order of the blocks."""

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of a crystal's p parameters, ln G and B first."""

    @property
    def n_free(self) -> int:
        """How many of them are free."""

    @property
    def begin(self) -> F8:
        """(n, p) where crystals begin, but for their scales."""

    def shown(self, table: Table, first: int, last: int) -> tuple[Table, int]:
        """Observations of some crystals with the partialities they begin with, and how many show
        something of their reflection."""

    def require_shown(self, n: int, n_shown: int, log: Log) -> None:
        """Raise DataError if too few of the job's observations do."""

    def solved(
        self, work: Work, state: State, problem: ScaleProblem, table: Table, first: int, last: int
    ) -> Result[Model]:
        """A block's own solution, from the common point if there is one."""

    def model(self, scale: ScaleModel, table: Table, state: State, first: int) -> Model:
        """The model of some crystals that are set up for scaling."""

    def second_chance(self, model: Model, state: State, first: int, last: int, loss: Loss) -> Point:
        """The common point of some crystals, which begin anew where they strayed and that is
        better."""

    def held(self, state: State) -> State:
        """The state with what its point makes of the priors."""

    def columns(self, local: F8) -> dict[str, F8]:
        """Columns of frames.h5 beside the parameters."""


@dataclass(frozen=True, eq=False)
class Scaling:
    """ln G and B alone."""

    begin: F8
    b_factor: bool
    parameters: tuple[str, ...] = ("ln_G", "B_A2")

    @property
    def n_free(self) -> int:
        """Parameters of a crystal that are free."""
        return 1 + self.b_factor

    def shown(self, table: Table, first: int, last: int) -> tuple[Table, int]:
        """As recorded."""
        return table, len(table)

    def require_shown(self, n: int, n_shown: int, log: Log) -> None:
        """Nothing is required."""

    def solved(
        self, work: Work, state: State, problem: ScaleProblem, table: Table, first: int, last: int
    ) -> Result[ScaleModel]:
        """By Levenberg–Marquardt."""
        model, start = problem.model, problem.start
        if "local" in state.arrays:
            model, start = replace(model, errors=state.errors), state.point(first, last)
        return work.solver.solve(model.engine, model, start)

    def model(self, scale: ScaleModel, table: Table, state: State, first: int) -> Model:
        """The same."""
        return scale

    def second_chance(self, model: Model, state: State, first: int, last: int, loss: Loss) -> Point:
        """Scales do not stray."""
        return state.point(first, last)

    def held(self, state: State) -> State:
        """Priors stay as they are."""
        return state

    def columns(self, local: F8) -> dict[str, F8]:
        """None."""
        return {}


def engine_of(work: Work, table: Table, n: int) -> tuple[Engine, NDArray[np.int64]]:
    """An engine for n crystals alone, and the borders of their chunks."""
    counts = np.bincount(table.crystal, minlength=n)
    chunks = plan_chunks(counts, len(work.reflections), SerialComm())
    return Engine(ChunkSums(SerialComm(), chunks), work.threads), chunks.local_bounds


def bare(work: Work, table: Table, n: int) -> ScaleModel:
    """The model of n crystals before anything is known."""
    engine, bounds = engine_of(work, table, n)
    return bare_model(engine, table, bounds, work.reflections)


def model_of(work: Work, state: State, first: int, last: int) -> Model:
    """The model of some crystals as the state has it."""
    table = work.read(first, last)
    model = split_variances(bare(work, table, last - first), state.facts, work.settings)
    share = 1.0 - 1.0 / np.maximum(state["seen"], 1.0)
    model = finish(model, state["refined"][first:last], work.settings)
    model = replace(model, share=share, errors=state.errors)
    made = work.modelling.model(model, table, state, first)
    return made.without(state["gone"][first:last]) if "gone" in state.arrays else made


def engine_at(model: Model) -> Engine:
    """The engine of a model."""
    return (model if isinstance(model, ScaleModel) else model.scale).engine


def survey_segment(work: Work, state: State, first: int, last: int) -> Arrays:
    """Sums that set up the problem, and which reflections hang together by its crystals."""
    table, n_shown = work.modelling.shown(work.read(first, last), first, last)
    model = bare(work, table, last - first)
    gain_sums, sums = survey(model)
    layout = model.layout
    parent = np.arange(layout.n_shared, dtype=np.int32)
    join_blocks(layout.start, layout.shared, parent)
    flatten(parent)
    holds = np.diff(layout.start) > 0
    first_shown = np.full(layout.n_local, -1, dtype=np.int32)
    first_shown[holds] = layout.shared[layout.start[:-1][holds]]
    return {
        "gain": gain_sums,
        "sums": sums,
        "n_rows": np.array([layout.n_rows, n_shown]),
        "parent": parent,
        "first_shown": first_shown,
    }


def refine_block(work: Work, state: State, first: int, last: int) -> Arrays:
    """The block's own solution, from the common point if there is one."""
    table, _ = work.modelling.shown(work.read(first, last), first, last)
    engine, bounds = engine_of(work, table, last - first)
    problem = scale_problem(engine, table, bounds, work.reflections, work.settings, state.facts)
    result = work.modelling.solved(work, state, problem, table, first, last)
    lin = engine.linearise(result.model, result.point, work.loss)
    return {
        "local": result.point.local,
        "pulled": (result.point.local - lin.layout.prior_centre)[:, LN_G],
        "information": np.einsum("mii->mi", lin.C),
        "shared": result.point.shared,
        "D": lin.D,
        "of_crystal": problem.model.layout.component,
        "of_reflection": problem.model.set_of_reflection,
        "refined": problem.reasons == Reason.NONE,
        "reasons": problem.reasons,
        "n_overlaps": problem.n_overlaps,
        "scatter": np.array([result.model.errors.scatter]),
    }


def gradient_segment(work: Work, state: State, first: int, last: int) -> Arrays:
    """Crystals refitted to the common intensities, and what they say about these."""
    model = model_of(work, state, first, last)
    start = work.modelling.second_chance(model, state, first, last, work.loss)
    refit = refit_local(engine_at(model), model, start, work.loss)
    point = Point(refit.local, start.shared)
    fitted = model.errors.refits > 0
    return {
        "local": refit.local,
        "D": refit.D,
        "q": refit.q,
        "objective": np.array([refit.objective, refit.chi2]),
        "errors": model.at(point).error_sums(point) if fitted else _NOTHING,
    }


def value_segment(work: Work, state: State, first: int, last: int) -> Arrays:
    """The objective at the common point as it is."""
    model = model_of(work, state, first, last)
    lin = engine_at(model).linearise(model, state.point(first, last), work.loss)
    return {"D": lin.D, "objective": np.array([lin.objective, lin.chi2])}


def step_block(work: Work, state: State, first: int, last: int) -> Arrays:
    """What the block takes for the step of the whole job, its square for their spread, and whether
    it was solved."""
    model = model_of(work, state, first, last)
    engine, layout = engine_at(model), model.layout
    parts = components(engine, layout.start, layout.shared, layout.n_shared)
    layout = replace(layout, component=parts.local, n_components=len(parts.sizes))
    lin = engine.linearise(model, state.point(first, last), work.loss)
    lin = replace(lin, layout=layout)
    step = step_of_block(engine, lin, state["D"], state["q"], STEP_ACCURACY)
    solved = np.array([step.outcome is Outcome.SOLVED], dtype=np.int64)
    return {"step": step.delta.shared, "square": step.delta.shared**2, "solved": solved}


def merge_segment(work: Work, state: State, first: int, last: int) -> Arrays:
    """Weighted sums by reflection, and the uncertainties of the scales."""
    model = model_of(work, state, first, last)
    point = state.point(first, last)
    engine = engine_at(model)
    lin = engine.linearise(model, point, work.loss)
    V, spread = uncorrelated(engine, replace(lin, D=state["D"]))
    variance = np.einsum("mii->mi", V)
    sums = weighted_sums(model.at(point), point, work.loss, state["half"][first:last])
    return {"sums": sums, "spread": spread, "variance": variance}


def deviate_segment(work: Work, state: State, first: int, last: int) -> Arrays:
    """Deviations from the merged intensities, and each crystal's agreement with them."""
    model, point = model_of(work, state, first, last), state.point(first, last)
    half = state["half"][first:last]
    sums, agreement = deviations(model.at(point), point, state["mean"], half)
    return {"sums": sums, "cc": agreement}


def moments_segment(work: Work, state: State, first: int, last: int) -> Arrays:
    """What crystals are compared with."""
    model, point = model_of(work, state, first, last), state.point(first, last)
    return {"sums": moments(model.at(point), point, work.loss, state["half"][first:last])}


def agreement_segment(work: Work, state: State, first: int, last: int) -> Arrays:
    """How each crystal agrees with the others, and how many observations it has."""
    model, point = model_of(work, state, first, last), state.point(first, last)
    half = state["half"][first:last]
    found = agreement_of(model.at(point), point, work.loss, half, state["moments"])
    columns = {name: getattr(found, name) for name in AGREEMENT}
    return columns | {"n_rows": np.diff(model.layout.start)}


_NOTHING = np.zeros(3)
AGREEMENT = tuple(f.name for f in fields(Agreement) if f.name != "n_crystals")

TASKS: dict[str, Kind] = {
    "survey": Kind(survey_segment, "segments", frozenset({"first_shown"})),
    "refine": Kind(refine_block, "blocks"),
    "gradient": Kind(gradient_segment, "segments", frozenset({"local"})),
    "value": Kind(value_segment, "segments"),
    "step": Kind(step_block, "blocks"),
    "merge": Kind(merge_segment, "segments", frozenset({"variance"})),
    "deviate": Kind(deviate_segment, "segments", frozenset({"cc"})),
    "moments": Kind(moments_segment, "segments"),
    "agreement": Kind(agreement_segment, "segments", frozenset({*AGREEMENT, "n_rows"})),
}
