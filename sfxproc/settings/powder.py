"""The settings of a powder indexing job; jobs/powder.toml explains them."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from msgspec import Meta, field

from sfxproc.config import Count, NotNegative, Positive, Whole
from sfxproc.powder.settings import Accept
from sfxproc.settings.sections import Section
from sfxproc.simulate.settings import PowderSettings

Bravais = Literal[
    "aP", "mP", "mC", "oP", "oC", "oF", "oI", "tP", "tI", "hP", "hR", "cP", "cF", "cI"
]
LineCount = Annotated[int, Meta(ge=8, le=60)]


class Peaks(Section, frozen=True):
    """The list of lines. kind : what an unnamed first column is."""

    path: str | None = None
    kind: Literal["q2", "d", "two_theta"] | None = None
    wavelength_A: Positive | None = None
    n_lines: LineCount = 60


class Search(Section, frozen=True):
    """How cells are searched for and how many are told."""

    lattices: Annotated[list[Bravais], Meta(min_length=1)] = field(
        default_factory=lambda: list(get_args(Bravais))
    )
    effort: Positive = 1.0
    n_lines: LineCount = 20
    n_cells: Count = 20
    accept: Accept = "always"
    early_stop: bool = True
    outliers: Annotated[float, Meta(gt=0, lt=0.5)] = 0.05
    min_volume_A3: NotNegative = 0.0
    max_volume_A3: NotNegative = 0.0
    seed: Whole = 1

    def __post_init__(self) -> None:
        if 0.0 < self.max_volume_A3 < self.min_volume_A3:
            raise ValueError(
                f"max_volume_A3 = {self.max_volume_A3:g} is below min_volume_A3 = "
                f"{self.min_volume_A3:g}"
            )


class PowderOutput(Section, frozen=True):
    """Where results go; an existing folder is refused unless overwrite or resume is set.

    cell_files : how many of the best cells get files for CrystFEL and DIALS.
    """

    folder: str = "out"
    overwrite: bool = False
    resume: bool = False
    cell_files: Whole = 5


class SimulatedPattern(PowderSettings, frozen=True):
    """A pattern of a random structure: the settings of `simulate.powder`, the Bravais lattice and
    which of its structures."""

    lattice: Bravais = "oP"
    number: Whole = 1


class PowderConfig(Section, frozen=True):
    """A powder indexing job; `simulate` counts where peaks.path is not set."""

    job: Literal["powder"]
    peaks: Peaks = Peaks()
    search: Search = Search()
    output: PowderOutput = PowderOutput()
    simulate: SimulatedPattern | None = None
