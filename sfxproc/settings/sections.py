"""Sections of a job file that several jobs share. Defaults stand here and nowhere else."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from sfxproc.config import Count, Fraction, NotNegative, Positive, Whole


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of a job file: typed, frozen, unknown keys refused."""


class Input(Section, frozen=True):
    """What to read. Paths are files, globs, folders' globs or a list file (`.lst`, `.txt`)."""

    paths: list[str] = []
    exclude: list[str] = []
    strict: bool = False


class Symmetry(Section, frozen=True):
    """Space group by name or number; unit cell in Å and degrees (default: median of the data).

    ambiguity : whether crystals that could be indexed in several settings are brought into one,
    of ambiguity_reference (default: reference.path) or of most crystals; operators of the lattice
    count up to ambiguity_obliquity_deg.
    """

    space_group: str | int
    unit_cell: list[float] | None = None
    anomalous: bool = False
    length_tolerance_percent: Positive = 5.0
    angle_tolerance_deg: Positive = 3.0
    ambiguity: Literal["resolve", "ignore"] = "resolve"
    ambiguity_reference: str | None = None
    ambiguity_obliquity_deg: NotNegative = 1.0


class Selection(Section, frozen=True):
    """What to leave out before anything is refined."""

    d_min_A: Positive | None = None
    d_max_A: Positive | None = None
    min_observations: Count = 3
    min_partiality: Fraction = 0.0
    cell_cluster: Count | None = None


class Reference(Section, frozen=True):
    """A merged set (MTZ or mmCIF) that fixes the overall scale and B."""

    path: str | None = None


class Rejection(Section, frozen=True):
    """Whether crystals that disagree with all others are left out, and from when on."""

    reject: bool = True
    false_alarms: Positive = 0.01
    unrelated_signal: Fraction = 0.5
    min_cc: Annotated[float, Meta(ge=-1, le=1)] | None = None
    passes: Count = 3


class Merging(Section, frozen=True):
    """What is merged besides all crystals. groups : pattern of FILE//EVENT of each, by name."""

    groups: dict[str, str] = {}
    independent_halves: bool = False


class Start(Section, frozen=True):
    """Where crystals begin: the frames.h5 of an earlier job; refined from there, or not."""

    frames: str | None = None
    refine: bool = True


class Solver(Section, frozen=True):
    """Which algorithm solves the least-squares problem, and when it stops."""

    method: str = "schur-cg"
    max_iterations: Count = 1000
    tolerance: Positive = 1e-8


class Parallel(Section, frozen=True):
    """How the work is spread. threads = 0 takes all processors this rank may use; the others are
    of strategy "blocks"."""

    strategy: Literal["global", "blocks"] = "global"
    threads: Whole = 0
    block_size: Annotated[int, Meta(ge=2)] = 2000
    overlap: Whole = 1000
    rounds: Count = 8
    rounds_mode: Literal["newton", "average"] = "newton"
    round_tolerance_sigma: Positive = 0.002


class Output(Section, frozen=True):
    """Where results go; an existing folder is refused unless overwrite or resume is set.

    resume : go on with a job that was stopped there. checkpoint_interval_s : how often its state
    is kept, if it lasts that long.
    """

    folder: str = "out"
    overwrite: bool = False
    resume: bool = False
    checkpoint_interval_s: NotNegative = 5.0
    unmerged: bool = False
    n_shells: Annotated[int, Meta(ge=1, le=100)] = 10


class Corrections(Section, frozen=True):
    """What intensities are corrected for as they are read. polarisation_normal : n, of any length,
    in the laboratory frame of the files; 0 1 0 is a beam polarised horizontally, along x."""

    polarisation_fraction: Fraction | None = None
    polarisation_normal: tuple[float, float, float] = (0.0, 1.0, 0.0)
    lorentz: Literal["none", "stills"] = "none"

    @property
    def wanted(self) -> bool:
        """Whether there is anything to correct for."""
        return self.polarisation_fraction is not None or self.lorentz != "none"
