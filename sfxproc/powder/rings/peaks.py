"""Rings of a spot powder: where the spots of many stills crowd in q.

In a coordinate in which all rings are equally wide,

    u(q) = asinh(b q/a)/b,   dq/du = σ(q) = (a² + b² q²)^½,

the numbers of spots n_i in bins of u are Poisson with means

    µ_i = β_i + Σ_k N_k g(u_i − u_k)       g: normal density of unit width times the bin

a smooth background and one normal peak a ring. N, u_k and β are fitted to the maximum of the
likelihood by expectation and maximisation (Dempster, Laird & Rubin, J. R. Stat. Soc. B39, 1, 1977);
errors are from the Fisher information Σ_i ∂µ_i ∂µ_iᵀ/µ_i, with all overlaps. A ring's significance
is (2 Δ ln L)^½ of leaving it out. Rings are looked for in what the others leave, by the matched
filter Σ (n_i − µ_i) g_i/(Σ µ_i g_i²)^½, until no more are significant.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from scipy.ndimage import gaussian_filter1d, maximum_filter1d, uniform_filter1d
from scipy.optimize import nnls
from scipy.sparse import csr_array

from sfxproc.data import Floats, Ints

BIN = 0.2  # of u
REACH = 4.0  # of g, in u
BACKGROUND_WIDTH = 30.0  # in u: what the background may follow
LEAST_BACKGROUND = 1e-3  # of the mean number of spots in a bin
SEARCHES, STEPS = 6, 80
TOLERANCE = 1e-3  # in u, of a step
APART = 1.2  # in u: no ring is looked for nearer to another
TAILS, SATELLITE = 6.0, 0.08  # within so many u of a ring less than this share may be its tail
QUANTILE = 0.2  # of the variances of clear rings, where they pass their fit
FEW = 5.0  # of n spots, by chance, that quantile is about n/(n − FEW) times too small
SQRT_2PI = float(np.sqrt(2.0 * np.pi))
WIDTHS = np.geomspace(8e-5, 4e-3, 16)  # Å⁻¹, tried for a
GROWTHS = (0.0, 1e-3, 2e-3, 4e-3, 8e-3)  # tried for b
BRIGHTEST = 20  # rings by which a width is judged
STEADY, FITTED = 8.0, 20  # significance and number of rings that widths are fitted to


@dataclass(frozen=True)
class RingWidth:
    """σ(q) = (a² + b² q²)^½ of rings; a in Å⁻¹."""

    a: float
    b: float

    def u(self, q: Floats) -> Floats:
        """The coordinate in which rings are 1 wide."""
        if self.b < 1e-9:
            return np.asarray(q / self.a)
        return np.asarray(np.arcsinh(self.b * q / self.a) / self.b)

    def q(self, u: Floats) -> Floats:
        """q in Å⁻¹ of u."""
        return np.asarray(u * self.a if self.b < 1e-9 else np.sinh(self.b * u) * self.a / self.b)

    def sigma(self, q: Floats) -> Floats:
        """σ(q) in Å⁻¹."""
        return np.asarray(np.hypot(self.a, self.b * q))


@dataclass(frozen=True, eq=False)
class Rings:
    """Fitted rings, ascending. u, number : (k,) place and number of spots. covariance : (2k, 2k) of
    all places, then all numbers. significance : (k,). spread : (k,) variance in u of the spots of
    each, 1 if it is a ring of the width assumed. start : u of the first bin's edge. counts, model,
    background : (m,) spots a bin."""

    u: Floats
    number: Floats
    covariance: Floats
    significance: Floats
    spread: Floats
    start: float
    counts: Floats
    model: Floats
    background: Floats


def first_width(q: Floats, q_min: float, q_max: float) -> RingWidth:
    """The width of those tried by which the brightest rings stand out most."""
    best, found = -np.inf, RingWidth(float(WIDTHS[-1]), 0.0)
    for a, b in product(WIDTHS.tolist(), GROWTHS):
        width = RingWidth(a, b)
        score = _filtered(_counted(q, width, q_min, q_max)[1], None, 1.0 / BIN)
        peaks = score[(score == maximum_filter1d(score, int(2.0 * REACH / BIN) | 1)) & (score > 0)]
        if (total := float(np.sort(peaks)[-BRIGHTEST:].sum())) > best:
            best, found = total, width
    return found


def _counted(q: Floats, width: RingWidth, q_min: float, q_max: float) -> tuple[float, Floats]:
    """u of the first bin's edge, and the spots of each bin (m,) from q_min to q_max."""
    start = float(width.u(np.array(q_min)))
    m = int(np.ceil((float(width.u(np.array(q_max))) - start) / BIN))
    inside = q[(q >= q_min) & (q < q_max)]
    bins = ((width.u(inside) - start) / BIN).astype(np.int64)
    return start, np.bincount(bins, minlength=m)[:m].astype(np.float64)


def find_rings(
    q: Floats,
    width: RingWidth,
    q_min: float,
    q_max: float,
    significance: float,
    min_spots: float,
) -> Rings:
    """All rings of spots at q (n,) in Å⁻¹ between the limits that have min_spots or more and are
    significant."""
    start, counts = _counted(q, width, q_min, q_max)
    m = len(counts)
    u: Floats = np.empty(0)
    number: Floats = np.empty(0)
    background = _smooth(counts)
    for _ in range(SEARCHES):
        model = background + _profiles(u, number, m)[2]
        score = _filtered(counts, model, 1.0 / BIN)
        peaks = (score == maximum_filter1d(score, int(2 * APART / BIN) | 1)) & (
            score > significance
        )
        places = (np.flatnonzero(peaks) + 0.5) * BIN
        if len(u):
            places = places[np.abs(places[:, None] - u).min(axis=1) > APART]
        if len(places) == 0:
            break
        height = counts[np.minimum((places / BIN).astype(np.int64), m - 1)] + 1.0
        u, number = np.append(u, places), np.append(number, SQRT_2PI * height / BIN)
        u, number, background = _fitted(counts, u, number, background)
        kept = _significance(counts, u, number, background) > significance
        near = np.abs(u[:, None] - u) < TAILS
        kept &= number >= np.maximum(min_spots, SATELLITE * np.max(near * number, axis=1))
        u, number = u[kept], number[kept]
    u, number, background = _fitted(counts, u, number, background)
    order = np.argsort(u, kind="stable")
    u, number = u[order], number[order]
    cells, profile, rings = _profiles(u, number, m)
    model = background + rings
    weight = number[:, None] * profile * (counts / model)[cells]
    off = (cells + 0.5) * BIN - u[:, None]
    total = np.maximum(weight.sum(axis=1), 1e-12)
    mean = (weight * off).sum(axis=1) / total
    return Rings(
        u=u + start,
        number=number,
        covariance=_covariance(u, number, cells, profile, model),
        significance=_significance(counts, u, number, background),
        spread=(weight * off**2).sum(axis=1) / total - mean**2,
        start=start,
        counts=counts,
        model=model,
        background=background,
    )


def refined_width(rings: Rings, width: RingWidth) -> RingWidth:
    """The width that the spread of the first clear rings tells, if there are enough of them: at
    high q many lines lie in one ring."""
    apart = np.diff(rings.u, prepend=-np.inf, append=np.inf)
    clear = (rings.significance > STEADY) & (apart[1:] > REACH) & (apart[:-1] > REACH)
    clear &= np.cumsum(clear) <= FITTED
    if np.count_nonzero(clear) < 3:
        return width
    q = width.q(rings.u[clear])
    number = rings.number[clear]
    spread = rings.spread[clear] * number / np.maximum(number - FEW, 0.3 * number)
    variance = spread * width.sigma(q) ** 2
    weight = np.sqrt(number) / variance
    for _ in range(5):  # a low quantile, for blends are wider
        design = np.column_stack([np.ones_like(q), q**2])
        (a2, b2), _ = nnls(design * weight[:, None], variance * weight)
        fit = np.maximum(a2 + b2 * q**2, 1e-12)
        weight = np.sqrt(number) / fit
        weight = weight / np.sqrt(np.maximum(np.abs(variance - fit) / fit, 0.05))
        weight = weight * np.sqrt(np.where(variance > fit, QUANTILE, 1.0 - QUANTILE))
    ratio = np.sqrt(np.maximum(a2, 1e-4 * fit.max())) / width.a
    return RingWidth(width.a * float(np.clip(ratio, 0.3, 3.0)), float(np.sqrt(b2)))


def _filtered(counts: Floats, model: Floats | None, sigma_bins: float) -> Floats:
    """Significance (m,) of a ring in every bin above the model, or above a smooth background."""
    if model is None:
        model = _smooth(counts, BACKGROUND_WIDTH * sigma_bins)
    excess = gaussian_filter1d(counts - model, sigma_bins, mode="constant", truncate=REACH)
    # g² is a normal density of σ/√2 times 1/(2 √π σ)
    squared = gaussian_filter1d(model, sigma_bins / np.sqrt(2.0), mode="nearest", truncate=REACH)
    return np.asarray(excess / np.sqrt(squared / (2.0 * np.sqrt(np.pi) * sigma_bins)))


def _smooth(counts: Floats, sigma_bins: float = BACKGROUND_WIDTH / BIN) -> Floats:
    """Counts (m,) smoothed over about sigma_bins, nowhere quite 0: about each bin a straight line
    is fitted, so that a slope is not lost at the ends."""
    size = int(2.0 * sigma_bins) | 1
    x, zeroth, first, second = _moments(len(counts), size)
    mean, product = _blurred(counts, size), _blurred(x * counts, size)
    at_0, slope = second * mean - first * product, zeroth * product - first * mean
    smooth = (at_0 + x * slope) / (zeroth * second - first**2)
    return np.maximum(smooth, LEAST_BACKGROUND * max(float(counts.mean()), 1e-9))


@lru_cache(maxsize=4)
def _moments(m: int, size: int) -> tuple[Floats, Floats, Floats, Floats]:
    """x (m,) of bins, and the sums of 1, x and x² about each."""
    x = np.linspace(-1.0, 1.0, m)
    return x, _blurred(np.ones(m), size), _blurred(x, size), _blurred(x**2, size)


def _blurred(values: Floats, size: int) -> Floats:
    """Values (m,) under a nearly normal window: three boxes of that size."""
    for _ in range(3):
        values = uniform_filter1d(values, size, mode="constant")
    return values


def _profiles(u: Floats, number: Floats, m: int) -> tuple[Ints, Floats, Floats]:
    """Bins (k, w) about each ring, g there, and the sum N g over rings (m,). u : from bin 0 on."""
    half = int(np.ceil(REACH / BIN))
    cells = np.floor(u / BIN).astype(np.int64)[:, None] + np.arange(-half, half + 1)
    profile = BIN / SQRT_2PI * np.exp(-0.5 * ((cells + 0.5) * BIN - u[:, None]) ** 2)
    inside = (cells >= 0) & (cells < m)
    profile, cells = np.where(inside, profile, 0.0), np.clip(cells, 0, m - 1)
    total = np.bincount(cells.ravel(), (number[:, None] * profile).ravel(), m)
    return cells, profile, total.astype(np.float64)


def _fitted(
    counts: Floats, u: Floats, number: Floats, background: Floats
) -> tuple[Floats, Floats, Floats]:
    """u, N and β at the maximum of the likelihood."""
    m = len(counts)
    for _ in range(STEPS if len(u) else 0):
        cells, profile, rings = _profiles(u, number, m)
        ratio = counts / (background + rings)
        weight = number[:, None] * profile * ratio[cells]
        number = np.maximum(weight.sum(axis=1), 1e-9)
        moved = (weight * ((cells + 0.5) * BIN - u[:, None])).sum(axis=1) / number
        u = u + np.clip(moved, -0.5, 0.5)
        background = _smooth(background * ratio)
        if np.abs(moved).max() < TOLERANCE:
            break
    return u, number, background


def _significance(counts: Floats, u: Floats, number: Floats, background: Floats) -> Floats:
    """(2 Δ ln L)^½ (k,) of leaving each ring out."""
    cells, profile, rings = _profiles(u, number, len(counts))
    model = (background + rings)[cells]
    own = number[:, None] * profile
    gain = counts[cells] * np.log(model / np.maximum(model - own, 1e-12)) - own
    return np.asarray(np.sqrt(np.maximum(2.0 * gain.sum(axis=1), 0.0)))


def _covariance(u: Floats, number: Floats, cells: Ints, profile: Floats, model: Floats) -> Floats:
    """(2k, 2k) of places and numbers."""
    k = len(u)
    off = (cells + 0.5) * BIN - u[:, None]
    root = 1.0 / np.sqrt(model[cells])
    columns = np.concatenate([number[:, None] * profile * off * root, profile * root])
    ring = np.broadcast_to(np.arange(2 * k)[:, None], columns.shape)
    rows = np.concatenate([cells, cells])
    jacobian = csr_array((columns.ravel(), (rows.ravel(), ring.ravel())), shape=(len(model), 2 * k))
    information = (jacobian.T @ jacobian).toarray()
    return np.asarray(np.linalg.pinv(information, hermitian=True))
