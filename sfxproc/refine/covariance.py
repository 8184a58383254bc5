"""Covariances of a solved job of the global strategy, exact or sampled."""

from __future__ import annotations

import numpy as np

from sfxproc.lsq import Engine, Point
from sfxproc.lsq.covariance import Covariance, Unsolved, exact
from sfxproc.lsq.sampled import sampled, uncorrelated
from sfxproc.models.postrefine import PostrefineModel
from sfxproc.models.scale import ScaleModel
from sfxproc.refine.choices import loss_of
from sfxproc.report.log import Log
from sfxproc.settings.scale import ScaleConfig

EXACT_PARAMETERS = 2000  # of crystals; beyond this covariances are sampled
STRATA = 20  # shells of equal numbers of reflections, for calibrating sampled variances


def covariance_of(
    engine: Engine,
    model: ScaleModel | PostrefineModel,
    point: Point,
    config: ScaleConfig,
    log: Log,
) -> Covariance:
    """Covariances of the crystals' parameters and what they add to those of the intensities; if
    they cannot be worked out, without correlations between crystals, which is said."""
    try:
        return _joint_covariance(engine, model, point, config)
    except Unsolved as error:
        log(
            f"WARNING: {error} What is given instead leaves out how uncertainties of crystals hang "
            "together, and may be too small."
        )
        lin = engine.linearise(model, point, loss_of(config))
        V, spread = uncorrelated(engine, lin)
        from_local = np.divide(spread, lin.D**2, out=np.zeros_like(spread), where=lin.D > 0.0)
        return Covariance(V, from_local, np.nan)


def _joint_covariance(
    engine: Engine, model: ScaleModel | PostrefineModel, point: Point, config: ScaleConfig
) -> Covariance:
    """Exact or sampled covariances. Raises Unsolved."""
    loss = loss_of(config)
    s2 = (model.scale if isinstance(model, PostrefineModel) else model).s2
    ones = np.ones((model.layout.n_local, 1))
    n_local = float(engine.dots(model.layout, ones, ones)[0]) * len(model.layout.parameters)
    kind = config.scaling.covariance
    if kind == "exact" or (kind == "auto" and n_local <= EXACT_PARAMETERS):
        # what reflections seen once take off must cancel to the last digit
        double = Engine(engine.sums, engine.threads, np.float64)
        return exact(double, double.linearise(model, point, loss))
    lin = engine.linearise(model, point, loss)
    order = np.argsort(np.argsort(s2, kind="stable"), kind="stable")
    strata = (order * STRATA // max(len(order), 1)).astype(np.int32)
    return sampled(engine, model, point, lin, loss, strata, seed=config.seed)
