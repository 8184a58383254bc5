"""What a minimiser sees of a problem: points, linearisations, and steps that were solved or not."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Generic, Protocol, Self, TypeVar

P = TypeVar("P")
"""A point, or the difference of two."""


class Outcome(Enum):
    """How the solution of a linear problem ended.

    NOT_CONVERGED : iterations ran out. INDEFINITE : there is no factor, a direction of negative
    curvature was met, or numbers are not finite. Either way a step is what had been found before,
    which may be none.
    """

    SOLVED = "solved"
    NOT_CONVERGED = "not converged"
    INDEFINITE = "indefinite"


@dataclass(frozen=True, eq=False)
class Step(Generic[P]):
    """A step and what the quadratic model promises of it: predicted = decrease of objective."""

    delta: P
    predicted: float
    cg_iterations: int = 0
    outcome: Outcome = Outcome.SOLVED


class Linearised(Protocol):
    """A problem linearised at a point."""

    @property
    def objective(self) -> float:
        """The objective there."""

    @property
    def chi2(self) -> float:
        """Σ r² there."""


L = TypeVar("L", bound=Linearised)


class Problem(Protocol[P, L]):
    """What can be linearised, stepped, moved and valued."""

    def linearise(self, point: P, objective: float | None = None) -> L:
        """Linearise at a point. objective : its value there, if known."""

    def step(self, lin: L, damping: float) -> Step[P]:
        """Solve the damped normal equations."""

    def retract(self, point: P, delta: P) -> P:
        """The point reached by a step."""

    def objective(self, point: P) -> float:
        """What is minimised."""

    def refreshed(self, point: P) -> Self:
        """The problem with its weights adapted to this point (itself where these are fixed)."""
