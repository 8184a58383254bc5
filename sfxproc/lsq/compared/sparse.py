"""Levenberg–Marquardt with a sparse factor of the normal matrix over all parameters.

A row of J has p + 1 non-zeros. Their products are added straight into the lower triangle of
H = JᵀWJ, held by columns, shared parameters first:

    H = | D   Eᵀ |      n_shared + n_local p (p + 1)/2 + p P non-zeros, for P pairs of a local
        | E   C  |      block and a shared parameter that some row couples

In this order no shared column fills in another, and the factor has E D^(−1/2) below the square
root of D and beside it the factor of the Schur complement: below the diagonal at most

    p P + n_local p (n_local p − 1)/2

non-zeros, the most where every two blocks have something in common. A minimum-degree ordering
finds no better one and takes many times as long as the factor, so none is looked for.

The factor is CHOLMOD's where it is installed (Chen et al., ACM Trans. Math. Softw. 35 (2008) 22),
otherwise SuperLU's with pivots on the diagonal (Demmel et al., SIAM J. Matrix Anal. Appl. 20
(1999) 720). Three tiers: the structure once per solve, the values once per step, the damping on
the diagonal. The gauge N d = 0 is held by

    d = d₀ − A⁻¹Nᵀ (N A⁻¹Nᵀ)⁻¹ N d₀,   A = H + λ diag H,   d₀ = −A⁻¹ gradient,

for which λ may not vanish: along the gauge there is nothing else in A.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from scipy.sparse import csc_matrix, tril
from scipy.sparse.linalg import splu

from sfxproc.errors import DataError
from sfxproc.kernels.elimination import column_counts, elimination_tree, postorder
from sfxproc.kernels.normal import add_couplings_sparse
from sfxproc.lsq.engine import Engine, Linearisation
from sfxproc.lsq.lm import LevenbergMarquardt
from sfxproc.lsq.problem import (
    F8,
    Array,
    Layout,
    Loss,
    ModelT,
    Point,
    gauge_rows,
    require_no_border,
)
from sfxproc.lsq.result import Iteration, Result
from sfxproc.lsq.schur import Damped, complete
from sfxproc.lsq.schur_dense import own_part, whole, whole_layout
from sfxproc.lsq.step import Step

try:
    from sksparse import cholmod
except ImportError:
    cholmod = None

MOST_BYTES = 8_000_000_000
BYTES = 24  # a non-zero of the factor: two triangles of values and of places
SMALLEST_DAMPING = 1e-6  # what single precision in E leaves in doubt

Solve = Callable[[F8], F8]
Factoriser = Callable[[F8], Solve | None]
"""Of the values of a pattern, what solves; None where the matrix is not positive definite."""


@dataclass(frozen=True, eq=False)
class Pattern:
    """Where the non-zeros of H are, the lower triangle by columns, diagonal first.

    layout : of the whole job. begin : (n + 1,) of the columns. row : (nnz,). place : (n_rows,)
    the coupling of each row of J with its first local parameter; with the others it follows.
    """

    layout: Layout
    begin: Array
    row: Array
    place: Array

    @classmethod
    def of(cls, layout: Layout) -> Pattern:
        """The pattern of a whole layout."""
        n_local, p = layout.free.shape
        n_shared = layout.n_shared
        block = np.repeat(np.arange(n_local), np.diff(layout.start))
        pair = layout.shared * np.int64(n_local) + block
        pairs, pair_of_row = np.unique(pair, return_inverse=True)
        shared, block = np.divmod(pairs, max(n_local, 1))
        in_shared = 1 + p * np.bincount(shared, minlength=n_shared)
        in_local = np.tile(np.arange(p, 0, -1), n_local)
        begin = np.concatenate([[0], np.cumsum(np.concatenate([in_shared, in_local]))])
        row = np.empty(begin[-1], dtype=np.int32)
        row[begin[:-1]] = np.arange(len(begin) - 1)
        at = shared + 1 + p * np.arange(len(pairs))
        first = n_shared + p * np.arange(n_local)
        for s in range(p):
            row[at + s] = first[block] + s
            for t in range(1, p - s):
                row[begin[first + s] + t] = first + s + t
        return cls(layout, begin, row, at[pair_of_row])

    def values(self, lin: Linearisation, damping: float) -> F8:
        """(nnz,) H + λ diag H; 1 on the diagonal, and nothing beside it, for what is fixed."""
        free, (n_local, p) = self.layout.free, lin.g.shape
        out = np.zeros(len(self.row))
        out[self.begin[: self.layout.n_shared]] = lin.D
        add_couplings_sparse(self.layout.start, self.place, lin.e, free, out)
        first = self.layout.n_shared + p * np.arange(n_local)
        for s in range(p):
            for t in range(s, p):
                block = np.where(free[:, s] & free[:, t], lin.C[:, t, s], 0.0)
                out[self.begin[first + s] + t - s] = block
        diagonal = (1.0 + damping) * out[self.begin[:-1]]
        out[self.begin[:-1]] = np.where(diagonal != 0, diagonal, 1.0)
        return out

    def lower(self, values: Array) -> csc_matrix:
        """The lower triangle."""
        n = len(self.begin) - 1
        return csc_matrix((values, self.row, self.begin), shape=(n, n))

    def both(self, values: Array) -> csc_matrix:
        """Both triangles."""
        lower = self.lower(values)
        strict = lower.copy()
        strict.data[self.begin[:-1]] = 0
        return csc_matrix(lower + strict.T)

    def factor_nonzeros(self) -> dict[str, int]:
        """Of H, and below the diagonal of its factor in this order and with the local parameters
        first."""
        H = self.both(np.ones(len(self.row)))
        n = H.shape[0]
        local_first = np.roll(np.arange(n), n - self.layout.n_shared)
        return {
            "normal_matrix_nonzeros": len(self.row),
            "factor_nonzeros": below_diagonal(H),
            "factor_nonzeros_local_first": below_diagonal(H[local_first][:, local_first]),
        }


def below_diagonal(H: csc_matrix) -> int:
    """Non-zeros below the diagonal of the Cholesky factor."""
    lower = tril(H, -1)
    by_row, by_column = lower.tocsr(), lower.tocsc()
    parent = elimination_tree(by_row.indptr, by_row.indices)
    order = postorder(parent)
    return int(column_counts(by_column.indptr, by_column.indices, parent, order).sum())


def factoriser(pattern: Pattern) -> Factoriser:
    """Of the values of a pattern, a factor that solves: by CHOLMOD where it is installed
    (`pip install 'sfxproc[cholmod]'`), else by SuperLU, which wants both triangles."""
    if cholmod is not None:
        size = len(pattern.begin) - 1
        lower = csc_matrix((np.ones(len(pattern.row)), pattern.row, pattern.begin), (size, size))
        symbolic = cholmod.analyze(lower, ordering_method="natural")

        def supernodal(values: F8) -> Solve | None:
            lower.data = values
            try:
                factor: Solve = symbolic.cholesky(lower)
            except cholmod.CholmodNotPositiveDefiniteError:
                return None
            return factor

        return supernodal
    both = pattern.both(np.arange(1.0, len(pattern.row) + 1.0))
    source = both.data.astype(np.int64) - 1

    def superlu(values: F8) -> Solve | None:
        H = csc_matrix((values[source], both.indices, both.indptr), shape=both.shape)
        options = {"SymmetricMode": True}
        try:
            factor = splu(H, permc_spec="NATURAL", diag_pivot_thresh=0.0, options=options)
        except RuntimeError:  # exactly singular
            return None
        in_order = np.array_equal(factor.perm_r, np.arange(len(factor.perm_r)))
        solve: Solve | None = factor.solve
        return solve if in_order and np.all(factor.U.diagonal() > 0.0) else None

    return superlu


@dataclass(frozen=True, eq=False)
class Structure:
    """What is worked out once per solve, on the first process."""

    pattern: Pattern
    factor: Factoriser

    @classmethod
    def of(cls, layout: Layout) -> Structure:
        """The structure of a whole layout."""
        pattern = Pattern.of(layout)
        return cls(pattern, factoriser(pattern))

    def local_step(self, lin: Linearisation, damping: float) -> F8 | None:
        """(n_local, p) the step of all local parameters, None if there is no factor; lin of the
        whole job."""
        layout, n_local_parameters = lin.layout, lin.g.size
        solve = self.factor(self.pattern.values(lin, damping))
        if solve is None:
            return None
        N = gauge_rows(layout.free, layout.component, layout.n_components, layout.gauge)
        b = np.zeros((len(N) + 1, layout.n_shared + n_local_parameters))
        b[0] = -np.concatenate([lin.q, (lin.g * layout.free).ravel()])
        b[1:, layout.n_shared :] = N
        d, *AN = (solve(row)[layout.n_shared :] for row in b)
        if AN:
            d = d - np.linalg.solve(N @ np.transpose(AN), N @ d) @ AN
        return np.reshape(d, lin.g.shape)


def sparse_step(
    structure: Structure | None, engine: Engine, lin: Linearisation, damping: float, _: float
) -> Step[Point]:
    """Solve the damped normal equations, at no less than SMALLEST_DAMPING.

    structure : of the whole job on the first process, None elsewhere.
    """
    damping = max(damping, SMALLEST_DAMPING)
    everything = whole(engine, lin, None if structure is None else structure.pattern.layout)
    found = None
    if structure is not None and everything is not None:
        found = structure.local_step(everything, damping)
    return complete(engine, Damped.of(lin, damping), own_part(engine, lin.layout, found))


@dataclass(frozen=True)
class SparseCholesky:
    """Settings of the solver; those of `LevenbergMarquardt`, and no others."""

    loss: Loss = field(default_factory=Loss)
    max_iterations: int = 50
    tolerance: float = 1e-8

    def solve(
        self,
        engine: Engine,
        model: ModelT,
        start: Point,
        progress: Callable[[Iteration], None] = lambda _: None,
    ) -> Result[ModelT]:
        """Minimise from a starting point. Raises DataError if the factor would take more than
        MOST_BYTES. The result tells the non-zeros of the matrix and of its factor."""
        require_no_border(model.layout, "A sparse factor")
        everywhere = whole_layout(engine, model.layout)
        structure = None if everywhere is None else Structure.of(everywhere)
        nonzeros = None if structure is None else structure.pattern.factor_nonzeros()
        nonzeros = engine.sums.told(nonzeros)
        size = BYTES * nonzeros["factor_nonzeros"]
        if size > MOST_BYTES:
            raise DataError(
                f"A sparse factor of the normal matrix would need {1e-9 * size:.1f} GB of memory, "
                f'and solver.method = "lm-sparse" takes no more than {1e-9 * MOST_BYTES:.1f} GB. '
                'Use "schur-cg", which needs no matrix.'
            )
        step = partial(sparse_step, structure)
        solver = LevenbergMarquardt(step, self.loss, self.max_iterations, self.tolerance)
        extra = nonzeros | {"cholmod": float(cholmod is not None)}
        return replace(solver.solve(engine, model, start, progress), extra=extra)
