"""One problem solved in rounds over overlapping blocks of its local parameters.

Let f(u) = min over x of F(x, u), every residual counted once. At a common point u of the shared
parameters each block refits its own local ones, which gives the gradient and the curvature of f by
sums over blocks (letters of `kernels.arrow`; primes mark what a round's first half finds):

    q = Σ_b (q_b − E_bᵀ C_b⁻¹ g_b),   D = Σ_b D_b,   H = D − Σ_b E_bᵀ C_b⁻¹ E_b

H itself is spread over all blocks; the Newton step −H⁻¹q is not to be had without passing products
around. But blocks are samples of one population, and in the units of their own curvature they look
alike: with T_b = D_b^−½ E_bᵀ C_b⁻¹ E_b D_b^−½, H ≈ D^½ (1 − T_b) D^½ for each block, of which the
diagonal is exact and the eigenvectors of interest (what all scales have in common) are few and well
determined by one block. So in the second half every block solves

    D^½ (1 − T_b) D^½ d_b = −q

by the conjugate gradients of `lsq.schur`, on its own Schur complement (scaling e by (D/D_b)^½
leaves E D⁻¹ Eᵀ what it was), and the mean of the d_b is the step. The fixed point has q = 0: it is
that of the joint problem, whatever the blocks. The error falls by a factor of ten or more a round;
averages of the blocks' own solutions stay where they are (docs/blocks.md has figures).

A distributed approximate Newton method; after Shamir, Srebro & Zhang (2014), ICML 32, 1000, whose
blocks solve for their own whole objective with the gradient corrected.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sfxproc.kernels.arrow import rho_by_block
from sfxproc.lsq.engine import LOSSES, Engine, Linearisation, batches
from sfxproc.lsq.problem import F8, AnyModel, Loss, Point, require_no_border, retracted
from sfxproc.lsq.schur import block_inverses, scatter, schur_cg, times
from sfxproc.lsq.step import Outcome, Step

MOST_REFITS = 20
SETTLED = 1e-6  # decrease of ½ χ² that a local block may still promise, or its last step brought
SHORTEST = 2.0**-10  # part of a step, tried before it is given up


@dataclass(frozen=True, eq=False)
class Refit:
    """Local parameters at fixed shared ones, and what these see of it.

    local : (n_local, p). D, q : (n_shared,) curvature and reduced gradient of the process's
    blocks. objective, chi2 : with and without loss and priors. outcome : whether every block is at
    its minimum, or stuck.
    """

    local: F8
    D: F8
    q: F8
    objective: float
    chi2: float
    outcome: Outcome = Outcome.SOLVED


def refit_local(engine: Engine, model: AnyModel, point: Point, loss: Loss) -> Refit:
    """Minimise over the local parameters alone, each block by damped Newton steps of its own.

    A block at a kink of its model, where steps promise what they do not bring, stays there. Raises
    DataError if there are common parameters.
    """
    layout = model.layout
    require_no_border(layout, "Refitting blocks one by one")
    found = local_objectives(engine, model, point, loss)
    nowhere = np.zeros_like(point.shared)
    stuck, ones = np.zeros(len(found), dtype=bool), np.ones((len(found), 1))
    for number in range(MOST_REFITS + 1):
        lin = engine.linearise(model, point, loss)
        step = -times(block_inverses(lin.C, layout.free), lin.g)
        promised = -0.5 * np.sum(step * lin.g, axis=1)
        moving = (promised > SETTLED) & ~stuck
        n_moving = engine.dots(layout, moving[:, None].astype(np.float64), ones)[0]
        if number == MOST_REFITS or n_moving == 0.0:  # on all ranks: linearising is for all
            break
        before, part = found, np.where(moving, 1.0, 0.0)
        while np.any(part > 0.0):
            trial = retracted(model, point, Point(part[:, None] * step, nowhere))
            reached = local_objectives(engine, model, trial, loss)
            better = (part > 0.0) & (reached <= found)
            point = Point(np.where(better[:, None], trial.local, point.local), point.shared)
            found = np.where(better, reached, found)
            part = np.where(better | (part <= SHORTEST), 0.0, 0.5 * part)
        stuck |= moving & (before - found <= SETTLED)
    # what is left to the others is small: to first order it need not be evaluated again
    small = promised <= SETTLED
    step, promised = np.where(small[:, None], step, 0.0), np.where(small, promised, 0.0)
    local = retracted(model, point, Point(step, nowhere)).local
    left = engine.dots(layout, promised[:, None], ones)
    q = lin.q + scatter(engine, lin, step)
    outcome = Outcome.SOLVED if n_moving == 0.0 else Outcome.NOT_CONVERGED
    lost = ~(np.isfinite(lin.g) & np.isfinite(np.einsum("mii->mi", lin.C))).all(axis=1)
    if engine.dots(layout, lost[:, None].astype(np.float64), ones)[0] > 0.0:
        outcome = Outcome.INDEFINITE
    return Refit(local, lin.D, q, lin.objective - float(left[0]), lin.chi2, outcome)


def local_objectives(engine: Engine, model: AnyModel, point: Point, loss: Loss) -> F8:
    """(n_local,) ½ Σ ρ(d) + ½ priors of each local block."""
    layout = model.layout
    out = np.empty(layout.n_local)

    def chunk(c: int) -> None:
        for first, last in batches(layout, c):
            d = np.empty(int(layout.start[last] - layout.start[first]))
            model.deviances(point, first, last, d)
            rho_by_block(layout.start, first, last, d, LOSSES[loss.kind], loss.scale, out)

    engine.map(chunk, len(layout.chunk) - 1)
    pull = point.local - layout.prior_centre
    return np.asarray(0.5 * (out + np.sum(layout.prior_weight * pull * pull, axis=1)))


def step_of_block(
    engine: Engine, lin: Linearisation, D: F8, q: F8, tolerance: float
) -> Step[Point]:
    """What a block takes for the step of the whole job.

    lin : of the block, at the common point. D, q : (n_shared,) of the whole job. The step's local
    part is without meaning.
    """
    ratio = np.sqrt(np.divide(D, lin.D, out=np.zeros_like(D), where=lin.D > 0.0))
    e = np.asarray(lin.e * ratio[lin.layout.shared][:, None], dtype=lin.e.dtype)
    scaled = replace(lin.with_e(e), g=np.zeros_like(lin.g), D=D, q=q)
    return schur_cg(engine, scaled, 0.0, tolerance)
