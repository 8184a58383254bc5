"""Nonlinear least squares with many small local blocks and shared parameters.

Knows nothing of crystals: a model (`problem.Model`) declares its blocks and gives residuals and
Jacobian rows, the solver eliminates.
"""

from sfxproc.lsq.engine import Engine, Linearisation
from sfxproc.lsq.lm import LevenbergMarquardt
from sfxproc.lsq.problem import AnyModel, Border, BorderModel, Layout, Loss, Model, Point, Sums
from sfxproc.lsq.result import Iteration, Result
from sfxproc.lsq.solvers import SOLVERS, Solver

__all__ = [
    "SOLVERS",
    "AnyModel",
    "Border",
    "BorderModel",
    "Engine",
    "Iteration",
    "Layout",
    "LevenbergMarquardt",
    "Linearisation",
    "Loss",
    "Model",
    "Point",
    "Result",
    "Solver",
    "Sums",
]
