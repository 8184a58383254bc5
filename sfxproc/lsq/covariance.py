"""Covariances of the parameters at the solution.

With S the undamped Schur complement over the free local parameters and N the gauge rows, the
covariance of the local parameters under N x = 0 is

    V = A⁻¹ − A⁻¹Nᵀ (N A⁻¹ Nᵀ)⁻¹ N A⁻¹,   A = S + NᵀN

and that of a shared parameter is var(u_h) = 1/D_h + e_hᵀ V e_h / D_h², e_h the couplings of its
rows: the second term is what the uncertain local parameters add.

Exact, with a dense factor; `lsq.sampled` is for problems too large for that.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from sfxproc.errors import DataError
from sfxproc.kernels.covariance import quadratic_forms
from sfxproc.lsq.border.solve import covariances
from sfxproc.lsq.engine import Engine, Linearisation
from sfxproc.lsq.problem import F8
from sfxproc.lsq.schur import Damped
from sfxproc.lsq.schur_dense import (
    MOST_RIDGE_OF_COVARIANCE,
    Factor,
    Pairs,
    infinite_where,
    own_part,
    schur_matrix,
    undetermined,
    whole,
    whole_layout,
)

SLICES = 64  # of the shared parameters, spread over threads
UNSOLVED = (
    "The standard uncertainties cannot be worked out: at the solution the normal matrix is not "
    "positive definite, or not finite. The refinement did not end at a minimum, or the data do not "
    "determine its parameters: refine fewer of them, or give them priors."
)


class Unsolved(DataError):
    """The linear problem that covariances come from has no solution that could be trusted."""


@dataclass(frozen=True, eq=False)
class Covariance:
    """local : (n_local, p, p) covariance blocks of this process's local parameters (0 where
    fixed, infinite where free and not determined by the data). from_local : (n_shared,) what the
    local parameters add to the variance of each shared one, infinite where one of these is
    infinite; the border's part included. relative_error : of from_local, 0 where exact. border :
    (k, k) of the common parameters, zero along a gauge and where fixed, infinite where they are
    free without any data.

    With a border the solution is the one with the gauge held at Σ_j z_j H_jj δ_j = 0 for each
    combination z of common parameters that it found."""

    local: F8
    from_local: F8
    relative_error: float = 0.0
    border: F8 = field(default_factory=lambda: np.zeros((0, 0)))


def exact(engine: Engine, lin: Linearisation) -> Covariance:
    """Exact covariances. Raises DataError if the dense factor would need too much memory, Unsolved
    if there is none: then nobody knows the covariances."""
    layout = lin.layout
    if lin.border is not None:
        solved = covariances(engine, lin)
        if solved is None:
            raise Unsolved(UNSOLVED)
        return Covariance(solved[0], solved[1], border=solved[2])
    everything = whole(engine, lin, whole_layout(engine, layout))
    found = None if everything is None else _exact(engine, everything)
    blocks, from_local = (None, None) if found is None else found
    local = own_part(engine, layout, blocks)
    from_local = engine.sums.told(from_local)
    if local is None or from_local is None:
        raise Unsolved(UNSOLVED)
    return Covariance(local, from_local)


def _exact(engine: Engine, lin: Linearisation) -> tuple[F8, F8] | None:
    """Covariance blocks of all local parameters, and the variances they add; None if there is no
    factor."""
    n_local, p = lin.layout.free.shape
    damped = Damped.of(lin, 0.0)
    pairs = Pairs.of(lin.layout)
    e = pairs.couplings(lin)
    S = schur_matrix(engine, damped, pairs, e)
    unknown, held = undetermined(S, lin)
    if (unknown | held).any():
        layout = replace(lin.layout, free=lin.layout.free & ~unknown)
        lin = replace(lin, layout=layout)
        e = pairs.couplings(lin)
        S = schur_matrix(engine, replace(damped, lin=lin), pairs, e)
        by_prior = np.flatnonzero(held)
        S[by_prior] = S[:, by_prior] = 0.0
        S[by_prior, by_prior] = layout.prior_weight.ravel()[by_prior]
    factor = Factor.of(S, lin.layout, MOST_RIDGE_OF_COVARIANCE)
    if factor is None:
        return None
    V = factor.covariance()
    if not np.isfinite(np.diag(V)).all():
        return None
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
    infinite_where(unknown, lin, blocks, from_local)
    return blocks, from_local
