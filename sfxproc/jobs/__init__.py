"""Kinds of job: one line here makes a kind known to the command line and to the tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from sfxproc.jobs import postrefine, powder, scale, spot_powder
from sfxproc.parallel.comm import Comm
from sfxproc.report.log import Log
from sfxproc.settings import postrefine as postrefine_config
from sfxproc.settings import powder as powder_config
from sfxproc.settings import scale as scale_config


@dataclass(frozen=True)
class Job:
    """A kind of job: the type of its settings, and what does or checks it.

    Both tell the log what they do and end with a sentence.
    """

    name: str
    config: type[msgspec.Struct]
    run: Callable[[Any, Comm, Log], None]
    check: Callable[[Any, Log], None]


JOBS: dict[str, Job] = {
    "postrefine": Job(
        "postrefine", postrefine_config.PostrefineConfig, postrefine.run, postrefine.check
    ),
    "powder": Job("powder", powder_config.PowderConfig, powder.run, powder.check),
    "scale": Job("scale", scale_config.ScaleConfig, scale.run, scale.check),
    "spot-powder": Job(
        "spot-powder", spot_powder.SpotPowderConfig, spot_powder.run, spot_powder.check
    ),
}
