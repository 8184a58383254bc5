"""Covariances of a solved job of the global strategy, exact or sampled."""

from __future__ import annotations

import numpy as np

from sfxproc.lsq import Engine, Point
from sfxproc.lsq.covariance import Covariance, exact
from sfxproc.lsq.problem import F8
from sfxproc.lsq.sampled import sampled
from sfxproc.models.postrefine import PostrefineModel
from sfxproc.models.scale import ScaleModel
from sfxproc.refine.choices import loss_of
from sfxproc.settings.scale import ScaleConfig

EXACT_PARAMETERS = 2000  # of crystals; beyond this covariances are sampled
STRATA = 20  # shells of equal numbers of reflections, for calibrating sampled variances


def covariance_of(
    engine: Engine,
    model: ScaleModel | PostrefineModel,
    point: Point,
    s2: F8,
    config: ScaleConfig,
) -> Covariance:
    """Covariances of the crystals' parameters and what they add to those of the intensities."""
    loss = loss_of(config)
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
