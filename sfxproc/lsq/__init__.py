"""Nonlinear least squares with many small local blocks and shared parameters.

Knows nothing of crystals: a model (`problem.Model`) declares its blocks and gives residuals and
Jacobian rows, the solver eliminates.
"""

from sfxproc.lsq.engine import Engine, Linearisation
from sfxproc.lsq.lm import METHODS, LevenbergMarquardt
from sfxproc.lsq.problem import Layout, Loss, Model, Point, Sums
from sfxproc.lsq.result import Iteration, Result

__all__ = [
    "METHODS",
    "Engine",
    "Iteration",
    "Layout",
    "LevenbergMarquardt",
    "Linearisation",
    "Loss",
    "Model",
    "Point",
    "Result",
    "Sums",
]
