"""The outcome of a solve, as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any, Generic

import numpy as np

from sfxproc.lsq.engine import Engine, Linearisation
from sfxproc.lsq.problem import F8, ModelT_co, Point


@dataclass(frozen=True)
class Iteration:
    """One trial step. Objective and chi2 are those at the start of the step."""

    number: int
    objective: float
    chi2: float
    damping: float
    gain_ratio: float
    predicted: float
    cg_iterations: int
    accepted: bool
    seconds: float


def table_of(iterations: Sequence[Iteration]) -> F8:
    """(n, 9) the iterations as rows of numbers."""
    rows = [astuple(i) for i in iterations]
    return np.array(rows, dtype=np.float64).reshape(-1, len(Iteration.__dataclass_fields__))


def iterations_of(table: F8) -> tuple[Iteration, ...]:
    """The iterations that `table_of` made a table of."""
    return tuple(
        Iteration(int(number), objective, chi2, damping, gain, step, int(cg), bool(good), seconds)
        for number, objective, chi2, damping, gain, step, cg, good, seconds in table.tolist()
    )


@dataclass(frozen=True, eq=False)
class Result(Generic[ModelT_co]):
    """Where the solver ended, how it got there and why it stopped.

    model carries the weights of the last point; n_residuals and n_parameters are of the whole
    job (priors not counted, gauge taken off), so that chi2 / (n_residuals − n_parameters) ≈ 1
    for a model that fits; chi2 is that at the start of the last step, a hair from the end.
    extra : further numbers that a method has to tell of itself. gauge : combinations with common
    parameters that neither data nor priors determine, each in words; they are held.
    """

    point: Point
    model: ModelT_co
    converged: bool
    termination: str
    objective: float
    chi2: float
    n_residuals: int
    n_parameters: int
    iterations: tuple[Iteration, ...]
    seconds: float
    extra: Mapping[str, float] = field(default_factory=dict)
    gauge: tuple[str, ...] = ()

    @property
    def dof(self) -> int:
        """Degrees of freedom."""
        return self.n_residuals - self.n_parameters

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and text, for statistics.json."""
        gauge = {"gauge": list(self.gauge)} if self.gauge else {}
        return gauge | {
            "termination": self.termination,
            "converged": self.converged,
            "objective": self.objective,
            "chi2": self.chi2,
            "dof": self.dof,
            "chi2_per_dof": self.chi2 / self.dof if self.dof > 0 else None,
            "n_residuals": self.n_residuals,
            "n_parameters": self.n_parameters,
            "n_iterations": len(self.iterations),
            "n_cg_iterations": sum(i.cg_iterations for i in self.iterations),
            "seconds": self.seconds,
            "extra": dict(self.extra),
            "iterations": [
                {f: getattr(i, f) for f in Iteration.__dataclass_fields__} for i in self.iterations
            ],
        }


def counts(engine: Engine, lin: Linearisation) -> tuple[int, int]:
    """Residuals and free parameters of the whole job, the gauge taken off."""
    layout = lin.layout
    rows = layout.start[layout.chunk[1:]] - layout.start[layout.chunk[:-1]]
    free = np.concatenate([[0], np.cumsum(layout.free.sum(axis=1))])[layout.chunk]
    per_chunk = np.stack([rows, np.diff(free)], axis=1).astype(np.float64)
    n_rows, n_free = engine.sums.scalars(per_chunk)
    n_parameters = int(n_free) + int(np.count_nonzero(lin.D)) - engine.gauge_count(layout)
    if layout.border is not None and lin.border is not None:
        n_parameters += int(np.count_nonzero(layout.border.free & (lin.border.diagonal != 0.0)))
    return int(n_rows), n_parameters
