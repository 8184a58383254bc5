"""What a job file asks for, in the terms of the models."""

from __future__ import annotations

from sfxproc.lsq import Loss
from sfxproc.models.scale_start import ScaleSettings
from sfxproc.settings.scale import ScaleConfig


def columns_wanted(config: ScaleConfig) -> frozenset[str]:
    """Optional columns of the observations that this job uses."""
    return frozenset({"partiality"} if config.scaling.partiality == "recorded" else ())


def scale_settings(config: ScaleConfig) -> ScaleSettings:
    """The model's choices."""
    scaling = config.scaling
    return ScaleSettings(
        b_factor=scaling.b_factor,
        b_prior_A2=scaling.b_prior_A2,
        gain=scaling.gain,
        variances=scaling.error_model,
        outliers=scaling.loss != "none",
        min_overlaps=scaling.min_overlaps,
    )


def loss_of(config: ScaleConfig) -> Loss:
    """The robust loss."""
    return Loss(config.scaling.loss, config.scaling.loss_scale)
