"""What a task over a block or segment works on: its crystals, and what they are modelled by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Observations, Reflections, Rows
from sfxproc.lsq import Engine, LevenbergMarquardt, Loss, Point, Result
from sfxproc.models.postrefine import PostrefineModel
from sfxproc.models.scale import ScaleModel
from sfxproc.models.scale_start import (
    ScaleProblem,
    ScaleSettings,
    bare_model,
    finish,
    split_variances,
)
from sfxproc.parallel.blocks import Blocks
from sfxproc.parallel.chunks import ChunkSums, plan_chunks
from sfxproc.parallel.comm import SerialComm
from sfxproc.refine.blocks.state import Common, Surveyed
from sfxproc.report.log import Log

F8 = NDArray[np.float64]
Table = Rows | Observations
Model = ScaleModel | PostrefineModel
Over = Literal["blocks", "segments"]


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

    @property
    def s2(self) -> F8:
        """Of the reflections."""
        return np.asarray(self.reflections.s2, dtype=np.float64)

    @property
    def n_crystals(self) -> int:
        """Crystals in the blocks."""
        return len(self.blocks.order)

    def positions(self, over: Over, number: int) -> tuple[int, int]:
        """The crystals of a block or segment, as a range of the order."""
        borders = self.blocks.segments
        first, last = (
            borders[number : number + 2] if over == "segments" else self.blocks.bounds[number]
        )
        return int(first), int(last)

    def count(self, over: Over) -> int:
        """How many blocks or segments there are."""
        return len(self.blocks.blocks) if over == "blocks" else len(self.blocks.segments) - 1


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
        self,
        work: Work,
        state: Surveyed | Common,
        problem: ScaleProblem,
        table: Table,
        first: int,
        last: int,
    ) -> Result[Model]:
        """A block's own solution, from the common point if there is one, then with its error
        model."""

    def model(self, scale: ScaleModel, table: Table, state: Common, first: int) -> Model:
        """The model of some crystals that are set up for scaling."""

    def second_chance(
        self, model: Model, state: Common, first: int, last: int, loss: Loss
    ) -> Point:
        """The common point of some crystals, which begin anew where they strayed and that is
        better."""

    def held(self, state: Common) -> Common:
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
        self,
        work: Work,
        state: Surveyed | Common,
        problem: ScaleProblem,
        table: Table,
        first: int,
        last: int,
    ) -> Result[ScaleModel]:
        """By Levenberg–Marquardt."""
        model, start = problem.model, problem.start
        if isinstance(state, Common):
            model = replace(model, errors=replace(state.errors, refits=0))
            start = state.point(first, last)
        return work.solver.solve(model.engine, model, start)

    def model(self, scale: ScaleModel, table: Table, state: Common, first: int) -> Model:
        """The same."""
        return scale

    def second_chance(
        self, model: Model, state: Common, first: int, last: int, loss: Loss
    ) -> Point:
        """Scales do not stray."""
        return state.point(first, last)

    def held(self, state: Common) -> Common:
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


def model_of(work: Work, state: Common, first: int, last: int, table: Table | None = None) -> Model:
    """The model of some crystals as the state has it, those that are absent without observations.
    table : their observations, if they are read already."""
    table = work.read(first, last) if table is None else table
    survey = state.survey
    model = split_variances(bare(work, table, last - first), survey.facts, work.settings)
    share = 1.0 - 1.0 / np.maximum(survey.facts.seen, 1.0)
    model = finish(model, state.refined[first:last], work.settings)
    model = replace(model, share=share, errors=state.errors)
    made = work.modelling.model(model, table, state, first)
    absent = survey.absent[first:last]
    return made.without(absent) if absent.any() else made


def scale_of(model: Model) -> ScaleModel:
    """The scaling model in a model, its partialities those of the point looked at last."""
    return model if isinstance(model, ScaleModel) else model.scale
