"""How well cells explain powder lines: the figures that rank them, across lattices too.

With Δ_k the distance of line k to the nearest calculated one, σ_k its standard error, N calculated
lines up to q²_n + σ_n, ρ_k = (3/2)(N/q²_n)√(q²_k/q²_n) and t_k = 2 ρ_k (|Δ_k| + σ_k):

    M_20 = q²_20/(2 ⟨max(|Δ|, σ)⟩ N_20)       de Wolff, J. Appl. Cryst. 1 (1968) 108; floor σ
    I    = Σ ln(1 + 1/t_k)                    after Taupin, J. Appl. Cryst. 21 (1988) 485
    Λ    = Σ ln(w + (1 − w) r_k)
    E    = Λ + Σ_j ln(√(2π) σ_xj/s)           σ_x from the curvature

r_k says how much likelier line k is if it is the cell's than if it lies anywhere, w the share of
lines that the cell need not explain. From all calculated lines j it is

    r_k = Σ_j N(q²_k − q²_j; σ_k)/ρ(q²_k),     ρ(q²) = (α N/q²_n)(q²/q²_n)^(α − 1)
    α = (N + n_0)/(Σ_j ln(q²_n/q²_j) + n_0/α_0)   Hill's estimate, α_0 = 3/2 with the weight of n_0

and ⟨r⟩ = 1 for lines anywhere, however the calculated ones are spaced: the many even lines of a
large cubic cell explain nothing, nor do clusters. α is 3/2 where N grows as V q³, 1 for cubic
lattices or a short axis. From the nearest line alone, quick and fair to cells of one lattice,

    r_k = N(Δ_k)/C(Δ_k) ≤ r(0),   N = 2 exp(−Δ²/2σ²)/(√(2π) σ),   C = 2 ρ exp(−2 ρ |Δ|)

C the density of the distance to lines at random. So Λ is the logarithm of the likelihood ratio
against a cell that has nothing to do with the pattern. Its best value rises with the number of
parameters p; E is Λ averaged over x (Laplace's approximation), of which s is known beforehand. A
larger cell has more lines and loses n ln 2 at twice the volume; a parameter costs some five nats.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sfxproc.data import Floats, Ints
from sfxproc.kernels import powder as kernels
from sfxproc.kernels import powder_fit
from sfxproc.powder.optimise import checked_lines

N_FIRST = 20  # lines of M_20
UNFIXED = 5.0  # nats
ALPHA, ALPHA_WEIGHT = 1.5, 8.0
NEIGHBOURS = 8  # calculated lines on either side of an observed one


@dataclass(frozen=True, eq=False)
class Merits:
    """Figures of cells (c,): `m20`; `n_calculated` lines up to the 20th (last if fewer) observed
    one; `n_explained` observed lines within `within` σ; `information` I, `likelihood_ratio` Λ and
    `evidence` E in nats. near (c, n): the calculated line assigned to each observed one, delta
    (c, n) the differences q²_obs − q²_calc in Å⁻²."""

    m20: Floats
    n_calculated: Ints
    n_explained: Ints
    information: Floats
    likelihood_ratio: Floats
    evidence: Floats
    near: Ints
    delta: Floats


def merits(
    forms: Floats,
    basis: Floats,
    q2: Floats,
    sigma: Floats,
    x: Floats,
    *,
    within: float = 3.0,
    outliers: float = 0.05,
) -> Merits:
    """Figures of cells x (c, p); `outliers` is w.

    forms (m, p) must hold the lines of these cells up to q²_n: absences of the centring are those
    not in it. basis (p, 3, 3); q2, sigma (n,) ascending, Å⁻². Raises DataError as `optimise` does.
    """
    q2, sigma = checked_lines(q2, sigma)
    x = np.ascontiguousarray(x, dtype=np.float64)
    reference = kernels.reference_lines(forms, basis)
    near, delta, count = _explained(reference, q2, sigma, x)
    first = slice(0, N_FIRST)
    near_ones, n_calculated = delta, count
    if len(q2) > N_FIRST:
        _, near_ones, n_calculated = _explained(reference, q2[first], sigma[first], x)
    mean = np.maximum(np.abs(near_ones), sigma[first]).mean(axis=1)
    with np.errstate(over="ignore"):
        m20 = q2[first][-1] / (2.0 * mean * np.maximum(n_calculated, 1))

    density = 1.5 * np.maximum(count, len(q2))[:, None] / q2[-1] * np.sqrt(q2 / q2[-1])
    weighed = weigh(ratios_of_nearest(delta, density, sigma), outliers)
    tight = np.log1p(0.5 / (density * (np.abs(delta) + sigma)))
    return Merits(
        m20=m20,
        n_calculated=n_calculated,
        n_explained=(np.abs(delta) <= within * sigma).sum(axis=1),
        information=tight.sum(axis=1),
        likelihood_ratio=weighed.gained.sum(axis=1),
        evidence=weighed.evidence(forms[near], sigma, float(q2[-1])),
        near=near,
        delta=delta,
    )


@dataclass(frozen=True, eq=False)
class Weighed:
    """Lines of cells weighed against chance (c, n): `gained`, the terms of Λ in nats; `right`, the
    probability that the line is the cell's."""

    gained: Floats
    right: Floats

    def evidence(self, rows: Floats, sigma: Floats, span: float) -> Floats:
        """E (c,) of cells with the linear forms `rows` (c, n, p) at their lines, or (1, n, p) of
        all cells; `span` is s."""
        paid = _occam(rows, self.right / sigma**2, span)
        return np.asarray(self.gained.sum(axis=1) + paid)


def weigh(ratios: Floats, outliers: float) -> Weighed:
    """Weigh r (c, n); `outliers` is w."""
    whole = outliers + (1.0 - outliers) * ratios
    return Weighed(np.log(whole), (1.0 - outliers) * ratios / whole)


def ratios_of_nearest(delta: Floats, density: Floats, sigma: Floats) -> Floats:
    """r (c, n) of the differences delta (c, n) alone; density ρ (c, n), sigma (n,)."""
    distance = np.abs(delta)
    excess = np.minimum(2.0 * density * distance - 0.5 * (distance / sigma) ** 2, 0.0)
    return np.asarray(np.exp(excess) / (np.sqrt(2 * np.pi) * sigma * density))


def ratios(calculated: Floats, q2: Floats, sigma: Floats) -> Floats:
    """r (s, n) of the lines q2 (n,) with standard errors sigma (s, n), Å⁻², from all calculated
    lines (m,), ascending and beyond the last of q2 by a few σ. N is taken as n at least."""
    out = np.empty(sigma.shape)
    powder_fit.ratios(calculated, q2, sigma, NEIGHBOURS, ALPHA, ALPHA_WEIGHT, out)
    return out


def _explained(
    reference: kernels.Reference, q2: Floats, sigma: Floats, x: Floats
) -> tuple[Ints, Floats, Ints]:
    """`kernels.powder.explain`: nearest lines and differences (c, n), calculated lines (c,)."""
    shape = len(x), len(q2)
    near, delta = np.zeros(shape, dtype=np.int64), np.zeros(shape)
    count = np.zeros(len(x), dtype=np.int64)
    kernel = kernels.explain
    kernel(reference, kernels.observed_lines(q2, sigma), x, near, delta, count)
    return near, delta, count


def _occam(rows: Floats, weight: Floats, scale: float) -> Floats:
    """Σ ln(√(2π) σ_xj/s), (c,): from rows (c, n, p) or (1, n, p) with weights (c, n). A direction
    that the lines do not fix costs UNFIXED, about as much as one that they do."""
    out = np.empty(len(weight))
    powder_fit.occam(rows, weight, scale, np.exp(2.0 * UNFIXED), out)
    return out
