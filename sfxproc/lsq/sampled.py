"""Covariances by sampling, for problems too large for a dense factor.

Noise of unit variance on the residuals (priors are residuals too), ε, moves the local parameters
by x = S⁺(E D⁻¹ q − g) with g = Σ √w a ε and q = Σ √w c ε, and the covariance of x is S⁺ exactly.
What uncertain local parameters add to the variance of a shared one, e_hᵀ S⁺ e_h / D_h², is then
the mean of (e_h·x)²/D_h² over samples: unbiased, but noisy for a single h. So the samples only
calibrate

    approximate_h = Σᵢ eᵢᵀ S_m⁻¹ eᵢ / D_h²       (S_m the p×p blocks of S: no correlations)

by one factor a stratum of shared parameters, over which their ratio varies little, and the local
covariances S_m⁻¹ by one factor a column. The spread between samples tells the error of that.

Stochastic diagonal estimation after Hutchinson (1990), Commun. Stat. Simul. 19, 433, and Bekas
et al. (2007), Appl. Numer. Math. 57, 1214; signs instead of normal deviates for lower variance.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sfxproc.kernels.arrow import arrow_kernels
from sfxproc.lsq.covariance import Covariance, Unsolved
from sfxproc.lsq.engine import LOSSES, Engine, Linearisation, batches
from sfxproc.lsq.problem import F8, AnyModel, Array, Loss, Point, Rows
from sfxproc.lsq.schur import (
    Damped,
    SchurSystem,
    block_inverses,
    conjugate_gradients,
    gather,
    indefinite_blocks,
    scatter,
    schur_blocks,
)
from sfxproc.lsq.step import Outcome

SAMPLES = 8
CG_TOLERANCE = 1e-2


def sampled(
    engine: Engine,
    model: AnyModel,
    point: Point,
    lin: Linearisation,
    loss: Loss,
    strata: NDArray[np.int32],
    samples: int = SAMPLES,
    seed: int = 0,
) -> Covariance:
    """Sample covariances at the solution; relative_error is that of a typical stratum.

    strata : (n_shared,) 0 … n, the calibration groups. Raises Unsolved where a linear problem
    cannot be solved: then nobody knows the covariances.
    """
    layout = lin.layout
    damped = Damped.of(lin, 0.0)
    system = SchurSystem.of(engine, damped)
    spread = local_spread(engine, lin, system.inverse) * damped.inverse_D**2
    diagonal = np.einsum("mii->mi", system.inverse)
    safe = np.where(diagonal > 0, diagonal, np.inf)
    ones = (diagonal > 0).astype(np.float64)
    expected = np.bincount(strata, spread * lin.D)

    shared_ratio, local_ratio = [], []
    for sample in range(samples):
        g, q = noise(engine, model, point, loss, seed * samples + sample)
        b = gather(engine, lin, damped.inverse_D * q) - g
        solution = conjugate_gradients(system, b, CG_TOLERANCE)
        if solution.outcome is not Outcome.SOLVED:
            raise Unsolved(
                f"The standard uncertainties cannot be sampled: a linear solve ended as "
                f"{solution.outcome.value} after {solution.iterations} iterations. The refinement "
                "did not end at a minimum, or the data do not determine its parameters; refine "
                "fewer of them, or hold them by priors."
            )
        x = solution.x
        moved = (scatter(engine, lin, x) * damped.inverse_D) ** 2
        shared_ratio.append(np.bincount(strata, moved * lin.D) / np.maximum(expected, 1e-300))
        local_ratio.append(engine.dots(layout, x / safe, x))
    factor = np.mean(shared_ratio, axis=0)
    error = np.std(shared_ratio, axis=0, ddof=1) / np.sqrt(samples) / np.maximum(factor, 1e-300)
    count = np.maximum(engine.dots(layout, ones, ones), 1.0)
    stretch = np.sqrt(np.mean(local_ratio, axis=0) / count)
    blocks = damped.C - schur_blocks(engine, damped)
    wrong = _wrong_blocks(engine, lin, blocks, system.inverse)
    from_local = spread * factor[strata]
    local = system.inverse
    if wrong is not None:
        held = _of_priors(lin, wrong)
        more = local_spread(engine, lin, held) * damped.inverse_D**2
        local, from_local = _unknown_infinite(
            engine, lin, wrong, np.where(wrong[:, None, None], held, local), from_local + more
        )
    return Covariance(
        local * stretch[:, None] * stretch,
        from_local,
        float(np.median(error[expected > 0])) if np.any(expected > 0) else 0.0,
    )


def uncorrelated(engine: Engine, lin: Linearisation) -> tuple[F8, F8]:
    """What the samples calibrate: S_m⁻¹ (n_local, p, p) and the sums Σᵢ eᵢᵀ S_m⁻¹ eᵢ (n_shared,)
    over the process's blocks. Correlations between blocks, a small part where each shared
    parameter has many rows, are left out."""
    damped = Damped.of(lin, 0.0)
    blocks = damped.C - schur_blocks(engine, damped)
    V = block_inverses(blocks, lin.layout.free)
    wrong = _wrong_blocks(engine, lin, blocks, V)
    if wrong is None:
        return V, local_spread(engine, lin, V)
    V = np.where(wrong[:, None, None], _of_priors(lin, wrong), V)
    return _unknown_infinite(engine, lin, wrong, V, local_spread(engine, lin, V))


def _wrong_blocks(
    engine: Engine, lin: Linearisation, blocks: F8, V: F8
) -> NDArray[np.bool_] | None:
    """(n_local,) which blocks of S have no inverse, so that V holds what stands in for it in a
    preconditioner, which is no covariance; None if no process has any."""
    wrong = indefinite_blocks(blocks, V, lin.layout.free)
    flags = np.zeros_like(lin.g)
    flags[wrong] = 1.0
    return wrong if engine.dots(lin.layout, flags, flags).any() else None


def _of_priors(lin: Linearisation, wrong: NDArray[np.bool_]) -> F8:
    """(n_local, p, p) the covariances that priors alone leave to wrong blocks; 0 elsewhere."""
    layout = lin.layout
    held = wrong[:, None] & layout.free & (layout.prior_weight > 0.0)
    variance = np.divide(1.0, layout.prior_weight, out=np.zeros_like(lin.g), where=held)
    return variance[:, :, None] * np.eye(layout.free.shape[1])


def _unknown_infinite(
    engine: Engine, lin: Linearisation, wrong: NDArray[np.bool_], V: F8, from_local: F8
) -> tuple[F8, F8]:
    """V (n_local, p, p) and from_local (n_shared,), infinite for parameters of wrong blocks that
    no prior holds."""
    layout = lin.layout
    unknown = wrong[:, None] & layout.free & (layout.prior_weight == 0.0)
    which = unknown[:, :, None] & np.eye(layout.free.shape[1], dtype=bool)
    touched = local_spread(engine, lin, which.astype(np.float64))
    return np.where(which, np.inf, V), np.where(touched != 0.0, np.inf, from_local)


def noise(engine: Engine, model: AnyModel, point: Point, loss: Loss, seed: int) -> tuple[F8, F8]:
    """g (n_local, p) and q (n_shared,) of unit noise on all residuals and priors of the job."""
    layout = model.layout
    p = len(layout.parameters)
    before = engine.sums.place(layout.n_local)
    kernel = arrow_kernels(p).noise
    g = np.zeros((layout.n_local, p))

    def fill(c: int, out: Array) -> None:
        for first, last in batches(layout, c):
            n = int(layout.start[last] - layout.start[first])
            rows = Rows.empty(layout, n)
            rows.fill(model, point, first, last)
            kernel(
                layout.start,
                layout.shared,
                first,
                last,
                rows.d,
                rows.a,
                rows.c,
                LOSSES[loss.kind],
                loss.scale,
                layout.prior_weight,
                seed,
                before,
                g,
                out[0],
            )

    return g, engine.shared_sums(layout, 1, fill)[0]


def local_spread(engine: Engine, lin: Linearisation, V: F8) -> F8:
    """(n_shared,) Σᵢ eᵢᵀ V_m eᵢ."""
    layout = lin.layout
    kernel = arrow_kernels(V.shape[1]).spread

    def fill(c: int, out: Array) -> None:
        first, last = layout.chunk[c], layout.chunk[c + 1]
        kernel(layout.start, layout.shared, first, last, lin.e, V, out[0])

    return np.asarray(engine.shared_sums(layout, 1, fill)[0])
