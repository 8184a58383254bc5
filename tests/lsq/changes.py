"""The ways in which the toy problem is made harder."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tests.problems import LampModel


def plain(model: LampModel) -> LampModel:
    return model


def with_priors(model: LampModel) -> LampModel:
    rng = np.random.default_rng(7)
    centre, weight = rng.normal(size=(2, *model.layout.free.shape))
    layout = replace(model.layout, prior_centre=0.1 * centre, prior_weight=weight**2 * 50.0)
    return replace(model, layout=layout)


def with_fixed(model: LampModel) -> LampModel:
    """Some blocks fixed entirely, some parameters of others, one column of all."""
    free = np.random.default_rng(8).random(model.layout.free.shape) < 0.7
    free[:3] = False
    free[:, 2] = False
    return replace(model, layout=replace(model.layout, free=free))


def with_silent_lamps(model: LampModel) -> LampModel:
    """Some shared parameters have rows without weight only, one has no row at all."""
    weight = np.where(np.isin(model.layout.shared, [2, 5]), 0.0, model.weight)
    layout = replace(model.layout, n_shared=model.layout.n_shared + 1)
    return replace(model, weight=weight, layout=layout)


def in_two_parts(model: LampModel) -> LampModel:
    """Photographs with odd numbers show only odd lamps: two gauges."""
    n = len(model.layout.component)
    odd = np.arange(n) % 2
    row = np.repeat(odd, np.diff(model.layout.start))
    shared = (model.layout.shared // 2 * 2 + row).astype(np.int32)
    component = odd.astype(np.int32)
    layout = replace(model.layout, shared=shared, component=component, n_components=2)
    return replace(model, layout=layout)


def without_gauge(model: LampModel) -> LampModel:
    """A prior on the exposures leaves nothing undetermined."""
    weight = model.layout.prior_weight + 3.0
    return replace(model, layout=replace(model.layout, gauge=(), prior_weight=weight))


CHANGES = [
    plain,
    with_priors,
    with_fixed,
    with_silent_lamps,
    in_two_parts,
    without_gauge,
]
