"""The ways to postrefine: all together, or crystals and intensities in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from sfxproc.kernels.variances import ln_variances
from sfxproc.lsq import Engine, Iteration, Loss, Point, Result
from sfxproc.lsq.compared.alternating import alternating
from sfxproc.lsq.problem import Layout
from sfxproc.models.parameters import groups_of
from sfxproc.models.postrefine import PostrefineModel, cells_to_mean
from sfxproc.models.postrefine_strayed import second_chance
from sfxproc.models.scale import ScaleModel

F8 = NDArray[np.float64]
CrystalModelT = TypeVar("CrystalModelT", ScaleModel, PostrefineModel)
Judge = Callable[[Result[PostrefineModel]], NDArray[np.bool_]]
"""Which of this process's crystals are not to be used any longer."""
Tell = Callable[[str], None]


class Solve(Protocol):
    """A solve of a model from a point; the key names it, in a checkpoint."""

    def __call__(self, model: CrystalModelT, point: Point, key: str) -> Result[CrystalModelT]:
        """The result."""


AT_REST = 0.01  # relative change of the scatter from one pass to the next


@dataclass(frozen=True, eq=False)
class Refinement:
    """What a way to postrefine goes by. refits : of the error model, in a pass; passes, cycles : at
    most. judge : asked after a pass, if there is one."""

    engine: Engine
    solve: Solve
    loss: Loss
    refits: int
    passes: int
    cycles: int = 1
    tell: Tell = lambda _: None
    judge: Judge | None = None
    progress: Callable[[Iteration], None] | None = None


def jointly(way: Refinement, model: PostrefineModel, start: Point) -> Result[PostrefineModel]:
    """All parameters together, in as many passes as it takes: what remains unexplained shrinks
    while orientations improve, strayed crystals begin again, and bad ones show."""
    first, again = start, True
    number = 0
    done: tuple[Iteration, ...] = ()
    while again:
        number += 1
        before = model.errors
        model = model.with_errors(replace(before, refits=way.refits))
        way.tell(f"pass {number}: scales, orientations, sizes and intensities together")
        result = way.solve(model, start, f"pass-{number}")
        model, done = result.model, (*done, *result.iterations)
        start, moved = second_chance(model, result.point, first, way.loss)
        if moved:
            way.tell(f"{moved:,} crystals fit better when refined anew from where they began")
        bad = np.zeros(model.layout.n_local, dtype=bool)
        if way.judge is not None:
            bad = way.judge(result)
        n_bad = int(way.engine.dots(model.layout, *[bad[:, None].astype(np.float64)] * 2)[0])
        model = cells_to_mean(model.without(bad) if n_bad else model, start)
        unsettled = abs(model.errors.scatter - before.scatter) > AT_REST * before.scatter
        again = bool(moved or n_bad or (unsettled and way.refits > 0)) and number < way.passes
    if n_bad or moved:
        # what the last pass changed has yet to be told to the intensities
        result = way.solve(model.with_errors(replace(model.errors, refits=0)), start, "last")
        done = *done, *result.iterations
    numbered = tuple(replace(one, number=n) for n, one in enumerate(done, 1))
    return replace(result, iterations=numbered)


def in_cycles(way: Refinement, model: PostrefineModel, start: Point) -> Result[PostrefineModel]:
    """In turn: scales, then orientations, sizes and the rest of each crystal; then intensities."""
    return _alternating(way, model, start, groups_of(model.layout.parameters), way.cycles)


def crystal_by_crystal(
    way: Refinement, model: PostrefineModel, start: Point
) -> Result[PostrefineModel]:
    """Every crystal by itself against the intensities of the start, which it ends with merging."""
    return _alternating(way, model, start, [range(len(model.layout.parameters))], 1)


def _alternating(
    way: Refinement,
    model: PostrefineModel,
    start: Point,
    groups: Sequence[Sequence[int]],
    cycles: int,
) -> Result[PostrefineModel]:
    model = model.with_errors(replace(model.errors, refits=way.refits))

    def restrict(some: PostrefineModel, layout: Layout) -> PostrefineModel:
        return replace(some, scale=replace(some.scale, layout=layout))

    return alternating(way.engine, model, start, way.loss, groups, cycles, restrict, way.progress)


SCHEMES = {"joint": jointly, "cycles": in_cycles, "crystal-by-crystal": crystal_by_crystal}


def unlikeliness(model: PostrefineModel, point: Point, loss: Loss) -> float:
    """−2 ln L of a solved model, but for a constant: Σ ln V + ρ(d) over the whole job."""
    engine, scale = model.scale.engine, model.at(point)
    bounds = scale.layout.chunk

    def chunk(c: int) -> float:
        return float(ln_variances(scale.arguments(point, bounds[c], bounds[c + 1])))

    parts = np.array(engine.map(chunk, len(bounds) - 1)).reshape(-1, 1)
    return float(engine.sums.scalars(parts)[0]) + 2.0 * engine.objective(model, point, loss)
