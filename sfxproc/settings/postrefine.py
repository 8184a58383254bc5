"""Settings of the postrefinement job; jobs/postrefine.toml explains each."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from sfxproc.errors import ConfigError
from sfxproc.models.parameters import ParameterSettings
from sfxproc.partiality import PARTIALITIES
from sfxproc.settings.scale import ScaleConfig
from sfxproc.settings.sections import Count, NotNegative, Positive

AUTO = "auto"


class Postrefine(ParameterSettings, frozen=True):
    """The partiality model, what is refined of crystals and how; sizes in Å⁻¹."""

    partiality: str = "sphere"
    size: Positive | None = None
    size_slope: NotNegative = 0.0
    bandwidth: Annotated[float, Meta(ge=0, lt=0.5)] | None = None
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
    if name != AUTO and name not in PARTIALITIES:
        raise ConfigError(
            f'postrefine.partiality = "{name}" is not a partiality model; choose one of '
            f'{", ".join(sorted(PARTIALITIES))}, or "{AUTO}" for the one that fits best.'
        )
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
