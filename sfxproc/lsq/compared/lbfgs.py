"""L-BFGS over all parameters at once, with or without curvatures: gradients, and no matrix.

SciPy's L-BFGS-B (Zhu, Byrd, Lu & Nocedal, ACM Trans. Math. Softw. 23 (1997) 550) minimises over

    y = x / scale,   scale = 1,  or with curvatures  1/√h,  h = diagonal of JᵀWJ (Gauss–Newton)

where x is the move of all parameters from the point at which a round began. The Gauss–Newton
diagonal is never negative, and in these variables the first step, of length one, moves no
parameter by more than its own σ: that, and not a Newton step, is a safe start far from the
minimum. Rounds begin again with fresh curvatures, 20, 40, 80 … iterations long, until one gains
nothing. A trial point where the model overflows counts as a high plateau.

The gauge is held by projecting x, so that the gradient is projected too. The first process
decides on every step, the others evaluate with it: the same bits on any number of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf, isfinite, sqrt

import numpy as np
from scipy.optimize import OptimizeResult, minimize

from sfxproc.lsq.engine import Engine, Linearisation
from sfxproc.lsq.lm import NEGLIGIBLE
from sfxproc.lsq.problem import F8, AnyModel, Loss, ModelT, Point, require_no_border, retracted
from sfxproc.lsq.result import Iteration, Result, counts
from sfxproc.lsq.schur import Projection

FIRST_ROUND = 20  # iterations
MEMORY = 10  # pairs of steps and gradient changes remembered
PLATEAU = 1e3  # of the objective: what a trial point counts at most


@dataclass(frozen=True)
class Lbfgs:
    """Settings of the solver.

    curvatures : scale the variables. tolerance : without curvatures, stop when an iteration
    lowers the objective by less than this fraction of it (SciPy's own test; 0 goes on to
    rounding); with them, when a round does.
    """

    curvatures: bool
    loss: Loss = field(default_factory=Loss)
    max_iterations: int = 15000
    tolerance: float = 1e-8

    def solve(
        self,
        engine: Engine,
        model: ModelT,
        start: Point,
        progress: Callable[[Iteration], None] = lambda _: None,
    ) -> Result[ModelT]:
        """Minimise from a starting point. Raises DataError if there are common parameters."""
        require_no_border(model.layout, "L-BFGS")
        began = time.monotonic()
        model, point = model.refreshed(start), start
        lin = engine.linearise(model, point, self.loss)
        iterations: list[Iteration] = []
        length = FIRST_ROUND if self.curvatures else self.max_iterations
        ftol = self.tolerance * (1e-2 if self.curvatures else 1.0)
        finished = not isfinite(lin.objective)
        while not finished:
            left = self.max_iterations - len(iterations)
            before = lin.objective
            minimiser = Round(engine, model, point, self.loss, lin, self.curvatures)
            point, found = minimiser.minimise(min(length, left), ftol, len(iterations), progress)
            iterations += found
            adapted = model.refreshed(point)
            rests, model = adapted is model, adapted
            lin = engine.linearise(model, point, self.loss)
            length *= 2
            gained_little = before - lin.objective <= self.tolerance * before
            finished = len(iterations) >= self.max_iterations or (
                rests and (gained_little or not self.curvatures)
            )
        gradient = Round(engine, model, point, self.loss, lin, True).gradient_norm(lin)
        promised = 0.5 * gradient**2
        converged = bool(promised <= max(self.tolerance * lin.objective, NEGLIGIBLE))
        return Result(
            point,
            model,
            converged,
            self._told(lin, len(iterations), gradient, converged),
            lin.objective,
            lin.chi2,
            *counts(engine, lin),
            tuple(iterations),
            time.monotonic() - began,
        )

    def _told(self, lin: Linearisation, n: int, gradient: float, converged: bool) -> str:
        if not isfinite(lin.objective):
            return "Stopped: the objective is not a finite number."
        state = (
            f"the gradient, each component in units of its parameter's sigma, has the norm "
            f"{gradient:.1e}"
        )
        if converged:
            return f"Converged: {state}."
        if n >= self.max_iterations:
            return (
                f"Stopped after {n} iterations, before convergence: {state}; raise "
                "solver.max_iterations to go on."
            )
        return (
            f"Stopped after {n} iterations, another lowering the objective by less than "
            f"{self.tolerance:.1e} of it, but this is no minimum: {state}. Lower solver.tolerance "
            'to go on (0: to rounding), or use "schur-cg".'
        )


class Round:
    """A run of the minimiser under one model, from one point, in one set of scales."""

    def __init__(
        self,
        engine: Engine,
        model: AnyModel,
        base: Point,
        loss: Loss,
        lin: Linearisation,
        curvatures: bool,
    ) -> None:
        self._engine, self._model, self._base, self._loss = engine, model, base, loss
        self._projection = Projection(engine, model.layout)
        before, n_local = engine.sums.place(len(base.local)), len(base.local)
        self._own = slice(before, before + n_local)
        self._local, self._shared = (
            np.where(h > 0, 1.0 / np.sqrt(np.where(h > 0, h, 1.0)) if curvatures else 1.0, 0.0)
            for h in (np.einsum("mii->mi", lin.C), lin.D)
        )
        self._objective, self._chi2 = lin.objective, lin.chi2
        self._highest = PLATEAU * max(lin.objective, 1.0)

    def gradient(self, lin: Linearisation) -> tuple[F8, F8]:
        """Of the objective with respect to y: local (of this process), shared."""
        return self._projection(lin.g) * self._local, lin.q * self._shared

    def gradient_norm(self, lin: Linearisation) -> float:
        """Of the gradient of the whole job; infinite where a curvature is negative or no number,
        so that there is no σ to measure it by."""
        local, shared = self.gradient(lin)
        squared = float(self._engine.dots(lin.layout, local, local).sum())
        squared += self._engine.sums.agreed(float(shared @ shared))
        wrong = ~(np.einsum("mii->mi", lin.C) >= 0.0) & lin.layout.free
        flags = wrong.astype(np.float64)
        n_wrong = float(self._engine.dots(lin.layout, flags, flags).sum())
        known = n_wrong == 0.0 and bool(np.all(lin.D >= 0.0)) and isfinite(squared)
        return sqrt(squared) if known else inf

    def minimise(
        self, length: int, ftol: float, done: int, progress: Callable[[Iteration], None]
    ) -> tuple[Point, list[Iteration]]:
        """At most `length` iterations after `done` others: where they led, and a list of them."""
        sums = self._engine.sums
        n_local = sums.gathered(self._base.local[:, :1])
        if n_local is None:
            while (y := sums.told(None)) is not None:
                self.evaluate(y)
            y, iterations = sums.told(None)
            return self._at(y), iterations

        def on_all(y: F8) -> tuple[float, F8]:
            sums.told(y)
            return self.evaluate(y)

        iterations = []
        since, at = (self._objective, self._chi2), time.monotonic()

        def accepted(intermediate_result: OptimizeResult) -> None:
            nonlocal since, at
            number, seconds = done + len(iterations) + 1, time.monotonic() - at
            iterations.append(Iteration(number, *since, 0.0, 0.0, 0.0, 0, True, seconds))
            since, at = (float(intermediate_result.fun), self._chi2), time.monotonic()
            progress(iterations[-1])

        found = minimize(
            on_all,
            np.zeros(n_local.size * self._local.shape[1] + self._shared.size),
            jac=True,
            method="L-BFGS-B",
            callback=accepted,
            options={
                "maxiter": length,
                "maxfun": 100 * length,
                "ftol": ftol,
                "gtol": 0.0,
                "maxcor": MEMORY,
            },
        )
        sums.told(None)
        sums.told((found.x, iterations))
        return self._at(found.x), iterations

    def _at(self, y: F8) -> Point:
        n_shared = len(self._shared)
        local = y[: len(y) - n_shared].reshape(-1, self._local.shape[1])[self._own]
        move = self._projection(local * self._local)
        return retracted(
            self._model, self._base, Point(move, y[len(y) - n_shared :] * self._shared)
        )

    def evaluate(self, y: F8) -> tuple[float, F8]:
        """Objective at y of the whole job, and, on the first process, its gradient; on a plateau
        where either is not finite or the objective absurdly high."""
        with np.errstate(over="ignore", invalid="ignore"):
            lin = self._engine.linearise(self._model, self._at(y), self._loss)
            local, shared = self.gradient(lin)
        self._chi2 = lin.chi2
        whole = self._engine.sums.gathered(local)
        gradient = np.concatenate([np.ravel(() if whole is None else whole), shared])
        if lin.objective < self._highest and np.isfinite(gradient).all():
            return lin.objective, gradient
        return self._highest, np.zeros_like(gradient)
