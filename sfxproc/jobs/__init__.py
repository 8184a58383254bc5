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
    from sfxproc.runs.contents import Claim
    from sfxproc.runs.run import Finished, Run

Config = TypeVar("Config", bound=msgspec.Struct)
Given = TypeVar("Given", bound=msgspec.Struct, contravariant=True)


class Recipe(Protocol[Given]):
    """What a kind of job is: what it asks for, how it is done, what is told of it beforehand."""

    def claim(self, config: Given, comm: Comm) -> Claim:
        """What the job asks of its output folder. Raises ConfigError for settings that make no
        sense together."""

    def run(self, config: Given, run: Run) -> Finished | None:
        """Do the job and write its results; what came of it, on the first rank."""

    def check(self, config: Given, log: Log) -> str:
        """Validate the job without doing it; a sentence for the end."""


@dataclass(frozen=True)
class Job(Generic[Config]):
    """A kind of job: the type of its settings, and what imports its recipe."""

    name: str
    config: type[Config]
    recipe: Callable[[], Recipe[Config]]

    def run(self, config: Config, comm: Comm, log: Log) -> Finished:
        """Do the job in its output folder, or find that it is done already; on all ranks. Raises
        UserError, of which Stopped is one."""
        from sfxproc.runs.run import Finished, opened

        recipe = self.recipe()
        claim = recipe.claim(config, comm)
        log(claim.greeting(comm.size))
        with opened(claim, comm, log) as run:
            if run.complete is None:
                return run.finish(recipe.run(config, run))
            sentence = (
                f"The results in '{run.folder}' are complete already: nothing to do. To do the job "
                "anew, use --overwrite without --resume."
            )
            log(sentence)
            return Finished(run.folder, run.complete, {}, sentence)

    def check(self, config: Config, log: Log) -> None:
        """Tell whether the job can be done and what it takes, without doing it. Raises
        UserError."""
        from sfxproc.parallel.comm import SerialComm
        from sfxproc.runs.contents import require_free

        recipe = self.recipe()
        require_free(recipe.claim(config, SerialComm()))
        log(recipe.check(config, log))


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
