"""Names of the files that jobs write in their output folders; a name with / at its end is a folder.

What a kind of job writes when is in `results`: the lists of outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from sfxproc.errors import ConfigError

# ---- of every job ----------------------------------------------------------------------------

LOCK = ".sfxproc.lock"
MANIFEST = "manifest.json"
SETTINGS = "job.resolved.toml"
LOG = "log.txt"
DONE = "DONE"
ALWAYS = (MANIFEST, SETTINGS, LOG, DONE)

CHECKPOINT = "checkpoint"
OWNER = f"{CHECKPOINT}/job.json"
PROGRESS = f"{CHECKPOINT}/progress.json"
READING = "reading"
"""Folder of shards and pieces, in the checkpoint."""

# ---- of merging jobs -------------------------------------------------------------------------

MERGED = ("merged.mtz", "merged.hkl")
HALF_MTZ, HALF_HKL = ("half1.mtz", "half2.mtz"), ("half1.hkl", "half2.hkl")
FRAMES = "frames.h5"
STATISTICS = "statistics.json"
REPORT = "report.html"
REFINED, REFINED_FOLDER = "refined.expt", "refined/"
UNMERGED = "unmerged.mtz"
GROUPS = "groups/"

# ---- of powder jobs --------------------------------------------------------------------------

CELLS, CELL_FILES = "cells.json", "cells/"
POWDER_PAGE = "powder.html"
PEAKS, POWDER = "peaks.txt", "powder.json"

# ---- simulated inputs ------------------------------------------------------------------------

SIMULATED_DATA = ("simulated.h5", "simulated.truth.h5")
SIMULATED_LINES = ("simulated.txt", "simulated.truth.json")

# ---- folders without a manifest --------------------------------------------------------------

BEFORE_MANIFESTS = (
    SETTINGS,
    LOG,
    DONE,
    *MERGED,
    *HALF_MTZ,
    *HALF_HKL,
    FRAMES,
    STATISTICS,
    REPORT,
    REFINED,
    UNMERGED,
    CELLS,
    POWDER_PAGE,
    PEAKS,
    POWDER,
    *SIMULATED_DATA,
    *SIMULATED_LINES,
)
"""What a job wrote before there were manifests, in a folder that has one of SIGNS."""
SIGNS = (DONE, SETTINGS, OWNER)

LONGEST = 100  # name of a group, in bytes: two and the rest are to fit a file's name


def group_file(name: str) -> str:
    """The merge of a group of crystals."""
    return f"{GROUPS}{name}.mtz"


def difference_of(one: str, other: str) -> str:
    """The name of the difference of two groups, among those of groups."""
    return f"{one}-minus-{other}"


def require_group_names(names: Sequence[str]) -> None:
    """Raise ConfigError for names of groups that cannot be names of files, or that are the name of
    the difference of two others."""
    for name in names:
        if not name or name[0] in ".-" or "/" in name or "\\" in name or not name.isprintable():
            raise ConfigError(
                f"merging.groups: \"{name}\" cannot be the name of a file in '{GROUPS}'. Give the "
                "group a name without / and \\ that does not begin with a dot or a dash."
            )
        if len(name.encode()) > LONGEST:
            raise ConfigError(
                f'merging.groups: the name "{name[:20]}…" is too long for a file. Give the group '
                f"one of at most {LONGEST} letters."
            )
    for one, other in combinations(names, 2):
        if (pair := difference_of(one, other)) in names:
            raise ConfigError(
                f'merging.groups: "{pair}" is what the difference of "{one}" and "{other}" is '
                "called. Give the group another name."
            )


def home_expanded(path: str) -> Path:
    """The path with ~ as the home folder; as it is where there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)
