"""Frozen columnar tables: what is measured, by which crystals, on which detector.

Conventions (all of sfxproc): Å, Å⁻¹, mm, px, rad; s = sinθ/λ = 1/(2d); q = A·h with
A = (a*|b*|c*) in Å⁻¹ in the laboratory frame of the file the crystal came from, whose beam
propagates along `Crystals.beam`. Intensities are stored as float32, parameters as float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum, StrEnum
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from sfxproc.errors import InputError

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
Mask = NDArray[np.bool_]


class Status(IntEnum):
    """What became of a crystal."""

    USED = 0
    FIXED = 1  # merged, but with start values that were not refined
    LEFT_OUT = 2


class Reason(IntEnum):
    """Why a crystal or an observation is fixed or left out."""

    NONE = 0
    # crystals
    CELL_OFF_TARGET = 1
    NO_ORIENTATION = 2
    TOO_FEW_OBSERVATIONS = 3
    TOO_FEW_OVERLAPS = 4
    NO_SIGNAL = 5
    TASK_FAILED = 6  # what was to be done with them failed twice; the log says how
    UNRELATED = 7  # intensities of its own: wrong indexing, another lattice
    HARMFUL = 8  # agrees less than it should, and CC½ is higher without it
    CC_TOO_LOW = 9
    OTHER_CELL_CLUSTER = 10
    NOT_REFINED_BEFORE = 11
    # observations
    NOT_FINITE = 20
    VARIANCE_NOT_POSITIVE = 21
    NOT_INDEXED = 22
    NOT_INTEGRATED = 23
    SYSTEMATIC_ABSENCE = 24
    BELOW_D_MIN = 25
    ABOVE_D_MAX = 26
    PARTIALITY_TOO_LOW = 27
    CRYSTAL_LEFT_OUT = 28
    OVERLOADED = 29
    DAMAGED = 30  # a value that no measurement has
    IMPOSSIBLE_INDEX = 31  # beyond what the wavelength can show of the crystal, or not an index
    NO_EXPERIMENT = 32

    @property
    def text(self) -> str:
        """The reason as words for a table."""
        return self.name.lower().replace("_", " ")


class Table:
    """A frozen dataclass of equally long columns; optional columns may be None."""

    def columns(self) -> dict[str, NDArray[Any]]:
        """The columns that are present, by name."""
        values = ((f.name, getattr(self, f.name)) for f in fields(self))  # type: ignore[arg-type]
        return {name: v for name, v in values if isinstance(v, np.ndarray)}

    def __post_init__(self) -> None:
        lengths = {name: len(column) for name, column in self.columns().items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"{type(self).__name__}: columns of unequal length: {lengths}")

    def __len__(self) -> int:
        return len(next(iter(self.columns().values())))

    def take(self, rows: Mask | Ints | slice) -> Self:
        """The table of the chosen rows (boolean mask, indices or slice), in their order; itself
        where a mask chooses all."""
        mask = isinstance(rows, np.ndarray) and rows.dtype == np.bool_
        if mask and len(rows) == len(self) and np.all(rows):  # type: ignore[arg-type]
            return self
        columns: dict[str, Any] = {name: c[rows] for name, c in self.columns().items()}
        return replace(self, **columns)  # type: ignore[type-var]

    @property
    def nbytes(self) -> int:
        """Memory of all columns, in bytes."""
        return sum(c.nbytes for c in self.columns().values())


TableT = TypeVar("TableT", bound=Table)


def concatenate(tables: Sequence[TableT]) -> TableT:
    """One table from several of the same kind; a column missing in any of them is dropped."""
    first = tables[0]
    if len(tables) == 1:
        return first
    columns: dict[str, Any] = {}
    for f in fields(first):  # type: ignore[arg-type]
        parts = [getattr(t, f.name) for t in tables]
        if any(p is None for p in parts):
            columns[f.name] = None
        elif isinstance(parts[0], np.ndarray):
            columns[f.name] = np.concatenate(parts)
    return replace(first, **columns)  # type: ignore[type-var]


@dataclass(frozen=True, eq=False)
class Crystals(Table):
    """Indexing solutions, one row each; an image may hold several.

    file, event : object arrays of str; together they are the crystal's identity: the data file
        and the event, experiment identifier or lattice number within it.
    A : (n, 3, 3) Å⁻¹, columns a*, b*, c*; NaN where the file gives no orientation.
    cell : (n, 6) Å and degrees.
    beam : (n, 3) unit vector of propagation of the beam, in the frame of A.
    wavelength_A : (n,).  bandwidth : (n,) sigma of λ over λ.  profile_radius : (n,) Å⁻¹.
        NaN = not recorded.
    """

    file: NDArray[np.object_]
    event: NDArray[np.object_]
    A: Floats
    cell: Floats
    beam: Floats
    wavelength_A: Floats
    bandwidth: Floats
    profile_radius: Floats

    @property
    def identity(self) -> list[str]:
        """`file//event` of every crystal."""
        return [f"{f}//{e}" for f, e in zip(self.file, self.event, strict=True)]


@dataclass(frozen=True, eq=False)
class Observations(Table):
    """One measured intensity a row, grouped by crystal.

    crystal : (n,) int32 row of `Crystals`, never decreasing.
    hkl : (n, 3) int16, as indexed.
    intensity, variance : (n,) float32, on the crystal's own scale; variance as the integrating
        program gives it (σ²).
    reflection : (n,) int32 row of `Reflections`; None until the unique set is made.
    partiality : (n,) float32 as recorded.  panel : (n,) int16.
    x_px, y_px : (n,) float32 fast and slow position on the panel.
    """

    crystal: Ints
    hkl: Ints
    intensity: Floats
    variance: Floats
    reflection: Ints | None = None
    partiality: Floats | None = None
    panel: Ints | None = None
    x_px: Floats | None = None
    y_px: Floats | None = None


@dataclass(frozen=True, eq=False)
class Rows(Table):
    """What the solver needs of observations, sorted by crystal and reflection.

    crystal, reflection : (n,) int32, counted from the first of some crystals and in a table of
    unique reflections. intensity, variance and, where recorded, partiality : (n,) float32.
    """

    crystal: Ints
    reflection: Ints
    intensity: Floats
    variance: Floats
    partiality: Floats | None = None


OPTIONAL_COLUMNS = ("partiality", "panel", "x_px", "y_px")
"""Columns of `Observations` that a reader fills only when asked to."""


@dataclass(frozen=True, eq=False)
class Reflections(Table):
    """Unique reflections of the asymmetric unit, the shared unknowns of a merge.

    hkl : (n, 3) int16 in the asymmetric unit of the point group.
    friedel : (n,) int8: 0 Friedel mates merged (or centric), +1 I(+), −1 I(−).
    s2 : (n,) float64 (sinθ/λ)², Å⁻².  centric : (n,) bool.  epsilon : (n,) int16.
    intensity, sigma : (n,) float64; n_observations : (n,) int32; None before merging.
    """

    hkl: Ints
    friedel: Ints
    s2: Floats
    centric: Mask
    epsilon: Ints
    intensity: Floats | None = None
    sigma: Floats | None = None
    n_observations: Ints | None = None

    @property
    def d_A(self) -> Floats:
        """Resolution, Å."""
        return np.asarray(0.5 / np.sqrt(self.s2))


@dataclass(frozen=True, eq=False)
class Detector(Table):
    """Flat panels in the laboratory frame.

    name : object array of str.  fast, slow : (n, 3) unit vectors.  origin_mm : (n, 3) outer
    corner of the first pixel.  pixel_mm : (n, 2) fast, slow.  size_px : (n, 2) fast, slow.
    """

    name: NDArray[np.object_]
    fast: Floats
    slow: Floats
    origin_mm: Floats
    pixel_mm: Floats
    size_px: Ints


@dataclass(frozen=True, eq=False)
class Merged:
    """Merged intensities with their half sets, one row a unique reflection.

    reflections carries intensity, sigma and n_observations (NaN and 0 where nothing was
    measured). half_intensity, half_sigma : (2, n) float64; half_n : (2, n) int32, of the two
    half sets of crystals. sum_intensity, abs_deviation : (n,) Σᵢ Iᵢ and Σᵢ |Iᵢ − ⟨I⟩| over the
    scaled observations, for R_merge and R_meas. scale_variance : (n,) the part of sigma² that
    comes from uncertain scales, None if it is not in sigma.
    """

    reflections: Reflections
    half_intensity: Floats
    half_sigma: Floats
    half_n: Ints
    sum_intensity: Floats
    abs_deviation: Floats
    scale_variance: Floats | None = None


@dataclass(frozen=True, eq=False)
class ReflectionSums:
    """Sums over the scaled observations J with weights w, a reflection each.

    weight, weighted, number : (2, n) Σw, ΣwJ and number of J, by half set. total, deviation :
    (n,) ΣJ and Σ|J − ⟨I⟩|.
    """

    weight: NDArray[np.float64]
    weighted: NDArray[np.float64]
    number: NDArray[np.float64]
    total: NDArray[np.float64]
    deviation: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ReferenceSet:
    """A merged set read from a file: `reflections` has intensity and sigma filled, friedel 0
    (Friedel mates averaged), one row a reflection of the asymmetric unit. columns : the names in
    the file of what was taken, for messages."""

    path: str
    space_group: str
    cell: Floats
    reflections: Reflections
    columns: str = ""


class Correction(StrEnum):
    """What intensities may have been corrected for."""

    POLARISATION = "polarisation"
    LORENTZ = "Lorentz factor"
    EFFICIENCY = "quantum efficiency"


@dataclass(frozen=True)
class BeamPolarisation:
    """The part of the beam that is linearly polarised (1: fully, 0.5: not at all) and the normal of
    the plane of polarisation, in the frame of `Crystals.A`: the electric vector lies across it."""

    fraction: float
    normal: tuple[float, float, float]


@dataclass(frozen=True)
class Stills:
    """What one input file holds.

    n_images counts the shots the file speaks of, with or without crystals. `counts` says what
    was left out while reading, by reason; `notes` are sentences for the log; `header` is text
    kept for writing back (the CrystFEL geometry). corrected : what intensities and variances are
    corrected for. polarisation : of the beam, None where the file does not tell. space_group : as
    the file names it, empty where it does not.
    """

    crystals: Crystals
    observations: Observations
    n_images: int
    detector: Detector | None = None
    counts: Mapping[Reason, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    header: str = ""
    corrected: frozenset[Correction] = frozenset()
    polarisation: BeamPolarisation | None = None
    space_group: str = ""


def packed_hkl(hkl: Ints) -> NDArray[np.int64]:
    """One sortable integer per (h, k, l), 20 bits each, offset so that the order is h, k, l.

    hkl : (..., 3) integers within ±500,000. Returns int64 of shape (...).
    """
    wide = np.asarray(hkl, dtype=np.int64) + (1 << 19)
    return np.asarray((wide[..., 0] << 40) | (wide[..., 1] << 20) | wide[..., 2])


def require_distinct(crystals: Crystals) -> None:
    """Raise InputError if two crystals carry one identity."""
    names = np.array(crystals.identity, dtype=object)
    unique, count = np.unique(names.astype(str), return_counts=True)
    if len(unique) < len(names):
        worst = unique[np.argmax(count)]
        raise InputError(
            f"{int(np.sum(count - 1))} crystals repeat the identity of another one, for example "
            f"'{worst}' ({int(count.max())} times). The same images were probably given twice: "
            "remove one of the inputs from input.paths or name it in input.exclude."
        )


@dataclass(frozen=True, eq=False)
class Derived:
    """What follows from merged intensities, one row for each distinct hkl in the order h, k, l.

    mean : amplitude and σ (2, n) of the mean of Friedel mates; plus, minus : of each of them
    where they were kept apart, NaN where not measured or there is no such mate. free_flag : (n,)
    0 … 19, 0 the free set.
    """

    free_flag: Ints
    mean: Floats
    plus: Floats | None = None
    minus: Floats | None = None
