"""Setting up the scaling model: variances split, overlaps counted, start values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Observations, Reason, Reflections, Rows
from sfxproc.kernels import scale as kernels
from sfxproc.lsq import Engine, Layout, Point
from sfxproc.lsq.components import components
from sfxproc.lsq.problem import Array
from sfxproc.models.error_model import ErrorModel, degrees_of_freedom, refits_of
from sfxproc.models.parameters import SCALES
from sfxproc.models.scale import LN_G, B, ScaleModel

F8 = NDArray[np.float64]

SHELLS = 20  # of equal numbers of reflections, for the mean intensity at start
BACKGROUND_FLOOR = 0.002  # of σ²: what is left when the counting part seems to be all of it
STRONG = 5.0  # I/σ of observations that tell the gain


@dataclass(frozen=True)
class ScaleSettings:
    """Choices of the scaling model; see jobs/scale.toml for what each means."""

    b_factor: bool
    b_prior_A2: float | None
    gain: float | None
    variances: Literal["given", "counting", "scatter", "likelihood"]
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


@dataclass(frozen=True, eq=False)
class Facts:
    """What the whole job tells about each crystal before anything is refined.

    gain : see ErrorModel. expected : (n_shared,) mean intensity of the resolution shell of each
    reflection. seen : (n_shared,) crystals that show it.
    """

    gain: float
    expected: F8
    seen: F8


def scale_problem(
    engine: Engine,
    observations: Observations | Rows,
    chunk: NDArray[np.int64],
    reflections: Reflections,
    settings: ScaleSettings,
    facts: Facts | None = None,
) -> ScaleProblem:
    """Set up the scaling of this process's crystals.

    observations must be grouped by crystal and, within a crystal, sorted by reflection. chunk :
    (n_chunks + 1,) the crystals at which chunks begin, the last one their number. A crystal
    without positive signal, or with fewer than min_overlaps reflections in common with others,
    keeps its start values. facts : those of the job that the crystals are a block of; without,
    they are the whole job.
    """
    model = bare_model(engine, observations, chunk, reflections)
    parts = components(engine, model.layout.start, model.layout.shared, len(reflections))
    layout = replace(model.layout, component=parts.local, n_components=len(parts.sizes))
    model = replace(model, layout=layout, set_of_reflection=parts.shared)
    gain_sums, sums = survey(model)
    whole = facts is None
    if facts is None:
        facts = facts_of(gain_sums, sums, model.s2, settings)
    model, local, n_overlaps = prepared(model, facts, settings)
    model = replace(model, share=1.0 - 1.0 / np.maximum(sums[2], 1.0))
    reasons = start_reasons(local, n_overlaps, settings)
    if whole:
        local = centred_start(model, local)
    local = np.nan_to_num(local)
    if settings.outliers:
        intensity = geometric_means(model, local)
    else:
        total, factors, _ = reflection_sums(model, local)
        intensity = np.divide(total, factors, out=np.zeros_like(total), where=factors > 0)
    model = finish(model, reasons == Reason.NONE, settings)
    return ScaleProblem(model, Point(local, intensity), reasons, n_overlaps, parts.sizes)


def start_reasons(
    local: F8, n_overlaps: NDArray[np.int64], settings: ScaleSettings
) -> NDArray[np.uint8]:
    """(n_crystals,) of `Reason`: why each keeps its start values, if it does. local, n_overlaps :
    of `prepared`."""
    reasons = np.full(len(local), Reason.NONE, dtype=np.uint8)
    reasons[n_overlaps < settings.min_overlaps] = Reason.TOO_FEW_OVERLAPS
    reasons[np.isnan(local[:, LN_G])] = Reason.NO_SIGNAL
    return reasons


def bare_model(
    engine: Engine,
    observations: Observations | Rows,
    chunk: NDArray[np.int64],
    reflections: Reflections,
) -> ScaleModel:
    """The model before anything is known: variances as given, all crystals in one set."""
    assert observations.reflection is not None
    n_crystals = int(chunk[-1])
    start = np.searchsorted(observations.crystal, np.arange(n_crystals + 1)).astype(np.int64)
    shared = np.ascontiguousarray(observations.reflection, dtype=np.int32)
    no_priors = np.zeros((n_crystals, 2))
    layout = Layout(
        start,
        shared,
        len(reflections),
        chunk,
        SCALES,
        (LN_G, B),
        np.ones((n_crystals, 2), dtype=bool),
        no_priors,
        no_priors,
        np.zeros(n_crystals, dtype=np.int32),
    )
    partiality = np.empty(0, dtype=np.float32)
    if observations.partiality is not None:
        partiality = np.ascontiguousarray(observations.partiality, dtype=np.float32)
    return ScaleModel(
        layout,
        engine,
        np.ascontiguousarray(observations.intensity, dtype=np.float32),
        np.ascontiguousarray(observations.variance, dtype=np.float32),
        partiality,
        np.asarray(reflections.s2, dtype=np.float64),
        np.zeros(len(reflections), np.int32),
        np.ones(len(reflections)),
        0.0,
        ErrorModel(0.0),
    )


def survey(model: ScaleModel) -> tuple[F8, F8]:
    """Sums over all of a bare model's observations that `facts_of` needs: (6,) for the gain and
    (3, n_shared) of the reflections. Those of several blocks of crystals can be added."""
    layout = model.layout

    def chunk(c: int) -> F8:
        out = np.zeros(6)
        rows = slice(*layout.start[layout.chunk[c : c + 2]])
        kernels.gain_sums(model.observed[rows], model.background[rows], STRONG, out)
        return out

    per_chunk = np.array(model.engine.map(chunk, len(layout.chunk) - 1)).reshape(-1, 6)
    gain_sums = model.engine.sums.scalars(per_chunk)
    return gain_sums, reflection_sums(model, np.zeros((layout.n_local, 2)))


def facts_of(gain_sums: F8, sums: F8, s2: F8, settings: ScaleSettings) -> Facts:
    """Facts from the sums over the whole job that `survey` makes."""
    gain = 0.0
    if settings.variances != "given":
        gain = settings.gain or gain_of(gain_sums)
    expected = np.empty(len(s2))
    order = np.argsort(s2, kind="stable")
    for shell in np.array_split(order, min(SHELLS, max(len(s2) // 10, 1))):
        expected[shell] = sums[0][shell].sum() / max(sums[1][shell].sum(), 1e-300)
    expected = np.maximum(expected, 1e-6 * np.abs(expected).max(initial=0.0))
    return Facts(gain, expected, sums[2])


def prepared(
    model: ScaleModel, facts: Facts, settings: ScaleSettings
) -> tuple[ScaleModel, F8, NDArray[np.int64]]:
    """The model with its variances split; start values (n_crystals, 2) of ln G and B, NaN where a
    crystal has no signal; and the number of its reflections that other crystals show."""
    model = split_variances(model, facts, settings)
    layout = model.layout
    n_overlaps = np.empty(layout.n_local, dtype=np.int64)
    ratio = np.empty(layout.n_local)

    def look(c: int) -> None:
        place = layout.start, layout.shared, layout.chunk[c], layout.chunk[c + 1]
        kernels.overlaps(*place, facts.seen, n_overlaps)
        kernels.crystal_ratios(*place, model.observed, model.partiality, facts.expected, ratio)

    model.engine.map(look, len(layout.chunk) - 1)
    known = np.isfinite(ratio)
    ln_g = np.where(known, np.log(np.where(known, ratio, 1.0)), np.nan)
    return model, np.stack([ln_g, np.zeros(layout.n_local)], axis=1), n_overlaps


def split_variances(model: ScaleModel, facts: Facts, settings: ScaleSettings) -> ScaleModel:
    """A bare model with the counting part of the variances taken off, where that is to follow
    the model."""
    if settings.variances == "given":
        return model
    variance, gain = model.background, np.float32(facts.gain)
    background = np.maximum(
        variance - gain * np.maximum(model.observed, 0), np.float32(BACKGROUND_FLOOR) * variance
    )
    return replace(model, background=background, errors=first_errors(facts, settings))


def first_errors(facts: Facts, settings: ScaleSettings) -> ErrorModel:
    """The error model before anything is refined."""
    return ErrorModel(
        facts.gain,
        refits=refits_of(settings.variances),
        outliers=settings.outliers,
        likelihood=settings.variances == "likelihood",
        counted=facts.gain,
    )


def centred_start(model: ScaleModel, local: F8) -> F8:
    """Start values with the mean ln G of the crystals that have one at zero."""
    known = np.isfinite(local[:, LN_G])
    both = np.stack([np.where(known, local[:, LN_G], 0.0), known * 1.0], axis=1)
    total, count = model.engine.dots(model.layout, both, np.ones_like(both))
    mean: F8 = np.array([total / max(count, 1.0), 0.0])
    return local - mean


def finish(model: ScaleModel, refined: NDArray[np.bool_], settings: ScaleSettings) -> ScaleModel:
    """The model with its free parameters and priors, and the degrees of freedom they leave.

    refined : (n_crystals,) whose parameters are free.
    """
    free = np.stack([refined, refined & settings.b_factor], axis=1)
    weight = np.zeros(free.shape)
    if settings.b_prior_A2 is not None:
        weight[:, B] = free[:, B] / settings.b_prior_A2**2
    layout = replace(model.layout, free=free, prior_weight=weight)
    engine = model.engine
    ones = free.astype(np.float64)
    n_free = engine.dots(layout, ones, ones).sum() - engine.gauge_count(layout)
    rows = np.diff(layout.start[layout.chunk]).astype(np.float64)[:, None]
    n_rows = engine.sums.scalars(rows)[0]
    dof = degrees_of_freedom(n_rows, n_free + layout.n_shared)
    return replace(model, layout=layout, dof=dof)


def gain_of(sums: F8) -> float:
    """Counts' variance per unit of intensity: the slope of σ² against I.

    Fitted over strong observations, where σ² = gain·I + background, with equal relative errors.
    1 if they are too few or tell nothing. A wrong gain does not bias the variances, which are
    right in the mean for any. sums : (6,) of `kernels.scale.gain_sums`.
    """
    n, w, wx, wxx, wv, wxv = sums
    spread = wxx * w - wx * wx
    if n < 100 or spread <= 1e-9 * wxx * w:
        return 1.0
    slope = float((wxv * w - wx * wv) / spread)
    return slope if slope > 0.0 else 1.0


def geometric_means(model: ScaleModel, local: F8) -> F8:
    """(n_shared,) start values of I that outliers cannot pull far: geometric means of I_obs/f,
    observations below their background's sigma raised to it."""
    layout = model.layout

    def fill(c: int, out: Array) -> None:
        kernels.log_sums(
            layout.start,
            layout.shared,
            layout.chunk[c],
            layout.chunk[c + 1],
            local,
            model.s2,
            model.partiality,
            model.observed,
            model.background,
            out,
        )

    total, count = model.engine.shared_sums(layout, 2, fill)
    return np.where(count > 0, np.exp(total / np.maximum(count, 1.0)), 0.0)


def reflection_sums(model: ScaleModel, local: F8) -> F8:
    """(3, n_shared) of the whole job: Σ I_obs, Σ f, number of crystals; see the kernel."""
    layout = model.layout

    def fill(c: int, out: Array) -> None:
        kernels.reflection_sums(
            layout.start,
            layout.shared,
            layout.chunk[c],
            layout.chunk[c + 1],
            local,
            model.s2,
            model.partiality,
            model.observed,
            out,
        )

    return model.engine.shared_sums(layout, 3, fill)
