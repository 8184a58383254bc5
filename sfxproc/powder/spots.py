"""From the spots of many stills to the lines of a powder pattern.

Each still has too few spots to be indexed alone; the spots of all of them together lie on rings.
The centre of the beam is refined, the width of the rings estimated, rings are found and fitted
(`spot_peaks`), and what cannot be told apart becomes one line:

    q² = q_k² + ρ/2
    σ²(q²) = (2 q)² (σ²(q_k) + s² + e σ_r²/2 + f² σ_r² (1 + (n σ_r/Δ)⁴)) + ρ²/4

s: r.m.s. distance of what was merged from its common centre; σ_r: σ(q) of a ring; e: excess of the
variance of a ring's spots over σ_r², beyond its own error, which two lines in one ring make; the
one that indexing looks for is then off by about half of it. f: the least error, in σ_r, for rings
are not quite normal; Δ: distance of the next line, which hides others between the two. The forms
of these terms and the values of f and n describe the errors of simulated lines.

Spots off the Bragg condition by an excitation error r lie at

    q′² = (q² − r²)/(1 + r/k),   k = 1/λ

so that rings are drawn out inwards, all by ⟨r²⟩ on average. r makes them wide as well, σ_r ≥ q λ
⟨r²⟩^½/2, and the last line tells how large ⟨r²⟩ can be at most: ρ = (2 σ_r/λq)². The median of the
spots of a line is told too, which neighbours and the tail inwards pull less than the fit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sfxproc.data import Floats, Ints, Table
from sfxproc.errors import DataError
from sfxproc.powder.settings import SpotPeakSettings
from sfxproc.powder.spot_centre import beam_centre
from sfxproc.powder.spot_peaks import BIN, Rings, RingWidth, find_rings, first_width, refined_width
from sfxproc.spots import Spots, q_of

MIN_LINES = 8  # that indexing takes
MIN_SPOTS = 200
WIDTH_PASSES = 5
CROWDED = 6.0  # n
CORE = 2.0  # σ: of a ring, of which the median is taken
TAIL = 0.98  # share of the spots that are within q_max, if it is not given


@dataclass(frozen=True, eq=False)
class SpotPeaks(Table):
    """Lines, ascending: q2, sigma, median_q2 (n,) in Å⁻²; intensity (n,), sum over the spots of a
    line, their number where intensities are not known; n_spots (n,) above the background;
    significance (n,); n_rings (n,) fitted ones that the line stands for."""

    q2: Floats
    sigma: Floats
    intensity: Floats
    n_spots: Floats
    significance: Floats
    median_q2: Floats
    n_rings: Ints


@dataclass(frozen=True, eq=False)
class SpotPowder:
    """What came of spots. edges : (m + 1,) of bins in q, Å⁻¹, each a fifth of a ring's σ wide.
    counts, model, background : (m,). centre_mm : (2,) that was found. width : of rings."""

    peaks: SpotPeaks
    edges: Floats
    counts: Floats
    model: Floats
    background: Floats
    centre_mm: Floats
    width: RingWidth


def peaks_of(spots: Spots, settings: SpotPeakSettings | None = None) -> SpotPeaks:
    """The lines of the powder pattern of spots. Raises DataError as `powder_of`."""
    return powder_of(spots, settings or SpotPeakSettings()).peaks


def powder_of(spots: Spots, settings: SpotPeakSettings) -> SpotPowder:
    """The powder pattern of spots and its lines.

    Raises DataError for too few spots or fewer than MIN_LINES lines.
    """
    q = q_of(spots)
    if len(q) < MIN_SPOTS:
        raise DataError(
            f"There are {len(q)} spots, too few for rings: at least {MIN_SPOTS} are needed, some "
            "10,000 are good. Give more stills, or find spots with a lower threshold."
        )
    q_max = settings.q_max or float(np.quantile(q, TAIL))
    if not q_max > settings.q_min:
        raise DataError(
            f"No spots lie beyond peaks.q_min = {settings.q_min:g} Å⁻¹ (most are below "
            f"{q_max:.3g} Å⁻¹). Check the geometry, or set q_min and q_max."
        )
    centre: Floats = np.zeros(2)
    if settings.centre_reach_mm > 0:
        centre = beam_centre(spots, q_max, settings.centre_reach_mm)
        q = q_of(spots, centre)
    rings, width = _rings(q, q_max, settings)
    peaks = _lines(rings, width, q, spots, settings)
    if len(peaks) < MIN_LINES:
        raise DataError(
            f"{len(q):,} spots show {len(peaks)} lines above {settings.significance:g} standard "
            f"deviations between q = {settings.q_min:g} and {q_max:.3g} Å⁻¹; indexing takes "
            f"{MIN_LINES} at least. Give more stills, lower peaks.significance, or check the "
            "geometry: rings that are not centred wash out, those of large cells overlap."
        )
    edges = width.q(rings.start + BIN * np.arange(len(rings.counts) + 1))
    return SpotPowder(peaks, edges, rings.counts, rings.model, rings.background, centre, width)


def _rings(q: Floats, q_max: float, settings: SpotPeakSettings) -> tuple[Rings, RingWidth]:
    """The rings and their width, which is estimated from them unless it is given."""
    limits = settings.q_min, q_max, settings.significance, settings.min_spots
    if settings.ring_sigma is not None:
        width = RingWidth(settings.ring_sigma, 0.0)
        return find_rings(q, width, *limits), width
    width = first_width(q, settings.q_min, q_max)
    for _ in range(WIDTH_PASSES):
        width = refined_width(find_rings(q, width, *limits), width)
    return find_rings(q, width, *limits), width


def _lines(
    rings: Rings, width: RingWidth, q: Floats, spots: Spots, settings: SpotPeakSettings
) -> SpotPeaks:
    """Rings nearer than min_separation to the one before become one line with it."""
    k = len(rings.u)
    line = np.cumsum(np.diff(rings.u, prepend=-np.inf) >= settings.min_separation) - 1
    n = int(line[-1]) + 1 if k else 0
    number = np.asarray(np.bincount(line, rings.number, n), dtype=np.float64)
    share = np.zeros((n, k))
    share[line, np.arange(k)] = rings.number / number[line]
    u = share @ rings.u
    off = rings.u - u[line]
    by_number = np.zeros((n, k))  # of the centre of a line by the numbers of its rings
    by_number[line, np.arange(k)] = off / number[line]
    jacobian = np.concatenate([share, by_number], axis=1)
    variance = np.einsum("ni,ij,nj->n", jacobian, rings.covariance, jacobian)
    excess = np.maximum(rings.spread - 1.0 - np.sqrt(2.0 / rings.number), 0.0)
    variance += (share * (off**2 + 0.5 * excess)).sum(axis=1)
    gap = np.diff(u, prepend=-np.inf, append=np.inf)
    crowding = (CROWDED / np.minimum(gap[1:], gap[:-1])) ** 4
    variance += settings.least_sigma**2 * (1.0 + crowding)
    place = width.q(u)
    scale = 2.0 * place * width.sigma(place)
    spot_u = np.sort(width.u(q))
    order = np.argsort(q, kind="stable")
    strength = spots.intensity[order].astype(np.float64)
    strength = np.where(np.isfinite(strength) & (strength > 0), strength, 0.0)
    known = bool(strength.any())
    medians, sums = np.empty(n), np.empty(n)
    for i in range(n):
        low, high = np.searchsorted(spot_u, [u[i] - CORE, u[i] + CORE])
        medians[i] = np.median(spot_u[low:high]) if high > low else u[i]
        mean = strength[low:high].mean() if high > low else 0.0
        sums[i] = number[i] * mean if known else number[i]
    keep = slice(0, settings.max_lines)
    last = place[keep][-1:]
    inwards = 0.5 * (2.0 * width.sigma(last) / (float(np.median(spots.wavelength_A)) * last)) ** 2
    return SpotPeaks(
        q2=(place**2)[keep] + inwards,
        sigma=np.hypot((scale * np.sqrt(variance))[keep], inwards),
        intensity=sums[keep],
        n_spots=number[keep],
        significance=np.array([rings.significance[line == i].max() for i in range(n)])[keep],
        median_q2=(width.q(medians) ** 2)[keep] + inwards,
        n_rings=np.bincount(line, minlength=n)[keep],
    )
