"""Setting up the scaling model: variances split, overlaps counted, start values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Observations, Reason, Reflections
from sfxproc.kernels import scale as kernels
from sfxproc.lsq import Engine, Layout, Point
from sfxproc.lsq.components import components
from sfxproc.lsq.problem import Array
from sfxproc.models.scale import LN_G, B, ErrorModel, ScaleModel

F8 = NDArray[np.float64]

SHELLS = 20  # of equal numbers of reflections, for the mean intensity at start
BACKGROUND_FLOOR = 0.002  # of σ²: what is left when the counting part seems to be all of it
MOST_REFITS = 12
STRONG = 5.0  # I/σ of observations that tell the gain


@dataclass(frozen=True)
class ScaleSettings:
    """Choices of the scaling model; see jobs/scale.toml for what each means."""

    b_factor: bool
    b_prior_A2: float | None
    gain: float | None
    variances: Literal["given", "counting", "scatter"]
    min_overlaps: int
    outliers: bool = False


@dataclass(frozen=True, eq=False)
class ScaleProblem:
    """A model ready to solve, its start point, and what was decided about each own crystal.

    reasons : (n_crystals,) uint8 of `Reason`; n_overlaps : (n_crystals,) int64. set_sizes :
    crystals of the whole job in each set that hangs together by common reflections, the largest
    first; sets have no scale in common.
    """

    model: ScaleModel
    start: Point
    reasons: NDArray[np.uint8]
    n_overlaps: NDArray[np.int64]
    set_sizes: NDArray[np.int64]


def scale_problem(
    engine: Engine,
    observations: Observations,
    chunk: NDArray[np.int64],
    reflections: Reflections,
    settings: ScaleSettings,
) -> ScaleProblem:
    """Set up the scaling of this process's crystals.

    observations must be grouped by crystal and, within a crystal, sorted by reflection. chunk :
    (n_chunks + 1,) the crystals at which chunks begin, the last one their number. A crystal
    without positive signal, or with fewer than min_overlaps reflections in common with others,
    keeps its start values.
    """
    assert observations.reflection is not None
    n_crystals = int(chunk[-1])
    start = np.searchsorted(observations.crystal, np.arange(n_crystals + 1)).astype(np.int64)
    shared = np.ascontiguousarray(observations.reflection, dtype=np.int32)
    no_priors = np.zeros((n_crystals, 2))
    parts = components(engine, start, shared, len(reflections))
    layout = Layout(
        start, shared, len(reflections), chunk, ("ln_G", "B_A2"), (LN_G, B),
        np.ones((n_crystals, 2), dtype=bool), no_priors, no_priors, parts.local, len(parts.sizes),
    )  # fmt: skip
    observed = np.ascontiguousarray(observations.intensity, dtype=np.float32)
    variance = np.ascontiguousarray(observations.variance, dtype=np.float32)
    partiality = np.empty(0, dtype=np.float32)
    if observations.partiality is not None:
        partiality = np.ascontiguousarray(observations.partiality, dtype=np.float32)
    if settings.variances == "given":
        gain, background = 0.0, variance
    else:
        gain = settings.gain or gain_of(engine, layout, observed, variance)
        background = np.maximum(
            variance - np.float32(gain) * np.maximum(observed, 0),
            np.float32(BACKGROUND_FLOOR) * variance,
        )
    model = ScaleModel(
        layout, engine, observed, background, partiality,
        np.asarray(reflections.s2, dtype=np.float64), parts.shared, np.ones(len(reflections)), 0.0,
        ErrorModel(
            gain,
            refits=MOST_REFITS if settings.variances == "scatter" else 0,
            outliers=settings.outliers,
        ),
    )  # fmt: skip
    local = start_scales(model)
    sums = reflection_sums(model, local)
    model = replace(model, share=1.0 - 1.0 / np.maximum(sums[2], 1.0))
    n_overlaps = np.empty(n_crystals, dtype=np.int64)

    def count(c: int) -> None:
        kernels.overlaps(start, shared, chunk[c], chunk[c + 1], sums[2], n_overlaps)

    engine.map(count, len(chunk) - 1)
    reasons = np.full(n_crystals, Reason.NONE, dtype=np.uint8)
    reasons[n_overlaps < settings.min_overlaps] = Reason.TOO_FEW_OVERLAPS
    reasons[np.isnan(local[:, LN_G])] = Reason.NO_SIGNAL
    refined = reasons == Reason.NONE
    free = np.stack([refined, refined & settings.b_factor], axis=1)
    weight = np.zeros((n_crystals, 2))
    if settings.b_prior_A2 is not None:
        weight[:, B] = free[:, B] / settings.b_prior_A2**2
    local = np.nan_to_num(local)
    intensity = np.divide(sums[0], sums[1], out=np.zeros_like(sums[0]), where=sums[1] > 0)
    if settings.outliers:
        intensity = geometric_means(model, local)
    model = finish(model, free, weight)
    return ScaleProblem(model, Point(local, intensity), reasons, n_overlaps, parts.sizes)


def finish(model: ScaleModel, free: NDArray[np.bool_], prior_weight: F8) -> ScaleModel:
    """The model with its free parameters and priors, and the degrees of freedom they leave."""
    layout = replace(model.layout, free=free, prior_weight=prior_weight)
    engine = model.engine
    ones = free.astype(np.float64)
    n_free = engine.dots(layout, ones, ones).sum() - engine.gauge_count(layout)
    rows = np.diff(layout.start[layout.chunk]).astype(np.float64)[:, None]
    n_rows = engine.sums.scalars(rows)[0]
    dof = max(float(n_rows - n_free - layout.n_shared), 1.0)
    return replace(model, layout=layout, dof=dof)


def gain_of(engine: Engine, layout: Layout, observed: Any, variance: Any) -> float:
    """Counts' variance per unit of intensity: the slope of σ² against I.

    Fitted over strong observations, where σ² = gain·I + background, with equal relative errors.
    1 if they are too few or tell nothing. A wrong gain does not bias the variances, which are
    right in the mean for any.
    """

    def chunk(c: int) -> F8:
        out = np.zeros(6)
        rows = slice(*layout.start[layout.chunk[c : c + 2]])
        kernels.gain_sums(observed[rows], variance[rows], STRONG, out)
        return out

    sums = np.array(engine.map(chunk, len(layout.chunk) - 1)).reshape(-1, 6)
    n, w, wx, wxx, wv, wxv = engine.sums.scalars(sums)
    spread = wxx * w - wx * wx
    if n < 100 or spread <= 1e-9 * wxx * w:
        return 1.0
    slope = float((wxv * w - wx * wv) / spread)
    return slope if slope > 0.0 else 1.0


def start_scales(model: ScaleModel) -> F8:
    """(n_crystals, 2) ln G from each crystal's mean against the mean of its resolution shells;
    B = 0. NaN where the summed intensity is not positive. Centred on mean ln G = 0."""
    engine, layout = model.engine, model.layout
    local = np.zeros((layout.n_local, 2))
    sums = reflection_sums(model, local)
    order = np.argsort(model.s2, kind="stable")
    expected = np.empty(layout.n_shared)
    for shell in np.array_split(order, min(SHELLS, max(layout.n_shared // 10, 1))):
        expected[shell] = sums[0][shell].sum() / max(sums[1][shell].sum(), 1e-300)
    expected = np.maximum(expected, 1e-6 * np.abs(expected).max(initial=0.0))
    ratio = np.empty(layout.n_local)

    def chunk(c: int) -> None:
        kernels.crystal_ratios(
            layout.start, layout.shared, layout.chunk[c], layout.chunk[c + 1], model.observed,
            model.partiality, expected, ratio,
        )  # fmt: skip

    engine.map(chunk, len(layout.chunk) - 1)
    known = np.isfinite(ratio)
    ln_g = np.log(np.where(known, ratio, 1.0))
    both = np.stack([ln_g * known, known * 1.0], axis=1)
    total, count = engine.dots(layout, both, np.ones_like(both))
    local[:, LN_G] = np.where(known, ln_g - total / max(count, 1.0), np.nan)
    return local


def geometric_means(model: ScaleModel, local: F8) -> F8:
    """(n_shared,) start values of I that outliers cannot pull far: geometric means of I_obs/f,
    observations below their background's sigma raised to it."""
    layout = model.layout

    def fill(c: int, out: Array) -> None:
        kernels.log_sums(
            layout.start, layout.shared, layout.chunk[c], layout.chunk[c + 1], local, model.s2,
            model.partiality, model.observed, model.background, out,
        )  # fmt: skip

    total, count = model.engine.shared_sums(layout, 2, fill)
    return np.where(count > 0, np.exp(total / np.maximum(count, 1.0)), 0.0)


def reflection_sums(model: ScaleModel, local: F8) -> F8:
    """(3, n_shared) of the whole job: Σ I_obs, Σ f, number of crystals; see the kernel."""
    layout = model.layout

    def fill(c: int, out: Array) -> None:
        kernels.reflection_sums(
            layout.start, layout.shared, layout.chunk[c], layout.chunk[c + 1], local, model.s2,
            model.partiality, model.observed, out,
        )  # fmt: skip

    return model.engine.shared_sums(layout, 3, fill)
