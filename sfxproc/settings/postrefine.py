"""Settings of the postrefinement job; jobs/postrefine.toml explains each."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from sfxproc.config import Count, NotNegative, Positive
from sfxproc.models.settings import ParameterSettings
from sfxproc.settings.scale import ScaleConfig

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
