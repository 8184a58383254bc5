"""The postrefinement job: stills in, intensities merged with refined partialities out.

First the crystals are scaled with the partialities that their recorded orientations give; then
scales, orientations, sizes and intensities are refined, together or in one of the ways that are
there for comparison.
"""

from __future__ import annotations

from sfxproc.jobs import scale
from sfxproc.parallel.comm import Comm
from sfxproc.refine.check import check as checked
from sfxproc.refine.postrefine import STRATEGIES
from sfxproc.report.log import Log
from sfxproc.runs.contents import Claim
from sfxproc.runs.run import Finished, Run
from sfxproc.settings.postrefine import PostrefineConfig


def run(config: PostrefineConfig, run: Run) -> Finished | None:
    """Do the job."""
    way = STRATEGIES[config.parallel.strategy]
    return scale.run_with(lambda job: way(job, config), config, run)


def claim(config: PostrefineConfig, comm: Comm) -> Claim:
    """What the job asks of its output folder. Raises ConfigError for settings without sense."""
    return scale.claim(config, comm)


def check(config: PostrefineConfig, log: Log) -> str:
    """Validate a job without reading data; a sentence for the end."""
    return checked(config, log)
