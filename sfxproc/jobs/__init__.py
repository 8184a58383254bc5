"""Kinds of job: one line here makes a kind known to the command line and to the tests.

The table is light: a kind's settings are bare types, and its recipe, with all that it needs, is
imported when a job is run or checked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import msgspec

from sfxproc.settings.postrefine import PostrefineConfig
from sfxproc.settings.powder import PowderConfig
from sfxproc.settings.scale import ScaleConfig
from sfxproc.settings.spot_powder import SpotPowderConfig

if TYPE_CHECKING:
    from sfxproc.parallel.comm import Comm
    from sfxproc.report.log import Log

Config = TypeVar("Config", bound=msgspec.Struct)
Given = TypeVar("Given", bound=msgspec.Struct, contravariant=True)


class Recipe(Protocol[Given]):
    """What does or checks a job. Both tell the log what they do and end with a sentence."""

    def run(self, config: Given, comm: Comm, log: Log) -> None:
        """Do the job."""

    def check(self, config: Given, log: Log) -> None:
        """Validate it without doing it."""


@dataclass(frozen=True)
class Job(Generic[Config]):
    """A kind of job: the type of its settings, and what imports its recipe."""

    name: str
    config: type[Config]
    recipe: Callable[[], Recipe[Config]]

    def run(self, config: Config, comm: Comm, log: Log) -> None:
        """Do the job."""
        self.recipe().run(config, comm, log)

    def check(self, config: Config, log: Log) -> None:
        """Validate it without doing it."""
        self.recipe().check(config, log)


def _postrefine() -> Recipe[PostrefineConfig]:
    from sfxproc.jobs import postrefine

    return postrefine


def _powder() -> Recipe[PowderConfig]:
    from sfxproc.jobs import powder

    return powder


def _scale() -> Recipe[ScaleConfig]:
    from sfxproc.jobs import scale

    return scale


def _spot_powder() -> Recipe[SpotPowderConfig]:
    from sfxproc.jobs import spot_powder

    return spot_powder


JOBS: dict[str, Job[Any]] = {
    "postrefine": Job("postrefine", PostrefineConfig, _postrefine),
    "powder": Job("powder", PowderConfig, _powder),
    "scale": Job("scale", ScaleConfig, _scale),
    "spot-powder": Job("spot-powder", SpotPowderConfig, _spot_powder),
}
