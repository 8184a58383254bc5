"""A step of all parameters, and whether the linear problem that it comes from was solved."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from sfxproc.lsq.problem import F8


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
class Step:
    """A step and what the quadratic model promises of it: predicted = decrease of objective."""

    local: F8
    shared: F8
    predicted: float
    cg_iterations: int
    outcome: Outcome = Outcome.SOLVED
