"""Settings of the postrefinement job; jobs/postrefine.toml explains each."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from sfxproc.config import Count, NotNegative, Positive
from sfxproc.errors import ConfigError
from sfxproc.settings.scale import ScaleConfig
from sfxproc.settings.sections import Section

AUTO = "auto"


class Postrefine(Section, frozen=True):
    """The partiality model and what is refined of it; sizes in Å⁻¹."""

    partiality: str = "sphere"
    size: Positive | None = None
    size_slope: NotNegative = 0.0
    bandwidth: Annotated[float, Meta(ge=0, lt=0.5)] | None = None
    orientation: bool = True
    theta_prior_mrad: Positive = 2.0
    refine_size: bool = True
    size_prior: Positive = 0.5
    cell: bool = False
    cell_prior_percent: Positive = 0.2
    wavelength: bool = False
    wavelength_prior_percent: Positive = 0.1
    scheme: Literal["joint", "cycles", "crystal-by-crystal"] = "joint"
    passes: Count = 4
    cycles: Count = 10


class PostrefineConfig(ScaleConfig, frozen=True):
    """A postrefinement job."""

    job: Literal["postrefine"]  # type: ignore[assignment]
    postrefine: Postrefine = Postrefine()


def require_sense(config: PostrefineConfig) -> None:
    """Raise ConfigError for settings that are valid one by one but not together."""
    name = config.postrefine.partiality
    if config.scaling.partiality == "recorded":
        raise ConfigError(
            'scaling.partiality = "recorded" has no place in postrefinement, which works out '
            "partialities itself. Leave it out."
        )
    if config.parallel.strategy == "blocks":
        for setting, value, only in (
            ("partiality", name, name != AUTO),
            ("scheme", config.postrefine.scheme, config.postrefine.scheme == "joint"),
        ):
            if not only:
                raise ConfigError(
                    f'postrefine.{setting} = "{value}" needs parallel.strategy = "global", which '
                    "runs on many ranks too. Change one of them."
                )
