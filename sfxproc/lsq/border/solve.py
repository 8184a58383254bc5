"""Steps, gauges and covariances of a bordered problem.

All of them eliminate everything but the border, solve what is left and go back. At damping λ the
normal equations are those of `lsq.schur`, H + λ diag H with the border among the parameters.
"""

from __future__ import annotations

from math import isfinite

import numpy as np

from sfxproc.lsq.border import gauge
from sfxproc.lsq.border.direct import Direct
from sfxproc.lsq.border.joint import Joint
from sfxproc.lsq.border.reduced import Reduced
from sfxproc.lsq.engine import Engine, Linearisation
from sfxproc.lsq.problem import F8, Point
from sfxproc.lsq.step import Step


def eliminated(
    engine: Engine, lin: Linearisation, damping: float, for_covariance: bool = False
) -> Direct | Joint | None:
    """The problem with all but the border eliminated; None where there is no factor."""
    if lin.layout.n_shared:
        return Joint.of(engine, lin, damping, for_covariance)
    return Direct.of(engine, lin, damping)


def border_step(
    engine: Engine, lin: Linearisation, damping: float, tolerance: float
) -> Step[Point]:
    """Solve the damped normal equations exactly; what is a gauge is held. tolerance : not used."""
    inner = eliminated(engine, lin, damping)
    if inner is None or lin.border is None:
        return lin.no_step()
    reduced, b = inner.reduced()
    z = _solved(engine, reduced, b)
    if z is None:
        return lin.no_step()
    delta = inner.local(z)
    predicted = _predicted(engine, lin, delta, damping)
    return Step(delta, predicted) if isfinite(predicted) else lin.no_step()


def _solved(engine: Engine, reduced: Reduced, b: F8) -> F8 | None:
    """z with S z = b, worked out by the first process; None if S is indefinite."""
    z = None
    if engine.sums.place(1) == 0:
        factor = reduced.factor()
        z = None if factor is None else factor.solve(b)
    told: F8 | None = engine.sums.told(z)
    return told


def _predicted(engine: Engine, lin: Linearisation, delta: Point, damping: float) -> float:
    """½ (λ dᵀ diag(H) d − dᵀ gradient), the decrease of the objective that a step promises."""
    assert lin.border is not None
    diagonal = np.einsum("mii->mi", lin.C)
    local = engine.dots(lin.layout, delta.local, damping * diagonal * delta.local - lin.g).sum()
    shared = np.sum(delta.shared * (damping * lin.D * delta.shared - lin.q))
    z = delta.border
    border = np.sum(z * (damping * lin.border.diagonal * z - lin.border.q))
    return 0.5 * (float(local) + engine.sums.agreed(float(shared + border)))


def gauges(engine: Engine, lin: Linearisation) -> tuple[str, ...]:
    """The combinations with common parameters that neither data nor priors determine, each in
    words; empty too where the problem cannot be factored."""
    inner = eliminated(engine, lin, 0.0)
    if inner is None:
        return ()
    reduced, _ = inner.reduced()
    basis = None
    if engine.sums.place(1) == 0:
        factor = reduced.factor()
        basis = None if factor is None else gauge.echelon(factor.gauge)
    basis = engine.sums.told(basis)
    if basis is None:
        return ()
    return tuple(_words(engine, lin, inner, moves) for moves in basis.T)


def _words(engine: Engine, lin: Linearisation, inner: Direct | Joint, moves: F8) -> str:
    """A combination in words, with what local and shared parameters do."""
    layout, border, blocks = lin.layout, inner.border, inner.blocks
    x, u, _ = inner.local(moves, gradient=False)
    ones = layout.free.astype(np.float64)
    n = np.maximum(engine.dots(layout, ones, ones), 1.0)
    mean = engine.dots(layout, x, ones) / n
    off = (x - mean) * ones
    spread = np.sqrt(engine.dots(layout, off, off) / n)
    content = engine.dots(layout, np.einsum("mii->mi", lin.C) * x, x)
    least = gauge.SAME**2 * float(np.sum(blocks.diagonal * moves**2))
    others = [
        gauge.of_many(f"{layout.parameters[s]} of", "blocks", float(mean[s]), float(spread[s]))
        for s in np.flatnonzero(content > least)
    ]
    if np.sum(lin.D * u * u) > least:
        own = u[lin.D > 0.0]
        others.append(gauge.of_many("", "shared parameters", float(own.mean()), float(own.std())))
    return gauge.sentence(gauge.named(border.names, moves, blocks.diagonal), others)


def covariances(engine: Engine, lin: Linearisation) -> tuple[F8, F8, F8] | None:
    """Covariances of the local blocks (n_local, p, p), what others add to the variances of shared
    parameters (n_shared,), and the covariance of the border (k, k).

    Zero where a parameter is fixed, infinite where neither data nor priors determine it by itself;
    along a gauge, which is held, zero. None where there is no factor.
    """
    inner = eliminated(engine, lin, 0.0, for_covariance=True)
    if inner is None:
        return None
    reduced, _ = inner.reduced()
    V = None
    if engine.sums.place(1) == 0:
        factor = reduced.factor()
        V = None if factor is None else factor.inverse()
    V = engine.sums.told(V)
    if V is None:
        return None
    local, from_others = inner.covariance(V)
    unknown = np.flatnonzero(inner.border.free & ~reduced.used)
    V[unknown, unknown] = np.inf
    return local, from_others, V
