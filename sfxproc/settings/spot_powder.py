"""The settings of a spot-powder job; jobs/spot_powder.toml explains them."""

from __future__ import annotations

from typing import Literal

from sfxproc.powder.settings import SpotPeakSettings
from sfxproc.settings.sections import Input, Section
from sfxproc.simulate.settings import SpotPowderSettings


class SpotPowderOutput(Section, frozen=True):
    """Where results go; an existing folder is refused unless overwrite or resume is set."""

    folder: str = "out"
    overwrite: bool = False
    resume: bool = False


class SpotPowderConfig(Section, frozen=True):
    """A spot-powder job."""

    job: Literal["spot-powder"]
    input: Input = Input()
    peaks: SpotPeakSettings = SpotPeakSettings()
    output: SpotPowderOutput = SpotPowderOutput()
    simulate: SpotPowderSettings | None = None
