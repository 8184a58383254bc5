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
from dataclasses import dataclass, field, replace
from math import inf, isfinite
from typing import Generic, cast

from sfxproc.lsq.border.solve import border_step, gauges
from sfxproc.lsq.engine import Engine, Linearisation
from sfxproc.lsq.problem import Loss, ModelT, ModelT_co, Point, require_no_border, retracted
from sfxproc.lsq.result import Iteration, Result, counts
from sfxproc.lsq.schur import schur_cg
from sfxproc.lsq.schur_dense import schur_dense
from sfxproc.lsq.step import L, Outcome, P, Problem, Step

StepMethod = Callable[[Engine, Linearisation, float, float], Step[Point]]
"""A damped step: of an engine, a linearisation, a damping value and a tolerance."""

MIN_DAMPING, MAX_DAMPING = 1e-12, 1e12
FREE = 1.0  # damping up to which a step is about as long as the problem wants it
NEGLIGIBLE = 1e-4  # decrease of ½ χ²: the whole step is then within 0.015 of its joint sigma
STALLED = 10  # iterations that together lower the objective by next to nothing: at a kink
LITTLE_DAMPING = 1e-3  # at which the matrix of a minimum is definite
NOT_A_MINIMUM = (
    "Stopped: no step lowers the objective, but the normal matrix is indefinite, so this is no "
    "minimum."
)
NOT_FINITE = "Stopped: the objective is not a finite number."


@dataclass(frozen=True, eq=False)
class State(Generic[ModelT_co]):
    """Where a solve stands between two iterations: all that the next ones depend on.

    model : with its error model as adapted so far. known : the objective at the point where it
    need not be worked out anew; None where the error model was adapted after the step. seconds :
    spent so far. The objective of the point is the best one met.
    """

    point: Point
    damping: float
    growth: float
    model: ModelT_co
    known: float | None = None
    iterations: tuple[Iteration, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class ModelProblem(Generic[ModelT]):
    """A model, an engine that evaluates it, and a way to solve for steps, as one problem."""

    engine: Engine
    model: ModelT
    loss: Loss
    method: StepMethod
    accuracy: float

    def linearise(self, point: Point, objective: float | None = None) -> Linearisation:
        """Normal equations at a point."""
        return self.engine.linearise(self.model, point, self.loss, objective)

    def step(self, lin: Linearisation, damping: float) -> Step[Point]:
        """The damped step; with a border by elimination, for the methods that eliminate."""
        method = self.method
        if lin.border is not None:
            if method not in (schur_cg, schur_dense):
                require_no_border(lin.layout, "This way to solve the normal equations")
            method = border_step
        return method(self.engine, lin, damping, self.accuracy)

    def retract(self, point: Point, delta: Point) -> Point:
        """The model's own update."""
        return retracted(self.model, point, delta)

    def objective(self, point: Point) -> float:
        """½ Σ ρ(d) + ½ priors."""
        return self.engine.objective(self.model, point, self.loss)

    def refreshed(self, point: Point) -> ModelProblem[ModelT]:
        """With the error model adapted."""
        adapted = self.model.refreshed(point)
        return self if adapted is self.model else replace(self, model=adapted)


@dataclass(frozen=True, eq=False)
class Standing(Generic[P, L]):
    """Where a descent stands: the fields of a `State`, of any problem. seconds : until it began."""

    problem: Problem[P, L]
    point: P
    damping: float
    growth: float
    known: float | None
    iterations: tuple[Iteration, ...]
    seconds: float


@dataclass(frozen=True, eq=False)
class Ended(Generic[P, L]):
    """How a descent ended. lin : the last linearisation. objective : the lowest met, at point."""

    problem: Problem[P, L]
    point: P
    lin: L
    objective: float
    converged: bool
    termination: str
    iterations: tuple[Iteration, ...]
    seconds: float


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
        model: ModelT,
        start: Point,
        progress: Callable[[Iteration], None] = lambda _: None,
        *,
        state: State[ModelT] | None = None,
        keep: Callable[[State[ModelT]], None] = lambda _: None,
    ) -> Result[ModelT]:
        """Minimise from a starting point. The result's point is the best one met.

        keep : told where the solve stands after each iteration but the last. state : one of
        those, to go on from it instead, with the same bits as without the break.
        """
        if state is None:
            state = State(start, self.damping, 2.0, model.refreshed(start))

        def model_of(problem: Problem[Point, Linearisation]) -> ModelT:
            return cast(ModelProblem[ModelT], problem).model  # refreshed, it still is one

        def kept(at: Standing[Point, Linearisation]) -> None:
            model = model_of(at.problem)
            state = State(at.point, at.damping, at.growth, model, at.known, at.iterations)
            keep(replace(state, seconds=at.seconds))

        problem = ModelProblem(engine, state.model, self.loss, self.step, self.cg_tolerance)
        begin = Standing[Point, Linearisation](
            problem=problem,
            point=state.point,
            damping=state.damping,
            growth=state.growth,
            known=state.known,
            iterations=state.iterations,
            seconds=state.seconds,
        )
        end = self.minimise(begin, progress, kept)
        held = gauges(engine, end.lin) if end.lin.border is not None else ()
        n_rows, n_parameters = counts(engine, end.lin)
        return Result(
            point=end.point,
            model=model_of(end.problem),
            converged=end.converged,
            termination=end.termination,
            objective=end.objective,
            chi2=end.lin.chi2,
            n_residuals=n_rows,
            n_parameters=n_parameters - len(held),
            iterations=end.iterations,
            seconds=end.seconds,
            gauge=held,
        )

    def minimise(
        self,
        begin: Standing[P, L],
        progress: Callable[[Iteration], None] = lambda _: None,
        keep: Callable[[Standing[P, L]], None] = lambda _: None,
    ) -> Ended[P, L]:
        """Descend from where a problem stands, any problem, until converged or stopped."""
        began = time.monotonic() - begin.seconds
        point, damping, growth = begin.point, begin.damping, begin.growth
        problem, known = begin.problem, begin.known
        lin = problem.linearise(point, known)
        iterations = list(begin.iterations)
        best = lin.objective
        converged, termination = False, "" if isfinite(lin.objective) else NOT_FINITE
        while not termination:
            at = time.monotonic()
            step = problem.step(lin, damping)
            little = max(self.tolerance * lin.objective, NEGLIGIBLE)
            solved = step.outcome is Outcome.SOLVED and step.predicted >= -little
            trial, objective, gain, accepted = point, lin.objective, 0.0, False
            if solved or step.predicted > 0.0:
                trial = problem.retract(point, step.delta)
                objective = problem.objective(trial)
                gain = (lin.objective - objective) / step.predicted if step.predicted > 0 else 0.0
                accepted = isfinite(objective) and bool(objective <= lin.objective)
            small = bool(step.predicted <= little)
            small = small and damping <= FREE  # what much damping shortened tells nothing
            tiny = small and solved
            before_objective, before_chi2, used = lin.objective, lin.chi2, damping
            if accepted:
                point, best, growth = trial, objective, 2.0
                if small and not solved:  # less damping would fare no better
                    damping *= 4.0
                else:
                    shrink = max(1.0 / 3.0, 1.0 - (2.0 * gain - 1.0) ** 3)
                    damping = max(damping * shrink, MIN_DAMPING)
                if not tiny:  # nothing more is asked of the last point
                    adapted = problem.refreshed(point)
                    known = objective if adapted is problem else None
                    problem = adapted
                    lin = problem.linearise(point, known)
                    best = lin.objective
            else:
                damping, growth = damping * growth, growth * 2.0
            iterations.append(
                Iteration(
                    len(iterations) + 1,
                    before_objective,
                    before_chi2,
                    used,
                    gain,
                    step.predicted,
                    step.cg_iterations,
                    accepted,
                    time.monotonic() - at,
                )
            )
            progress(iterations[-1])
            drop = _drop(iterations, lin.objective)
            if tiny:
                converged = True
                termination = (
                    "Converged: the last step promised to lower the objective by only "
                    f"{step.predicted:.1e}."
                )
            elif not isfinite(lin.objective):
                termination = NOT_FINITE
            elif solved and 0.0 <= drop <= little:
                # steps may be short because only much damping makes the matrix definite
                converged = problem.step(lin, LITTLE_DAMPING).outcome is not Outcome.INDEFINITE
                termination = (
                    f"Converged: {STALLED} steps together lowered the objective by only {drop:.1e}."
                    if converged
                    else NOT_A_MINIMUM
                )
            else:
                termination = self._stopped(len(iterations), damping, step.outcome, solved)
                if not termination:
                    seconds = time.monotonic() - began
                    keep(Standing(problem, point, damping, growth, known, (*iterations,), seconds))
        seconds = time.monotonic() - began
        return Ended(problem, point, lin, best, converged, termination, tuple(iterations), seconds)

    def _stopped(self, number: int, damping: float, outcome: Outcome, solved: bool) -> str:
        """Why there is no iteration after this number, in words; empty if there is one."""
        ended = outcome.value if outcome is not Outcome.SOLVED else "wrong"
        if damping > MAX_DAMPING and solved:
            return "Stopped: no step lowers the objective, however short."
        if damping > MAX_DAMPING:
            return (
                "Stopped: the normal equations cannot be solved, however much they are damped "
                f"(the last solve ended as {ended})."
            )
        if number < self.max_iterations:
            return ""
        told = "" if solved else f" The last linear solve ended as {ended}."
        return (
            f"Stopped after {self.max_iterations} iterations, before convergence; raise "
            f"solver.max_iterations to go on.{told}"
        )


def _drop(iterations: list[Iteration], objective: float) -> float:
    """By how much the last STALLED iterations lowered the objective; infinite if they are fewer, or
    none of them did."""
    last = iterations[-STALLED:]
    if len(last) < STALLED or not any(i.accepted for i in last):
        return inf
    return iterations[-STALLED].objective - objective
