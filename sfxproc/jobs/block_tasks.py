"""The tasks of scaling in blocks: what is done with one block or segment of crystals.

Each takes the job, the state that all ranks agree on and a number, reads its crystals and returns
named arrays; which rank does it makes no difference. One line in TASKS makes a kind known. Tasks
over blocks see overlapping crystals; those over segments see every crystal once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Reason, Reflections, Rows
from sfxproc.kernels.components import flatten, join_blocks
from sfxproc.lsq import Engine, LevenbergMarquardt, Loss, Point
from sfxproc.lsq.components import components
from sfxproc.lsq.rounds import refit_local, step_of_block
from sfxproc.lsq.sampled import uncorrelated
from sfxproc.models.error_model import ErrorModel
from sfxproc.models.scale import ScaleModel
from sfxproc.models.scale_merge import deviations, weighted_sums
from sfxproc.models.scale_start import (
    Facts,
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

F8 = NDArray[np.float64]

STEP_ACCURACY = 1e-3  # of a block's conjugate gradients
ROUGH = 1e-3  # relative decrease of the objective at which a block's own solution will do


@dataclass(frozen=True, eq=False)
class Work:
    """What a task needs besides the state, the same on all ranks.

    read : the observations of the crystals at positions first … last−1 of the blocks' order,
    `crystal` counted from first. threads : of this rank; results do not depend on it.
    """

    read: Callable[[int, int], Rows]
    blocks: Blocks
    reflections: Reflections
    settings: ScaleSettings
    loss: Loss
    threads: int
    max_iterations: int
    tolerance: float

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
    crystal, whether its scale is); D, q (of the whole job); half, mean (for merging).
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


def engine_of(work: Work, observations: Rows, n: int) -> tuple[Engine, NDArray[np.int64]]:
    """An engine for n crystals alone, and the borders of their chunks."""
    counts = np.bincount(observations.crystal, minlength=n)
    chunks = plan_chunks(counts, len(work.reflections), SerialComm())
    return Engine(ChunkSums(SerialComm(), chunks), work.threads), chunks.local_bounds


def bare(work: Work, first: int, last: int) -> ScaleModel:
    """The model of some crystals before anything is known."""
    observations = work.read(first, last)
    engine, bounds = engine_of(work, observations, last - first)
    return bare_model(engine, observations, bounds, work.reflections)


def model_of(work: Work, state: State, first: int, last: int) -> ScaleModel:
    """The model of some crystals as the state has it."""
    model = split_variances(bare(work, first, last), state.facts, work.settings)
    share = 1.0 - 1.0 / np.maximum(state["seen"], 1.0)
    model = finish(model, state["refined"][first:last], work.settings)
    return replace(model, share=share, errors=state.errors)


def survey_segment(work: Work, state: State, first: int, last: int) -> Arrays:
    """Sums that set up the problem, and which reflections hang together by its crystals."""
    model = bare(work, first, last)
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
        "n_rows": np.array([layout.n_rows]),
        "parent": parent,
        "first_shown": first_shown,
    }


def refine_block(work: Work, state: State, first: int, last: int) -> Arrays:
    """The block's own solution, from the common point if there is one."""
    observations = work.read(first, last)
    engine, bounds = engine_of(work, observations, last - first)
    problem = scale_problem(
        engine, observations, bounds, work.reflections, work.settings, state.facts
    )
    model, start = problem.model, problem.start
    if "local" in state.arrays:
        model, start = replace(model, errors=state.errors), state.point(first, last)
    solver = LevenbergMarquardt(
        loss=work.loss, max_iterations=work.max_iterations, tolerance=work.tolerance
    )
    result = solver.solve(engine, model, start)
    lin = engine.linearise(result.model, result.point, work.loss)
    assert isinstance(result.model, ScaleModel)
    return {
        "local": result.point.local,
        "information": np.einsum("mii->mi", lin.C),
        "shared": result.point.shared,
        "D": lin.D,
        "of_crystal": model.layout.component,
        "of_reflection": model.set_of_reflection,
        "refined": problem.reasons == Reason.NONE,
        "reasons": problem.reasons,
        "n_overlaps": problem.n_overlaps,
        "scatter": np.array([result.model.errors.scatter]),
    }


def gradient_segment(work: Work, state: State, first: int, last: int) -> Arrays:
    """Crystals refitted to the common intensities, and what they say about these."""
    model = model_of(work, state, first, last)
    refit = refit_local(model.engine, model, state.point(first, last), work.loss)
    fitted = model.errors.refits > 0
    return {
        "local": refit.local,
        "D": refit.D,
        "q": refit.q,
        "objective": np.array([refit.objective, refit.chi2]),
        "errors": model.error_sums(Point(refit.local, state["shared"])) if fitted else _NOTHING,
    }


def value_segment(work: Work, state: State, first: int, last: int) -> Arrays:
    """The objective at the common point as it is."""
    model = model_of(work, state, first, last)
    lin = model.engine.linearise(model, state.point(first, last), work.loss)
    return {"D": lin.D, "objective": np.array([lin.objective, lin.chi2])}


def step_block(work: Work, state: State, first: int, last: int) -> Arrays:
    """What the block takes for the step of the whole job, and its square for their spread."""
    model = model_of(work, state, first, last)
    layout = model.layout
    parts = components(model.engine, layout.start, layout.shared, layout.n_shared)
    layout = replace(layout, component=parts.local, n_components=len(parts.sizes))
    model = replace(model, layout=layout)
    lin = model.engine.linearise(model, state.point(first, last), work.loss)
    step = step_of_block(model.engine, lin, state["D"], state["q"], STEP_ACCURACY).shared
    return {"step": step, "square": step * step}


def merge_segment(work: Work, state: State, first: int, last: int) -> Arrays:
    """Weighted sums by reflection, and the uncertainties of the scales."""
    model = model_of(work, state, first, last)
    point = state.point(first, last)
    lin = model.engine.linearise(model, point, work.loss)
    V, spread = uncorrelated(model.engine, replace(lin, D=state["D"]))
    variance = np.einsum("mii->mi", V)
    sums = weighted_sums(model, point, work.loss, state["half"][first:last])
    return {"sums": sums, "spread": spread, "variance": variance}


def deviate_segment(work: Work, state: State, first: int, last: int) -> Arrays:
    """Deviations from the merged intensities, and each crystal's agreement with them."""
    model = model_of(work, state, first, last)
    half = state["half"][first:last]
    sums, agreement = deviations(model, state.point(first, last), state["mean"], half)
    return {"sums": sums, "cc": agreement}


_NOTHING = np.zeros(3)

TASKS: dict[str, Kind] = {
    "survey": Kind(survey_segment, "segments", frozenset({"first_shown"})),
    "refine": Kind(refine_block, "blocks"),
    "gradient": Kind(gradient_segment, "segments", frozenset({"local"})),
    "value": Kind(value_segment, "segments"),
    "step": Kind(step_block, "blocks"),
    "merge": Kind(merge_segment, "segments", frozenset({"variance"})),
    "deviate": Kind(deviate_segment, "segments", frozenset({"cc"})),
}
