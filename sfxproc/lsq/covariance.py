"""Covariances of the parameters at the solution.

With S the undamped Schur complement over the free local parameters and N the gauge rows, the
covariance of the local parameters under N x = 0 is

    V = A⁻¹ − A⁻¹Nᵀ (N A⁻¹ Nᵀ)⁻¹ N A⁻¹,   A = S + NᵀN

and that of a shared parameter is var(u_h) = 1/D_h + e_hᵀ V e_h / D_h², e_h the couplings of its
rows: the second term is what the uncertain local parameters add.

Exact, with a dense factor; `lsq.sampled` is for problems too large for that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sfxproc.kernels.covariance import quadratic_forms
from sfxproc.lsq.engine import Engine, Linearisation
from sfxproc.lsq.problem import F8
from sfxproc.lsq.schur import Damped
from sfxproc.lsq.schur_dense import Factor, Pairs, schur_matrix
from sfxproc.lsq.whole import own_part, whole, whole_layout

SLICES = 64  # of the shared parameters, spread over threads


@dataclass(frozen=True, eq=False)
class Covariance:
    """local : (n_local, p, p) covariance blocks of this process's local parameters (0 where
    fixed, infinite where free without any data). from_local : (n_shared,) what the local
    parameters add to the variance of each shared one. relative_error : of from_local, 0 where
    exact."""

    local: F8
    from_local: F8
    relative_error: float = 0.0


def exact(engine: Engine, lin: Linearisation) -> Covariance:
    """Exact covariances. Raises DataError if the dense factor would need too much memory."""
    layout = lin.layout
    everything = whole(engine, lin, whole_layout(engine, layout))
    found = None if everything is None else _exact(engine, everything)
    blocks, from_local = (None, None) if found is None else found
    return Covariance(own_part(engine, layout, blocks), engine.sums.told(from_local))


def _exact(engine: Engine, lin: Linearisation) -> tuple[F8, F8]:
    """Covariance blocks of all local parameters, and the variances they add."""
    n_local, p = lin.layout.free.shape
    damped = Damped.of(lin, 0.0)
    pairs = Pairs.of(lin.layout)
    e = pairs.couplings(lin)
    V = Factor.of(schur_matrix(engine, damped, pairs, e), lin.layout).covariance()
    from_local = np.empty(len(lin.D))
    bounds = np.linspace(0, len(lin.D), SLICES + 1).astype(np.int64)

    def fill(k: int) -> None:
        quadratic_forms(
            pairs.begin, pairs.block, e, damped.inverse_D, V, bounds[k], bounds[k + 1], from_local
        )

    engine.map(fill, SLICES)
    at = np.arange(n_local * p).reshape(n_local, p)
    both = lin.layout.free[:, :, None] & lin.layout.free[:, None, :]
    blocks = np.where(both, V[at[:, :, None], at[:, None, :]], 0.0)
    unknown = lin.layout.free & (np.einsum("mii->mi", lin.C) <= 0.0)
    blocks[unknown[:, :, None] & np.eye(p, dtype=bool)] = np.inf
    return blocks, from_local
