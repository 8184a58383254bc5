"""How well each crystal agrees with all the others, and which are left out for it.

Weak is not wrong. Either a crystal measures the intensities that the others measure (signal 1), or
it measures others (signal 0: wrong indexing, another lattice); σ of its signal says whether its
observations can tell. Noise, or a scatter of its own, widens σ but does not lower the signal. Both
come from the crystal's contrasts to the mean intensity at their resolution, clipped, at a scale of
its own (kernels.agreement has the equations): what outliers or a robust loss did to its scale and
weights hardly matters. A crystal is left out where signal 1 can be excluded, at a level so high
that about none of all good crystals of a job is lost by chance, and

- UNRELATED: signal 0 is the likelier, its signal being below ½;
- HARMFUL: CC½ is higher without it, which its reflections, one by one, agree on to the same level.

Where many crystals are wrong, the merge they are compared with is too, and some escape: what is
left should be refined and judged again until nothing more is left out.

CC½ is worked out without each crystal in turn (Assmann, Brehm & Diederichs, J. Appl. Cryst. 49
(2016) 1021), with robust weights, and averaged over shells, each weighted with the number of its
reflections observed often enough, lest strong ones at low angle be all that counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from sfxproc.data import Reason
from sfxproc.kernels import agreement as kernels
from sfxproc.lsq import Loss, Point
from sfxproc.lsq.engine import LOSSES
from sfxproc.lsq.problem import Array
from sfxproc.models.scale import ScaleModel

F8 = NDArray[np.float64]

SHELLS = 20
REFLECTIONS_PER_SHELL = 50  # at least
MEAN_STEPS = 10  # of the mean and spread of a shell's intensities


@dataclass(frozen=True, eq=False)
class Agreement:
    """How each own crystal (n,) agrees with the others of the job.

    n : observations that count: of reflections that others show, and of enough of each. chi2 : χ²
    per degree of freedom under its robust weights. n_outliers : observations more than 5 σ from
    the model. cc : correlation with the mean of the others, shell means removed, in units of the
    spread that their noise and the distribution of intensities explain; cc_expected : what it
    should be. signal, signal_sigma : how much of the expected signal it shows. delta_cc_half,
    delta_sigma : CC½ with it minus without it. NaN where undefined. n_crystals : of the whole job.
    """

    n: F8
    chi2: F8
    n_outliers: F8
    cc: F8
    cc_expected: F8
    signal: F8
    signal_sigma: F8
    delta_cc_half: F8
    delta_sigma: F8
    n_crystals: int


@dataclass(frozen=True)
class Criteria:
    """When a crystal is left out.

    false_alarms : good crystals of a whole job that may be lost by chance. unrelated_signal : the
    part of the expected signal below which a crystal counts as unrelated. min_cc : cc below which
    crystals are left out whatever the reason; None for none. fewest_crystals : of fewer, none is
    left out for the others.
    """

    false_alarms: float = 0.01
    unrelated_signal: float = 0.5
    min_cc: float | None = None
    fewest_crystals: int = 10

    def threshold(self, n_crystals: int) -> float:
        """Standard deviations that the worst of so many good crystals hardly reaches."""
        return float(-ndtri(min(self.false_alarms / max(n_crystals, 1), 0.5)))


def moments(model: ScaleModel, point: Point, loss: Loss, half: NDArray[np.int8]) -> F8:
    """(4, n_shared) what `agreement_of` needs of the merge; sums of several blocks can be added."""
    layout = model.layout

    def add(c: int, out: Array) -> None:
        chunk = model.arguments(point, layout.chunk[c], layout.chunk[c + 1])
        kernels.moments(chunk, half, LOSSES[loss.kind], loss.scale, out)

    return model.engine.shared_sums(layout, 4, add)


def agreement_of(
    model: ScaleModel, point: Point, loss: Loss, half: NDArray[np.int8], sums: F8 | None = None
) -> Agreement:
    """The agreement of each own crystal with the merge of the others, at a solved point.

    half : (n_crystals,) as for merging; a crystal with −1 is compared with the merge, but is not
    in it. sums : `moments` of the job that the crystals are a block of; without, they are the whole
    job.
    """
    layout, engine = model.layout, model.engine
    robust = LOSSES[loss.kind], loss.scale
    sums = moments(model, point, loss, half) if sums is None else sums
    shells = _shells(model.s2, point.shared, sums)
    columns = np.empty((layout.n_local, len(kernels.COLUMNS)))

    def look(c: int) -> None:
        kernels.agreement(
            model.arguments(point, layout.chunk[c], layout.chunk[c + 1]),
            half,
            *robust,
            model.share,
            sums,
            shells,
            columns,
        )

    n_chunks = len(layout.chunk) - 1
    engine.map(look, n_chunks)
    ones = np.ones((layout.n_local, 1))
    n_crystals = int(engine.dots(layout, ones, ones)[0])
    found = dict(zip(kernels.COLUMNS, np.ascontiguousarray(columns.T), strict=True))
    dof = found.pop("expected_chi2") - layout.free.sum(axis=1)
    chi2 = found["chi2"]
    found["chi2"] = np.divide(chi2, dof, out=np.full(len(dof), np.nan), where=dof > 0.0)
    return Agreement(**found, n_crystals=n_crystals)


def judged(agreement: Agreement, criteria: Criteria) -> NDArray[np.uint8]:
    """(n,) the `Reason` for which each own crystal is to be left out, NONE for most."""
    a = agreement
    out = np.full(len(a.n), Reason.NONE, dtype=np.uint8)
    limit = criteria.threshold(a.n_crystals)
    with np.errstate(invalid="ignore"):  # comparisons with NaN are false: it stays
        if criteria.min_cc is not None:
            out[a.cc < criteria.min_cc] = Reason.CC_TOO_LOW
        if a.n_crystals < criteria.fewest_crystals:
            return out
        short = 1.0 - a.signal > limit * a.signal_sigma
        out[short & (a.delta_cc_half < -limit * a.delta_sigma)] = Reason.HARMFUL
        out[short & (a.signal < criteria.unrelated_signal)] = Reason.UNRELATED
    return out


def _shells(s2: F8, intensity: F8, sums: F8) -> kernels.Shells:
    """Shells of equal numbers of reflections, from the sums of all crystals."""
    W, E, Q, n = sums
    seen = (W > 0.0) & (n > 0.5)
    number = min(SHELLS, max(int(seen.sum()) // REFLECTIONS_PER_SHELL, 1))
    edges = np.quantile(s2[seen], np.arange(1, number) / number) if seen.any() else np.empty(0)
    of_reflection = np.searchsorted(edges, s2, side="right")
    mean, variance, centre = np.zeros((3, number))
    totals, slopes = np.zeros((number, 3)), np.zeros((number, 2))
    y, v = intensity.copy(), np.zeros(len(W))
    y[seen] += E[seen] / W[seen]
    several = seen & (n >= kernels.FEWEST)
    excess = np.maximum(Q[several] - E[several] ** 2 / W[several], 0.0)
    v[several] = 2.0 * excess / ((n[several] - 1.0) * W[several])
    n_several = int(several.sum())
    for t in range(number):
        inside = of_reflection == t
        mean[t], variance[t] = _moments(y[inside & seen], 1.0 / W[inside & seen])
        rows = inside & several
        N = int(rows.sum())
        if N < 2:
            continue
        centre[t] = y[rows].mean()
        totals[t] = N, np.sum((y[rows] - centre[t]) ** 2), v[rows].sum()
        a, e = totals[t, 1] / (N - 1), totals[t, 2] / N
        if a + e > 0.0:  # of CC½ = (a − e/2)/(a + e/2)
            slopes[t] = np.array([e / (N - 1), -a / N]) * N / n_several / (a + 0.5 * e) ** 2
    return kernels.Shells(of_reflection, mean, variance, centre, totals, slopes)


def _moments(y: F8, error: F8) -> tuple[float, float]:
    """Mean and variance of true intensities that were measured as y with variances `error`; the
    mean is never negative."""
    if not len(y):
        return 0.0, 0.0
    variance = float(np.median(error))
    for _ in range(MEAN_STEPS):
        weight = 1.0 / (variance + error)
        mean = float(np.sum(weight * y) / np.sum(weight))
        excess = float(np.sum(weight**2 * ((y - mean) ** 2 - error)) / np.sum(weight**2))
        variance = max(excess, 0.01 * mean**2)
    return max(mean, 0.0), variance
