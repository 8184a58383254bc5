"""A damped step by a dense Cholesky factor of the Schur complement.

Shared parameters are eliminated analytically as in `lsq.schur`, and

    S = C̃ − Σ_h e_h e_hᵀ / D̃_h

is formed, n_local·p square. The gauge N x = 0 is held exactly: with A = S + NᵀN (scaled to unit
diagonal; NᵀN changes nothing on the subspace and makes A regular),

    x = A⁻¹b − A⁻¹Nᵀ (N A⁻¹Nᵀ)⁻¹ N A⁻¹b

Memory 8 (n_local·p)² bytes on the first process; time (n_local·p)³/3 for the factor, and the sum
of squared multiplicities for S. The same factor gives exact covariances (`lsq.covariance`).

What cannot be divided is worked out on the first process alone, on a problem that is whole there:
local parameters of all processes lie end to end, in the order of the processes, so that nothing
depends on how many there are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import get_lapack_funcs

from sfxproc.errors import DataError
from sfxproc.kernels.covariance import mirror, subtract_pairs
from sfxproc.lsq.engine import Engine, Linearisation
from sfxproc.lsq.problem import F8, Array, Layout, Point, gauge_rows
from sfxproc.lsq.schur import Damped, complete
from sfxproc.lsq.step import Step

MOST_BYTES = 8 << 30
SMALLEST_RIDGE, MOST_RIDGE = 1e-12, 1e-3
LEAST_LEFT = 1e-12  # of a curvature: where elimination leaves less, the data determine nothing
MOST_RIDGE_OF_COVARIANCE = 1e-6  # what single precision leaves in doubt; σ is then ≥ 500 × larger


def whole_layout(engine: Engine, layout: Layout) -> Layout | None:
    """The structure of the whole job as one chunk on the first process, None elsewhere."""
    parts = (
        np.diff(layout.start),
        layout.shared,
        layout.free,
        layout.component,
        layout.prior_centre,
        layout.prior_weight,
    )
    found = [g for part in parts if (g := engine.sums.gathered(part)) is not None]
    if not found:
        return None
    rows, shared, free, component, centre, weight = found
    return replace(
        layout,
        start=np.concatenate([[0], np.cumsum(rows)]),
        shared=shared,
        free=free,
        component=component,
        prior_centre=centre,
        prior_weight=weight,
        chunk=np.array([0, len(rows)]),
    )


def whole(engine: Engine, lin: Linearisation, layout: Layout | None) -> Linearisation | None:
    """The normal equations of the whole job on the first process, None elsewhere.

    layout : what `whole_layout` gave on this process.
    """
    C, g, e = (engine.sums.gathered(part) for part in (lin.C, lin.g, lin.e))
    if layout is None or C is None or g is None or e is None:
        return None
    return replace(lin, layout=layout, C=C, g=g).with_e(e)


def own_part(engine: Engine, layout: Layout, found: Array | None) -> Array | None:
    """This process's rows of what the first one found for all local blocks; None if it found
    nothing."""
    before = engine.sums.place(layout.n_local)
    told: Array | None = engine.sums.told(found)
    return None if told is None else told[before : before + layout.n_local]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Rows of the whole job sorted by shared parameter, then by local block.

    begin : (n_shared + 1,). order, block : (n_rows,) the rows, and their local blocks.
    """

    begin: Array
    order: Array
    block: Array

    @classmethod
    def of(cls, layout: Layout) -> Pairs:
        """The pairs of a whole layout."""
        order = np.argsort(layout.shared, kind="stable")
        block = np.repeat(np.arange(layout.n_local), np.diff(layout.start))[order]
        begin = np.searchsorted(layout.shared[order], np.arange(layout.n_shared + 1))
        return cls(begin, order, block)

    def couplings(self, lin: Linearisation) -> F8:
        """(n_rows, p) e in this order, zero for fixed parameters."""
        e = np.asarray(lin.e, dtype=np.float64)[self.order]
        if not lin.layout.free.all():
            e *= lin.layout.free[self.block]
        return e


def schur_matrix(engine: Engine, damped: Damped, pairs: Pairs, e: F8) -> F8:
    """(n, n) S, lower triangle, of a whole linearisation; 1 on the diagonal for what is fixed or
    without data.

    Raises DataError if it would take more than MOST_BYTES.
    """
    layout = damped.lin.layout
    n_local, p = layout.free.shape
    n = n_local * p
    if 8 * n * n > MOST_BYTES:
        raise DataError(
            f"A dense factor of {n:,} local parameters would need {8e-9 * n * n:.0f} GB of memory. "
            'The solver "schur-cg" and covariances that are "sampled" need none: choose these.'
        )
    S = np.zeros((n, n))
    slices = np.linspace(0, n_local, max(engine.threads, 1) * 4 + 1).astype(np.int64)

    def fill(k: int) -> None:
        subtract_pairs(pairs.begin, pairs.block, e, damped.inverse_D, slices[k], slices[k + 1], S)

    engine.map(fill, len(slices) - 1)
    both = layout.free[:, :, None] & layout.free[:, None, :]
    C = np.where(both, damped.C, 0.0)
    at = np.arange(n).reshape(n_local, p)
    S[at[:, :, None], at[:, None, :]] += C
    used = layout.free & (np.einsum("mii->mi", C) != 0.0)
    S[at, at] = np.where(used, S[at, at], 1.0)
    return S


def undetermined(S: F8, lin: Linearisation) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(n_local, p) twice: free local parameters without data, or of whose curvature elimination
    leaves nothing in S, that of a whole linearisation, so that no factor can tell their variance;
    first those that nothing holds, then those that a prior holds, whose variance is the prior's."""
    curvature = np.einsum("mii->mi", lin.C)
    left = np.diag(S)[: lin.g.size].reshape(lin.g.shape)
    nothing = (curvature == 0.0) | (np.abs(left) <= LEAST_LEFT * curvature)
    held = nothing & (lin.layout.prior_weight > 0.0)
    return lin.layout.free & nothing & ~held, lin.layout.free & held


def infinite_where(
    unknown: NDArray[np.bool_], lin: Linearisation, blocks: F8, from_local: F8
) -> None:
    """Make variances infinite of unknown local parameters (n_local, p), in blocks (n_local, p, p),
    and of the shared parameters that depend on them, in from_local (n_shared,)."""
    blocks[unknown[:, :, None] & np.eye(unknown.shape[1], dtype=bool)] = np.inf
    row = np.repeat(np.arange(len(unknown)), np.diff(lin.layout.start))
    touches = (unknown[row] & (lin.e != 0)).any(axis=1)
    from_local[np.unique(lin.layout.shared[touches])] = np.inf


@dataclass(frozen=True, eq=False)
class Factor:
    """The Cholesky factor of A in unit diagonal, in the memory of S.

    scale : (n,). N, AN : (n_gauge, n) gauge rows and A⁻¹Nᵀ transposed, both in scaled variables.
    """

    A: F8
    scale: F8
    N: F8
    AN: F8

    @classmethod
    def of(cls, S: F8, layout: Layout, most_ridge: float = MOST_RIDGE) -> Factor | None:
        """Factor S in place; shared parameters, if any, follow the local ones. Where it is not
        positive definite beyond the gauge (parameters that the data do not determine), a small
        multiple of the diagonal is added, at most most_ridge. None where that does not help, or S
        is not finite."""
        pivots = np.diag(S)
        if not (np.isfinite(pivots) & (pivots > 0.0)).all():
            return None
        scale = 1.0 / np.sqrt(pivots)
        S *= scale[:, None]
        S *= scale
        N = gauge_rows(layout.free, layout.component, layout.n_components, layout.gauge)
        N = np.pad(N, ((0, 0), (0, len(S) - N.shape[1]))) * scale
        for row in N:
            held = np.flatnonzero(row)
            S[np.ix_(held, held)] += np.outer(row[held], row[held]) / (row @ row)
        if not len(S):
            return cls(S, scale, N, N)
        (potrf,) = get_lapack_funcs(("potrf",), (S,))
        diagonal = np.arange(len(S))
        mirror(S)  # the upper triangle keeps S while the lower one is factored
        kept = np.diag(S).copy()
        ridge = 0.0
        while True:
            # S.T is in Fortran's order, and its upper triangle is the lower one of S
            _, info = potrf(S.T, lower=0, overwrite_a=1, clean=0)
            if info == 0:
                break
            if info < 0 or ridge >= most_ridge:
                return None
            ridge = min(max(10.0 * ridge, SMALLEST_RIDGE), most_ridge)
            mirror(S.T)
            S[diagonal, diagonal] = kept + ridge
        if not np.isfinite(np.diag(S)).all():  # NaN passes for a pivot
            return None
        factor = cls(S, scale, N, np.empty_like(N))
        for row, out in zip(N, factor.AN, strict=True):
            out[:] = factor.solve(row)
        return factor

    def solve(self, b: F8) -> F8:
        """A⁻¹b in scaled variables."""
        if not len(b):
            return b
        (potrs,) = get_lapack_funcs(("potrs",), (self.A,))
        x, _ = potrs(self.A.T, b, lower=0)
        return np.asarray(x)

    def held(self, b: F8) -> F8:
        """The x with S x = b on the subspace N x = 0, in the variables of S."""
        x = self.solve(b * self.scale)
        if len(self.N):
            x = x - self.AN.T @ np.linalg.solve(self.N @ self.AN.T, self.N @ x)
        return np.asarray(x * self.scale)

    def covariance(self) -> F8:
        """(n, n) inverse of S on the subspace, both triangles, in the memory of the factor."""
        if not len(self.A):
            return self.A
        (potri,) = get_lapack_funcs(("potri",), (self.A,))
        potri(self.A.T, lower=0, overwrite_c=1)
        V = self.A
        mirror(V)
        if len(self.N):
            weights = np.linalg.solve(self.N @ self.AN.T, self.AN)
            for first in range(0, len(V), 256):
                rows = slice(first, first + 256)
                V[rows] -= self.AN[:, rows].T @ weights
        V *= self.scale[:, None]
        V *= self.scale
        return V


def schur_dense(
    engine: Engine, lin: Linearisation, damping: float, tolerance: float
) -> Step[Point]:
    """Solve the damped normal equations by a dense factor of the Schur complement."""
    layout = lin.layout
    everything = whole(engine, lin, whole_layout(engine, layout))
    found = None
    if everything is not None:
        damped = Damped.of(everything, damping)
        pairs = Pairs.of(everything.layout)
        e = pairs.couplings(everything)
        b = -everything.g.ravel()
        t = damped.inverse_D * everything.q
        at = np.repeat(t, np.diff(pairs.begin))
        moved = np.zeros_like(everything.g)
        np.add.at(moved, pairs.block, e * at[:, None])
        b = (b.reshape(moved.shape) + moved) * everything.layout.free
        factor = Factor.of(schur_matrix(engine, damped, pairs, e), everything.layout)
        found = None if factor is None else factor.held(b.ravel()).reshape(moved.shape)
    return complete(engine, Damped.of(lin, damping), own_part(engine, layout, found))
