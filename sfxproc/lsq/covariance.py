"""Covariances of the parameters at the solution.

With S the undamped Schur complement over the free local parameters and N the gauge rows, the
covariance of the local parameters under N x = 0 is

    V = A⁻¹ − A⁻¹Nᵀ (N A⁻¹ Nᵀ)⁻¹ N A⁻¹,   A = S + τ NᵀN   (any τ > 0)

and that of a shared parameter is var(u_h) = 1/D_h + e_hᵀ V e_h / D_h², e_h the couplings of its
rows: the second term is what the uncertain local parameters add.

Exact, with a dense factor; `lsq.sampled` is for problems too large for that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from sfxproc.kernels.covariance import quadratic_forms, subtract_pairs
from sfxproc.lsq.engine import Engine, Linearisation
from sfxproc.lsq.problem import F8, Array, Layout, gauge_rows
from sfxproc.lsq.schur import Damped


@dataclass(frozen=True, eq=False)
class Covariance:
    """local : (n_local, p, p) covariance blocks of this process's local parameters (0 where
    fixed). from_local : (n_shared,) what the local parameters add to the variance of each shared
    one. relative_error : of from_local, 0 where exact."""

    local: F8
    from_local: F8
    relative_error: float = 0.0


def exact(engine: Engine, lin: Linearisation) -> Covariance:
    """Exact covariances; time and memory grow with the square and more of the local parameters."""
    layout = lin.layout
    damped = Damped.of(lin, 0.0)
    whole = _gathered(engine, lin)
    n_before = engine.sums.place(layout.n_local)
    found = None if whole is None else _exact(whole, damped.inverse_D, layout)
    blocks, from_local = engine.sums.told(found)
    return Covariance(blocks[n_before : n_before + layout.n_local], from_local)


class _Whole(NamedTuple):
    """The local part of the normal equations of all processes; rows : of each local block."""

    C: Array
    e: Array
    shared: Array
    rows: Array
    free: Array
    component: Array


def _gathered(engine: Engine, lin: Linearisation) -> _Whole | None:
    """Everything on the first process, None elsewhere."""
    layout = lin.layout
    parts = (lin.C, lin.e, layout.shared, np.diff(layout.start), layout.free, layout.component)
    gathered = [engine.sums.gathered(part) for part in parts]
    whole = [g for g in gathered if g is not None]
    return _Whole(*whole) if whole else None


def _exact(whole: _Whole, inverse_D: F8, layout: Layout) -> tuple[F8, F8]:
    C, e, shared, rows, free, component = whole
    n_local, p = free.shape
    order = np.argsort(shared, kind="stable")
    block = np.repeat(np.arange(n_local), rows)[order]
    begin = np.searchsorted(shared[order], np.arange(len(inverse_D) + 1))
    e = np.asarray(e, dtype=np.float64)[order]
    S = np.zeros((n_local * p, n_local * p))
    subtract_pairs(begin, block, e, inverse_D, S)
    for m in range(n_local):
        at = slice(m * p, (m + 1) * p)
        S[at, at] += C[m]
    used = np.flatnonzero(free.ravel())
    A = np.tril(S[np.ix_(used, used)])
    A = A + np.tril(A, -1).T
    N = gauge_rows(free, component, layout.n_components, layout.gauge)[:, used]
    V = np.zeros_like(S)
    V[np.ix_(used, used)] = constrained_inverse(A, N)
    from_local = np.empty(len(inverse_D))
    quadratic_forms(begin, block, e, inverse_D, V, from_local)
    index = np.arange(n_local * p).reshape(n_local, p)
    return V[index[:, :, None], index[:, None, :]], from_local


def constrained_inverse(A: F8, N: F8) -> F8:
    """The inverse of A on the subspace N x = 0 (zero along N), A singular at most along N.

    A is scaled to unit diagonal first. Where it is still not positive definite (parameters that
    the data do not determine), a small multiple of the diagonal is added.
    """
    scale = 1.0 / np.sqrt(np.maximum(np.diag(A), np.finfo(float).tiny))
    A = A * scale[:, None] * scale
    N = N * scale  # x = scale · x̂
    for row in N:
        A += np.outer(row, row) / (row @ row)
    ridge = 0.0
    while True:
        try:
            factor = cho_factor(A + ridge * np.eye(len(A)), lower=True)
            break
        except np.linalg.LinAlgError:
            ridge = max(10.0 * ridge, 1e-12)
    V = cho_solve(factor, np.eye(len(A)))
    if len(N):
        VN = V @ N.T
        V -= VN @ np.linalg.solve(N @ VN, VN.T)
    return np.asarray(V * scale[:, None] * scale)
