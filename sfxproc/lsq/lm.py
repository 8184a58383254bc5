"""Levenberg–Marquardt with gain-ratio damping on scaled variables.

A step solves (H + λ diag H) d = −gradient, so that each parameter is damped in its own unit.
The gain ratio ϱ = actual / predicted decrease sets λ: times max(1/3, 1 − (2ϱ − 1)³) after a good
step, times 2, 4, 8 … after refused ones (Nielsen, IMM-REP-1999-05). Where the linear solve gave no
step the damping is raised too; a step that it gave before it failed is tried like any other, but
never taken for a sign of convergence: the damping is raised until a step is solved.

What is minimised is ½ Σ ρ(d) (letters of `kernels.arrow`); the robust loss enters the step as
weights. A model that adapts its error model does so after each accepted step; trial and start of
a step are always compared under the same one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf, isfinite

from sfxproc.lsq.engine import Engine, Linearisation
from sfxproc.lsq.problem import Loss, Model, Point
from sfxproc.lsq.result import Iteration, Result, counts
from sfxproc.lsq.schur import schur_cg
from sfxproc.lsq.step import Outcome, Step

StepMethod = Callable[[Engine, Linearisation, float, float], Step]
"""A damped step: of an engine, a linearisation, a damping value and a tolerance."""

MIN_DAMPING, MAX_DAMPING = 1e-12, 1e12
FREE = 1.0  # damping up to which a step is about as long as the problem wants it
NEGLIGIBLE = 1e-4  # decrease of ½ χ²: the whole step is then within 0.015 of its joint sigma
STALLED = 10  # iterations that together lower the objective by next to nothing: at a kink


@dataclass(frozen=True, eq=False)
class State:
    """Where a solve stands between two iterations: all that the next ones depend on.

    model : with its error model as adapted so far. known : the objective at the point where it
    need not be worked out anew; None where the error model was adapted after the step. seconds :
    spent so far. The objective of the point is the best one met.
    """

    point: Point
    damping: float
    growth: float
    model: Model
    known: float | None = None
    iterations: tuple[Iteration, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True)
class LevenbergMarquardt:
    """Settings of the solver.

    step : how the damped normal equations are solved. tolerance : converged when the predicted
    decrease of the objective falls below this fraction of it, or below NEGLIGIBLE. cg_tolerance :
    accuracy of each step.
    """

    step: StepMethod = schur_cg
    loss: Loss = field(default_factory=Loss)
    max_iterations: int = 50
    tolerance: float = 1e-8
    damping: float = 1e-3
    cg_tolerance: float = 1e-2

    def solve(
        self,
        engine: Engine,
        model: Model,
        start: Point,
        progress: Callable[[Iteration], None] = lambda _: None,
        *,
        state: State | None = None,
        keep: Callable[[State], None] = lambda _: None,
    ) -> Result:
        """Minimise from a starting point. The result's point is the best one met.

        keep : told where the solve stands after each iteration but the last. state : one of
        those, to go on from it instead, with the same bits as without the break.
        """
        if state is None:
            state = State(start, self.damping, 2.0, model.refreshed(start))
        began = time.monotonic() - state.seconds
        point, damping, growth = state.point, state.damping, state.growth
        model, known = state.model, state.known
        lin = engine.linearise(model, point, self.loss, known)
        iterations = list(state.iterations)
        best = lin.objective
        not_finite = "Stopped: the objective is not a finite number."
        converged, termination = False, "" if isfinite(lin.objective) else not_finite
        while not termination:
            at = time.monotonic()
            step = self.step(engine, lin, damping, self.cg_tolerance)
            little = max(self.tolerance * lin.objective, NEGLIGIBLE)
            solved = step.outcome is Outcome.SOLVED and step.predicted >= -little
            trial, objective, gain, accepted = point, lin.objective, 0.0, False
            if solved or step.predicted > 0.0:
                trial = model.retract(point, step.local, step.shared)
                objective = engine.objective(model, trial, self.loss)
                gain = (lin.objective - objective) / step.predicted if step.predicted > 0 else 0.0
                accepted = isfinite(objective) and bool(objective <= lin.objective)
            small = bool(step.predicted <= little)
            small = small and damping <= FREE  # what much damping shortened tells nothing
            tiny = small and solved
            before, used = lin, damping
            if accepted:
                point, best, growth = trial, objective, 2.0
                if small and not solved:  # less damping would fare no better
                    damping *= 4.0
                else:
                    shrink = max(1.0 / 3.0, 1.0 - (2.0 * gain - 1.0) ** 3)
                    damping = max(damping * shrink, MIN_DAMPING)
                if not tiny:  # nothing more is asked of the last point
                    adapted = model.refreshed(point)
                    known = objective if adapted is model else None
                    model = adapted
                    lin = engine.linearise(model, point, self.loss, known)
                    best = lin.objective
            else:
                damping, growth = damping * growth, growth * 2.0
            iterations.append(
                Iteration(
                    len(iterations) + 1, before.objective, before.chi2, used, gain,
                    step.predicted, step.cg_iterations, accepted, time.monotonic() - at,
                )
            )  # fmt: skip
            progress(iterations[-1])
            if tiny:
                converged = True
                termination = (
                    "Converged: the last step promised to lower the objective by only "
                    f"{step.predicted:.1e}."
                )
            elif not isfinite(lin.objective):
                termination = not_finite
            elif solved and 0.0 <= _drop(iterations, lin.objective) <= little:
                converged = True
                termination = (
                    f"Converged: {STALLED} steps together lowered the objective by only "
                    f"{_drop(iterations, lin.objective):.1e}."
                )
            elif damping > MAX_DAMPING:
                termination = "Stopped: no step lowers the objective, however short."
                if not solved:
                    termination = (
                        "Stopped: the normal equations cannot be solved, however much they are "
                        f"damped (the last ended as {step.outcome.value})."
                    )
            elif len(iterations) >= self.max_iterations:
                termination = (
                    f"Stopped after {self.max_iterations} iterations, before convergence; raise "
                    "solver.max_iterations to go on."
                )
                if not solved:
                    termination += f" The last linear solve ended as {step.outcome.value}."
            else:
                seconds = time.monotonic() - began
                keep(State(point, damping, growth, model, known, tuple(iterations), seconds))
        return Result(
            point, model, converged, termination, best, lin.chi2, *counts(engine, lin),
            tuple(iterations), time.monotonic() - began,
        )  # fmt: skip


def _drop(iterations: list[Iteration], objective: float) -> float:
    """By how much the last STALLED iterations lowered the objective; infinite if they are fewer, or
    none of them did."""
    last = iterations[-STALLED:]
    if len(last) < STALLED or not any(i.accepted for i in last):
        return inf
    return iterations[-STALLED].objective - objective
