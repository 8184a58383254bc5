"""The solvers by name: one line here makes one known to every job and to the tests."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from sfxproc.lsq.compared.dense import dense
from sfxproc.lsq.compared.lbfgs import Lbfgs
from sfxproc.lsq.compared.sparse import SparseCholesky
from sfxproc.lsq.engine import Engine
from sfxproc.lsq.lm import LevenbergMarquardt
from sfxproc.lsq.problem import ModelT, Point
from sfxproc.lsq.result import Iteration, Result
from sfxproc.lsq.schur import schur_cg
from sfxproc.lsq.schur_dense import schur_dense


class Solver(Protocol):
    """A frozen object of its settings that minimises ½ Σ ρ(d)."""

    def solve(
        self,
        engine: Engine,
        model: ModelT,
        start: Point,
        progress: Callable[[Iteration], None] = ...,
    ) -> Result[ModelT]:
        """Minimise from a starting point; progress is told of each iteration."""


# each is called with loss, max_iterations and tolerance
SOLVERS: dict[str, Callable[..., Solver]] = {
    "schur-cg": partial(LevenbergMarquardt, step=schur_cg),
    "schur-dense": partial(LevenbergMarquardt, step=schur_dense),
    "lm-dense-stepwise": partial(LevenbergMarquardt, step=dense),
    "lm-sparse": SparseCholesky,
    "lbfgs": partial(Lbfgs, curvatures=False),
    "lbfgs-curvatures": partial(Lbfgs, curvatures=True),
}
