"""One damped step of an arrow-shaped problem: shared parameters eliminated, the rest by CG.

At damping λ the normal equations (H + λ diag H) d = −gradient have the blocks (letters of
`kernels.arrow`; x_m the local part, u_h the shared part of the step)

    C̃_m x_m + Σ_{i∈m} eᵢ u_h = −g_m          C̃ = C + λ diag C
    D̃_h u_h + Σ_{i∈h} eᵢ·x_m = −q_h          D̃ = (1 + λ) D

Eliminating u gives the Schur complement, applied without being formed:

    S x = C̃ x − E D̃⁻¹ Eᵀ x = −g + E D̃⁻¹ q        u = −D̃⁻¹ (q + Eᵀ x)

Three tiers: structure once per solve (`Layout`), values once per linearisation (C, e, D), little
per damping value (C̃, D̃, the preconditioner). The gauge is held by solving in the subspace
where each gauge column sums to zero over the free blocks: the operator is P S P, and since the
right-hand side has no component along the gauge nothing is lost. Preconditioner: the p×p blocks
of S, C̃_m − Σᵢ eᵢ eᵢᵀ / D̃_h, projected.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from sfxproc.kernels.arrow import arrow_kernels, invert_blocks
from sfxproc.lsq.engine import Engine, Linearisation
from sfxproc.lsq.problem import F8, Array, Layout, Point, require_no_border
from sfxproc.lsq.step import Outcome, Step

MAX_CG_ITERATIONS = 500
SMALLEST_PIVOT = 1e-6  # of a block in unit diagonal


@dataclass(frozen=True, eq=False)
class Damped:
    """The damped blocks of a linearisation."""

    lin: Linearisation
    damping: float
    C: F8
    inverse_D: F8

    @classmethod
    def of(cls, lin: Linearisation, damping: float) -> Damped:
        """Blocks at a damping value. Parameters without curvature get none of the step. Raises
        DataError where there is a border, which these blocks leave out."""
        if lin.border is not None:
            require_no_border(lin.layout, "This way to solve the normal equations")
        p = lin.C.shape[1]
        C = lin.C.copy()
        diagonal = np.arange(p)
        C[:, diagonal, diagonal] *= 1.0 + damping
        inverse_D = np.zeros_like(lin.D)
        np.divide(1.0, (1.0 + damping) * lin.D, out=inverse_D, where=lin.D > 0)
        return cls(lin, damping, C, inverse_D)


def schur_cg(engine: Engine, lin: Linearisation, damping: float, tolerance: float) -> Step[Point]:
    """Solve the damped normal equations by projected, preconditioned conjugate gradients.

    tolerance : of the preconditioned residual relative to its start.
    """
    damped = Damped.of(lin, damping)
    b = gather(engine, lin, damped.inverse_D * lin.q) - lin.g
    found = conjugate_gradients(SchurSystem.of(engine, damped), b, tolerance)
    return complete(engine, damped, found.x, found.iterations, found.outcome)


@dataclass(frozen=True, eq=False)
class SchurSystem:
    """P S P with its preconditioner, for any number of right-hand sides."""

    engine: Engine
    damped: Damped
    projection: Projection
    inverse: F8

    @classmethod
    def of(cls, engine: Engine, damped: Damped) -> SchurSystem:
        """The system at a damping value."""
        layout = damped.lin.layout
        inverse = block_inverses(damped.C - schur_blocks(engine, damped), layout.free)
        return cls(engine, damped, Projection(engine, layout), inverse)

    def product(self, v: F8) -> F8:
        """P S v."""
        lin, inverse_D = self.damped.lin, self.damped.inverse_D
        t = scatter(self.engine, lin, v)
        return self.projection(times(self.damped.C, v) - gather(self.engine, lin, inverse_D * t))

    def precondition(self, v: F8) -> F8:
        """P times the block inverses times v."""
        return self.projection(times(self.inverse, v))

    def dot(self, a: F8, b: F8) -> float:
        """Σ a·b over all processes."""
        return float(self.engine.dots(self.damped.lin.layout, a, b).sum())


@dataclass(frozen=True, eq=False)
class Solution:
    """x with P S x = P b and P x = x, as far as it was found, and after how many iterations."""

    x: F8
    iterations: int
    outcome: Outcome


def conjugate_gradients(system: SchurSystem, b: F8, tolerance: float) -> Solution:
    """Solve by preconditioned conjugate gradients.

    Where they end early x is what they had, which still descends: truncated as by Steihaug (1983),
    SIAM J. Numer. Anal. 20, 626.
    """
    residual = system.projection(b)
    x = np.zeros_like(residual)
    z = system.precondition(residual)
    rz = system.dot(residual, z)
    stop = tolerance**2 * rz
    direction = z
    iterations = 0
    while rz > stop and rz > 0.0:
        if iterations == MAX_CG_ITERATIONS:
            return Solution(x, iterations, Outcome.NOT_CONVERGED)
        iterations += 1
        image = system.product(direction)
        curvature = system.dot(direction, image)
        if not (isfinite(curvature) and curvature > 0.0):
            return Solution(x, iterations, Outcome.INDEFINITE)
        alpha = rz / curvature
        x = x + alpha * direction
        residual = residual - alpha * image
        z = system.precondition(residual)
        rz_next = system.dot(residual, z)
        direction = z + (rz_next / rz) * direction
        rz = rz_next
    return Solution(x, iterations, Outcome.SOLVED if abs(rz) <= stop else Outcome.INDEFINITE)


def times(blocks: F8, v: F8) -> F8:
    """(n_local, p) each block times its part of v."""
    out: F8 = np.einsum("mij,mj->mi", blocks, v)
    return out


def complete(
    engine: Engine,
    damped: Damped,
    x: F8 | None,
    iterations: int = 0,
    outcome: Outcome = Outcome.SOLVED,
) -> Step[Point]:
    """The shared part of a step from its local part, and its predicted decrease.

    x : None where there is no factor; then the step is none, and where it is not finite too. For x
    from CG (or exact), with d = (x, u): decrease = ½ (λ dᵀ diag(H) d − dᵀ gradient).
    """
    lin = damped.lin
    if x is None:
        return lin.no_step()
    u = -damped.inverse_D * (lin.q + scatter(engine, lin, x))
    diagonal = np.einsum("mii->mi", lin.C)
    local = engine.dots(lin.layout, x, damped.damping * diagonal * x - lin.g).sum()
    shared = float(np.sum(u * (damped.damping * lin.D * u - lin.q)))
    predicted = 0.5 * (float(local) + engine.sums.agreed(shared))
    if not isfinite(predicted):
        return lin.no_step()
    return Step(Point(x, u), predicted, iterations, outcome)


class Projection:
    """Onto the steps allowed: fixed parameters at zero, and gauge columns summing to zero over
    the free blocks of each connected component."""

    def __init__(self, engine: Engine, layout: Layout) -> None:
        self._engine, self._layout = engine, layout
        self._free = layout.free.astype(np.float64)
        self._count = np.maximum(engine.component_sums(layout, self._free), 1.0)

    def __call__(self, v: F8) -> F8:
        v = v * self._free
        if self._layout.gauge:
            mean = self._engine.component_sums(self._layout, v) / self._count
            for k in self._layout.gauge:
                v[:, k] -= mean[self._layout.component, k] * self._free[:, k]
        return v


def scatter(engine: Engine, lin: Linearisation, v: F8) -> F8:
    """(n_shared,) Eᵀ v: Σ over the rows of each shared parameter of eᵢ·v_m."""
    layout = lin.layout
    kernel = arrow_kernels(v.shape[1]).scatter

    def fill(c: int, out: Array) -> None:
        first, last = layout.chunk[c], layout.chunk[c + 1]
        kernel(layout.start, layout.shared, first, last, lin.e, v, out[0])

    return np.asarray(engine.shared_sums(layout, 1, fill)[0])


def gather(engine: Engine, lin: Linearisation, u: F8) -> F8:
    """(n_local, p) E u: Σ over the rows of each local block of eᵢ u_h."""
    layout = lin.layout
    kernel = arrow_kernels(lin.g.shape[1]).gather
    out = np.empty_like(lin.g)

    def chunk(c: int) -> None:
        first, last = layout.chunk[c], layout.chunk[c + 1]
        kernel(layout.start, layout.shared, first, last, lin.e, u, out)

    engine.map(chunk, len(layout.chunk) - 1)
    return out


def schur_blocks(engine: Engine, damped: Damped) -> F8:
    """(n_local, p, p) Σᵢ eᵢ eᵢᵀ / D̃_h."""
    lin = damped.lin
    layout = lin.layout
    kernel = arrow_kernels(lin.g.shape[1]).outer
    out = np.empty_like(lin.C)

    def chunk(c: int) -> None:
        first, last = layout.chunk[c], layout.chunk[c + 1]
        kernel(layout.start, layout.shared, first, last, lin.e, damped.inverse_D, out)

    engine.map(chunk, len(layout.chunk) - 1)
    return out


def block_inverses(blocks: F8, free: NDArray[np.bool_]) -> F8:
    """Inverses of symmetric blocks within their free parameters, made safely positive.

    A block that is not positive definite (one that only its own shared parameters hold) is
    replaced by its diagonal: the preconditioner need only be roughly right.
    """
    out = np.zeros_like(blocks)
    invert_blocks(blocks, free, SMALLEST_PIVOT, out)
    return out


def indefinite_blocks(blocks: F8, inverses: F8, free: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(n_local,) which blocks `block_inverses` replaced by their diagonal, or are not finite.

    The product of block and inverse is then not 1: in unit diagonal an indefinite block has an
    element −1 on it, or one larger than 1/(p − 1) beside it.
    """
    p = free.shape[1]
    with np.errstate(invalid="ignore"):
        size = np.sqrt(np.abs(np.einsum("mii->mi", blocks)))
        unit = np.einsum("mi,mij,mjk->mik", size, inverses, blocks, optimize=True)
        unit = np.divide(unit, size[:, None, :], out=np.zeros_like(unit), where=size[:, None] != 0)
        both = free[:, :, None] & free[:, None, :] & ~(size == 0.0)[:, :, None]
        wrong = ~(np.abs(unit - np.eye(p)) < 0.5 / p) & both
    return np.asarray(wrong.any(axis=(1, 2)))
