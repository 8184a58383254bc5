"""Two merged sets side by side: relative scale and B, correlation and R by shell.

Relative scale. With s = sinθ/λ and g = k exp(−2 B s²), I_a ≈ g I_b. Both sets carry noise, so
least squares on I_a − g I_b would give too small a k (the noise of I_b, squared, enters the
normal equations). ln k and B are instead the root of two moment equations,

    Σ w M(s) e (1, s²) = 0,    e = I_a/√g − √g I_b,
    w = ψ(e/√v)/v,  ψ(x) = min(1, c/|x|),    v = σ_a²/g + g σ_b² + τ²(s),

where M(s) and τ(s), the median intensity and the robust scatter of e, depend on resolution only:
the instruments (1, s²) M are free of the noise of single reflections (instrumental variables,
Wooldridge 2010, Econometric Analysis, ch. 5), and w is Huber's weight. Negative intensities take
part as they are. Exchanging the sets exchanges k with 1/k and B with −B exactly. The start is a
straight line through ln(median I_a / median I_b) of resolution shells; the errors are the
sandwich J⁻¹ (Σ z zᵀ w² e²) J⁻ᵀ. Where sets agree so little that Σ|I_a − g I_b| > Σ|I_a|, so that
none of b would be nearer to a than b on that scale, `compare_sets` takes B = 0 and the k that
minimises Σ|I_a − k I_b| (a weighted median).

    CC = Pearson correlation of I_a and I_b
    R  = Σ |I_a − g I_b| / Σ I_a
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Floats, Ints, Mask, Reflections, packed_hkl
from sfxproc.merging.shells import assign, d_of, shell_edges

HUBER = 3.0
MAX_ITERATIONS = 50
TOLERANCE = 1e-10
MIN_FOR_B = 20
"""Fewer common reflections than this give a scale but no B."""


@dataclass(frozen=True)
class RelativeScale:
    """I_a ≈ k exp(−2 B s²) I_b, from n common reflections, with standard uncertainties (NaN where
    the sets determine no more than a k)."""

    k: float
    B_A2: float
    sigma_ln_k: float
    sigma_B_A2: float
    n: int


@dataclass(frozen=True)
class Agreement:
    """Agreement of two sets between two resolutions; None where it cannot be computed."""

    d_max_A: float
    d_min_A: float
    n_common: int
    cc: float | None
    r: float | None


@dataclass(frozen=True)
class Comparison:
    """Agreement of two sets, overall and by shell (low resolution first)."""

    scale: RelativeScale | None
    overall: Agreement
    shells: tuple[Agreement, ...]


def pearson(x: Floats, y: Floats) -> float | None:
    """Pearson correlation; None with fewer than 3 pairs or where one side is constant."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    # Scaled to 1 first: squares of very large or small intensities must not overflow.
    dx, dy = (np.asarray(v, dtype=np.float64) - np.mean(v, dtype=np.float64) for v in (x, y))
    dx, dy = dx / np.abs(dx).max(), dy / np.abs(dy).max()
    return float(np.clip(np.sum(dx * dy) / np.sqrt(np.sum(dx * dx) * np.sum(dy * dy)), -1, 1))


def cc_star(cc_half: float | None) -> float | None:
    """CC* = √(2 CC½/(1 + CC½)); None where CC½ is negative or unknown."""
    if cc_half is None or cc_half < 0:
        return None
    return float(np.sqrt(2 * cc_half / (1 + cc_half)))


def r_factor(intensity: Floats, other: Floats) -> float | None:
    """Σ |I − I_other| / Σ I; None where the sum is not positive."""
    total = float(np.sum(intensity))
    return float(np.sum(np.abs(intensity - other))) / total if total > 0 else None


def falloff(scale: RelativeScale, s2: Floats) -> NDArray[np.float64]:
    """g = k exp(−2 B s²) at each s² (Å⁻²)."""
    return np.asarray(scale.k * np.exp(-2 * scale.B_A2 * s2), dtype=np.float64)


def match(a: Reflections, b: Reflections) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows (ia, ib) of the reflections that both sets have, hkl and Friedel sign alike.

    Each reflection is expected once in a set; of repeated ones the first counts.
    """
    keys = [packed_hkl(r.hkl) * 4 + (np.asarray(r.friedel, dtype=np.int64) + 1) for r in (a, b)]
    _, ia, ib = np.intersect1d(keys[0], keys[1], return_indices=True)
    return ia, ib


def fit_scale(
    intensity_a: Floats,
    sigma_a: Floats | None,
    intensity_b: Floats,
    sigma_b: Floats | None,
    s2: Floats,
) -> RelativeScale | None:
    """The k and B that bring set b onto set a, see the head of this module.

    All (n,), row by row the same reflection; intensities may be negative; rows where an
    intensity or sigma is not finite are left out; sigma None counts as 0. B is 0 with fewer than
    20 reflections or only one resolution. Returns None with fewer than 3 reflections or where a
    total is not positive: then there is no scale.
    """
    columns = [np.zeros_like(s2) if c is None else c for c in (sigma_a, sigma_b)]
    columns = [np.asarray(c, dtype=np.float64) for c in (intensity_a, intensity_b, *columns, s2)]
    good = np.all(np.isfinite(columns), axis=0)
    a, b, sa, sb, x = (c[good] for c in columns)
    n = len(a)
    if n < 3 or a.sum() <= 0 or b.sum() <= 0:
        return None
    shell = _equal_counts(x, max(1, min(20, n // 25)))
    with_B = n >= MIN_FOR_B and float(np.ptp(x)) > 1e-6 * float(x.max())
    z = np.stack([np.ones(n), -2 * x])[: 2 if with_B else 1]
    # No step may change the falloff over the range of the data by more than this factor e².
    bound = np.array([2.0, 1.0 / max(float(np.ptp(x)), 1e-9)])[: len(z)]
    p = _start(a, b, x, shell, with_B)
    for _ in range(MAX_ITERATIONS):
        f, jacobian, spread = _moments(p, a, b, sa, sb, z, shell)
        if not np.all(np.linalg.eigvalsh(jacobian) < 0):
            return None
        step = np.clip(-np.linalg.solve(jacobian, f), -bound, bound)
        p = p + step
        if np.all(np.abs(step) < TOLERANCE * (1 + np.abs(p))):
            break
    inverse = np.linalg.inv(jacobian)
    sigma = np.sqrt(np.maximum(np.diag(inverse @ spread @ inverse.T), 0.0))
    B, sigma_B = (float(p[1]), float(sigma[1])) if with_B else (0.0, 0.0)
    return RelativeScale(float(np.exp(p[0])), B, float(sigma[0]), sigma_B, n)


def _least_absolute(a: Floats, b: Floats) -> RelativeScale | None:
    """The k > 0 that minimises Σ|a − k b|, None if that is 0."""
    known = b != 0
    ratio, weight = a[known] / b[known], np.abs(b[known])
    order = np.argsort(ratio, kind="stable")
    total = np.cumsum(weight[order])
    k = float(ratio[order][np.searchsorted(total, 0.5 * total[-1])])
    return RelativeScale(k, 0.0, np.nan, np.nan, len(a)) if k > 0.0 else None


def compare_sets(
    a: Reflections, b: Reflections, n_shells: int = 10, edges: Floats | None = None
) -> Comparison:
    """Agreement of two merged sets on their common reflections, set b brought onto set a.

    Shells have equal volume over the range of the common reflections, or the given edges in s²
    (Å⁻²), outside which nothing counts. Raises ValueError where a set has no intensities.
    """
    if a.intensity is None or b.intensity is None:
        raise ValueError("compare_sets needs merged intensities in both sets")
    ia, ib = match(a, b)
    keep = np.isfinite(a.intensity[ia]) & np.isfinite(b.intensity[ib])
    if edges is not None:
        keep &= assign(a.s2[ia], edges) >= 0
    ia, ib = ia[keep], ib[keep]
    s2, x, y = a.s2[ia], a.intensity[ia], b.intensity[ib]
    sigma_a, sigma_b = (None if r.sigma is None else r.sigma[i] for r, i in ((a, ia), (b, ib)))
    if edges is None:
        edges = shell_edges(s2 if len(s2) else a.s2, n_shells)
    scale = fit_scale(x, sigma_a, y, sigma_b, s2)
    if scale is not None:
        with np.errstate(over="ignore"):
            off = np.abs(x - falloff(scale, s2) * y).sum()
        if not off <= np.abs(x).sum():
            scale = _least_absolute(x, y)
    fitted = None if scale is None else falloff(scale, s2) * y
    shell = assign(s2, edges)

    def agreement(rows: Mask, low: float, high: float) -> Agreement:
        r = None if fitted is None else r_factor(x[rows], fitted[rows])
        return Agreement(d_of(low), d_of(high), int(rows.sum()), pearson(x[rows], y[rows]), r)

    return Comparison(
        scale,
        agreement(shell >= 0, float(edges[0]), float(edges[-1])),
        tuple(
            agreement(shell == k, float(edges[k]), float(edges[k + 1]))
            for k in range(len(edges) - 1)
        ),
    )


def _equal_counts(values: Floats, n_shells: int) -> NDArray[np.intp]:
    """Shell of each value, ascending, as equally filled as can be; ties keep their order."""
    # Rounded, since equal resolutions may differ in their last bits.
    order = np.argsort(np.round(values, 10), kind="stable")
    shell = np.empty(len(values), dtype=np.intp)
    for k, rows in enumerate(np.array_split(order, n_shells)):
        shell[rows] = k
    return shell


def _shell_medians(values: Floats, shell: Ints) -> NDArray[np.float64]:
    """Median of each shell; no shell may be empty."""
    return np.array([np.median(values[shell == k]) for k in range(int(shell.max()) + 1)])


def _start(a: Floats, b: Floats, x: Floats, shell: Ints, with_B: bool) -> NDArray[np.float64]:
    """ln k and B of a straight line through the log ratios of shell medians."""
    ma, mb, mx = (_shell_medians(v, shell) for v in (a, b, x))
    usable = (ma > 0) & (mb > 0)
    if not usable.any():
        return np.array([np.log(a.sum() / b.sum()), 0.0])[: 1 + with_B]
    ratio = np.log(ma[usable] / mb[usable])
    if with_B and usable.sum() > 1 and np.ptp(mx[usable]) > 0:
        slope, intercept = np.polyfit(mx[usable], ratio, 1)
        return np.array([intercept, -slope / 2])
    return np.array([ratio.mean(), 0.0])[: 1 + with_B]


def _moments(
    p: Floats, a: Floats, b: Floats, sa: Floats, sb: Floats, z: Floats, shell: Ints
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The moment equations, their derivative at fixed weights and their spread at p."""
    root = np.exp(0.5 * np.clip(p @ z, -100, 100))
    e = a / root - root * b
    m = 0.5 * (a / root + root * b)
    tau = 1.4826 * _shell_medians(np.abs(e), shell)
    level = np.maximum(_shell_medians(m, shell), 0.0)
    # Floors: a shell of noise still counts a little, and exact agreement has no scatter.
    size = max(float(np.mean(np.abs(m))), float(np.finfo(float).tiny) ** 0.25)
    level, tau = np.maximum(level, 1e-3 * size)[shell], np.maximum(tau, 1e-3 * size)[shell]
    v = (sa / root) ** 2 + (sb * root) ** 2 + tau**2
    w = level / v * np.minimum(1.0, HUBER * np.sqrt(v) / np.maximum(np.abs(e), 1e-300))
    f = z @ (w * e)
    jacobian = -(z * (w * m)) @ z.T  # de/dp = −m z
    spread = (z * (w * e) ** 2) @ z.T
    return f, jacobian, spread
