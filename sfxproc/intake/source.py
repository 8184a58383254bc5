"""What a job takes in and where it lies: the settings of reading, and the two borders that the
pipeline (`recipe`) sees of files, whether they are held in memory or as pieces on disk.

    Source   all input files, read and corrected: a summary of each, and the way to select
    Parts    the selected observations of all crystals, visited part by part
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Crystals, Detector, ReferenceSet, Stills
from sfxproc.formats.inputs import InputFile, read_input
from sfxproc.intake.corrections import corrected
from sfxproc.intake.parts import Criteria, CrystalSettings, Part, PartSummary
from sfxproc.intake.selection import coded, require_columns
from sfxproc.parallel.records import Record
from sfxproc.settings.sections import Corrections, Input, Selection, Symmetry

RecordT = TypeVar("RecordT", bound=Record)


@dataclass(frozen=True, eq=False)
class Intake:
    """What a job takes in.

    columns : the optional columns of observations wanted. oriented : crystals need an orientation,
    and the hkl of their observations are kept; indexed : the latter only. reference : of the job;
    its setting is the one of all crystals where indexing is ambiguous and the settings name no
    other.
    """

    inputs: Input
    symmetry: Symmetry
    selection: Selection
    columns: frozenset[str] = frozenset()
    corrections: Corrections = field(default_factory=Corrections)
    oriented: bool = False
    reference: ReferenceSet | None = None
    indexed: bool = False

    @property
    def keeps_hkl(self) -> bool:
        """Whether the hkl of observations are kept as indexed."""
        return self.oriented or self.indexed


@dataclass(frozen=True, eq=False)
class FileSummary:
    """What an input file holds, without its observations. left_out : (N_REASONS,) int64 while it
    was read. notes : (n,) sentences for the log."""

    crystals: Crystals
    n_images: int
    left_out: NDArray[np.int64]
    notes: NDArray[Any]
    has_detector: bool


class Parts(Protocol):
    """The selected observations of all crystals of a job. All methods are collective."""

    def each(
        self, name: str, work: Callable[[Part], RecordT], kind: type[RecordT]
    ) -> list[RecordT]:
        """What `work` finds of each part, in the order of the parts, on rank 0; nothing elsewhere.

        name : of this visit. kind : of what it finds, a dataclass of arrays (`parallel.records`).
        """

    def in_settings(self, settings: CrystalSettings) -> Self:
        """The same with all crystals in one setting."""

    def sort(self) -> tuple[Self, list[PartSummary]]:
        """The same as the solver wants them as far as one part can tell, and on rank 0 a summary
        of each part."""


PartsT = TypeVar("PartsT", bound=Parts)
Parts_co = TypeVar("Parts_co", bound=Parts, covariant=True)


class Source(Protocol[Parts_co]):
    """The input files of a job, read and corrected."""

    @property
    def summaries(self) -> Sequence[FileSummary]:
        """Of all files in their order, on rank 0; none elsewhere."""

    def detector(self) -> Detector | None:
        """That of the first file that has one, on rank 0; collective."""

    def select(self, criteria: Criteria) -> Parts_co:
        """The observations that take part; collective."""


def read_corrected(file: InputFile, intake: Intake) -> Stills:
    """What a file holds, its intensities corrected. Raises InputError, also for a column that is
    wanted and missing, ConfigError or DataError."""
    stills = read_input(file, intake.columns, intake.inputs.strict)
    stills = corrected(stills, intake.corrections)
    require_columns(file.path, stills.observations.columns(), intake.columns)
    return stills


def summary_of_file(stills: Stills) -> FileSummary:
    """What rank 0 is told of a file."""
    return FileSummary(
        stills.crystals,
        stills.n_images,
        coded(stills.counts),
        np.array(stills.notes, dtype=object),
        stills.detector is not None,
    )
