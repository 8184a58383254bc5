"""Local parameters and shared ones in turn, as programs do it that know no joint problem.

Every block is refitted at fixed shared parameters, group by group of its parameters; then each
shared one is set to what its own residuals want at fixed local ones. The fixed point is that of the
joint problem, but what all blocks have in common with the shared ones moves a little only from
cycle to cycle: for comparison, and for shared parameters that are known and shall not move.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sfxproc.lsq.engine import Engine
from sfxproc.lsq.problem import F8, AnyModel, Layout, Loss, ModelT, Point, retracted
from sfxproc.lsq.result import Iteration, Result, counts
from sfxproc.lsq.rounds import Refit, refit_local
from sfxproc.lsq.step import Outcome


def alternating(
    engine: Engine,
    model: ModelT,
    start: Point,
    loss: Loss,
    groups: Sequence[Sequence[int]],
    cycles: int,
    restrict: Callable[[ModelT, Layout], ModelT],
    progress: Callable[[Iteration], None] | None = None,
    tolerance: float = 1e-6,
) -> Result[ModelT]:
    """At most so many cycles, until the objective falls by less than the tolerance, relative, and
    every refit of the cycle is solved.

    groups : of local parameters, those of a group refitted together; one after the other.
    restrict : gives the model with another layout.
    """
    began = time.monotonic()
    point, told, converged, solved = start, [], False, True
    before = engine.linearise(model, point, loss)
    for number in range(1, cycles + 1):
        since = time.monotonic()
        outcomes = set()
        for group in groups:
            refit = _of_group(engine, model, point, loss, group, restrict)
            point = Point(refit.local, point.shared)
            outcomes.add(refit.outcome)
        model = model.refreshed(point)
        point = settled(engine, model, point, loss)
        lin = engine.linearise(model, point, loss)
        fall = before.objective - lin.objective
        told.append(
            Iteration(
                number,
                before.objective,
                before.chi2,
                0.0,
                np.nan,
                np.nan,
                0,
                True,
                time.monotonic() - since,
            )
        )
        if progress is not None:
            progress(told[-1])
        before = lin
        whole = bool(np.isfinite(lin.D).all() and np.isfinite(lin.q).all())
        solved = whole and outcomes <= {Outcome.SOLVED}
        if solved and abs(fall) <= tolerance * abs(lin.objective):
            converged = True
            break
    n_rows, n_parameters = counts(engine, before)
    words = "The objective no longer falls" if converged else "All cycles are done"
    if not (converged or solved):
        words += "; in the last one some parameters could not be refitted"
    return Result(
        point,
        model,
        converged,
        f"{words}.",
        before.objective,
        before.chi2,
        n_rows,
        n_parameters,
        tuple(told),
        time.monotonic() - began,
    )


def settled(engine: Engine, model: AnyModel, point: Point, loss: Loss, times: int = 2) -> Point:
    """The shared parameters that fixed local ones want; weights follow so many times."""
    for _ in range(times):
        lin = engine.linearise(model, point, loss)
        step: F8 = np.divide(-lin.q, lin.D, out=np.zeros_like(lin.q), where=lin.D > 0.0)
        point = retracted(model, point, Point(np.zeros_like(point.local), step))
    return point


def _of_group(
    engine: Engine,
    model: ModelT,
    point: Point,
    loss: Loss,
    group: Sequence[int],
    restrict: Callable[[ModelT, Layout], ModelT],
) -> Refit:
    """Each block refitted in the parameters of a group alone."""
    layout = model.layout
    only: NDArray[np.bool_] = np.zeros(len(layout.parameters), dtype=bool)
    only[list(group)] = True
    some = restrict(model, replace(layout, free=layout.free & only))
    return refit_local(engine, some, point, loss)
