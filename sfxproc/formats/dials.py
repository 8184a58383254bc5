"""DIALS stills: an experiment list (`.expt`) and its reflection table (`.refl`) side by side.

Which rows become observations: indexed ones of an experiment with a crystal; of those the
integrated ones, if the table was integrated at all; of those the ones that are not overloaded.
Intensities are profile-fitted where there is a profile, otherwise summed, and corrected by the
columns lp and qe of the table (`dials_intensities`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Correction, Ints, Mask, Observations, Reason, Stills
from sfxproc.errors import InputError
from sfxproc.formats import peek
from sfxproc.formats.base import Format, Request
from sfxproc.formats.dials_expt import (
    Experiments,
    identifiers_of,
    read_experiments,
    write_experiments,
)
from sfxproc.formats.dials_intensities import intensities_of
from sfxproc.formats.dials_refl import Flag, ReflectionTable, read_table, write_table
from sfxproc.formats.soundness import indices_of


def read(path: Path, request: Request) -> Stills:
    """Read the pair of files to which `path`, either of the two, belongs.

    A crystal's identity is `request.label` and the experiment's identifier (its index where it
    has none). Rows that belong to no experiment are counted. Raises InputError if one of the pair
    is missing or damaged, if all rows (strict: any) belong to no experiment, or if a needed column
    is missing.
    """
    expt, refl = (existing_twin(path, suffix) for suffix in (".expt", ".refl"))
    experiments = read_experiments(expt, request.label)
    table = read_table(refl)
    notes = list(experiments.notes)
    if table.skipped:
        notes.append(f"columns that cannot be read were skipped: {', '.join(table.skipped)}")

    flags = np.asarray(table.columns.get("flags", np.zeros(table.n_rows)), dtype=np.int64)
    measured = intensities_of(table, flags, experiments.has_sweeps)
    notes += measured.notes
    hkl = table.column("miller_index")
    indexed = (table.column("id") != -1) & hkl.any(axis=1)
    experiment = _experiment_of_rows(table, experiments, indexed, request.strict)
    known = experiment >= 0
    crystal = np.full(table.n_rows, -1, dtype=np.int64)
    crystal[known] = experiments.crystal_of[experiment[known]]
    counts: dict[Reason, int] = {}
    rows = np.ones(table.n_rows, dtype=bool)
    for reason, keep in (
        (Reason.NOT_INDEXED, indexed),
        (Reason.NO_EXPERIMENT, known),
        (Reason.NO_ORIENTATION, crystal >= 0),
        (Reason.NOT_INTEGRATED, measured.has),
        (Reason.OVERLOADED, (flags & Flag.OVERLOADED) == 0),
        (Reason.DAMAGED, ~measured.damaged),
    ):
        if n := int(np.count_nonzero(rows & ~keep)):
            counts[reason] = n
        rows &= keep
    if n := counts.get(Reason.NO_EXPERIMENT, 0):
        notes.append(f"rows that belong to no experiment were left out: {n:,}")
    chosen = np.flatnonzero(rows)
    chosen = chosen[np.argsort(crystal[chosen], kind="stable")]
    with np.errstate(over="ignore"):
        observations = Observations(
            crystal=crystal[chosen].astype(np.int32),
            hkl=indices_of(hkl[chosen]),
            intensity=measured.value[chosen].astype(np.float32),
            variance=measured.variance[chosen].astype(np.float32),
            **_optional(table, chosen, request.columns),
        )
    return Stills(
        crystals=experiments.crystals,
        observations=observations,
        n_images=experiments.n_images,
        detector=experiments.detector,
        counts=counts,
        notes=tuple(notes),
        corrected=measured.corrected,
        polarisation=experiments.polarisation,
        space_group=experiments.space_group,
    )


def write(path: Path, stills: Stills) -> None:
    """Write `path` with the suffixes .refl and .expt: one experiment a crystal.

    The observations become summed intensities. The .expt file appears last, so a pair with an
    .expt is whole. Raises OutputError if the files cannot be written.
    """
    columns = _columns(stills)
    write_table(path.with_suffix(".refl"), columns, identifiers_of(stills.crystals))
    write_experiments(path.with_suffix(".expt"), stills)


def _columns(stills: Stills) -> dict[str, tuple[str, NDArray[Any]]]:
    """The columns that dials.scale, dials.export and this program read; lp and qe are 1 where the
    intensities are corrected, and not there where they are not."""
    obs, crystals = stills.observations, stills.crystals
    n, none = len(obs), np.zeros(len(obs))
    panel = np.zeros(n, dtype=np.int64) if obs.panel is None else obs.panel
    q = np.einsum("nij,nj->ni", crystals.A[obs.crystal], obs.hkl.astype(np.float64))
    s0 = crystals.beam / crystals.wavelength_A[:, None]
    with np.errstate(divide="ignore"):
        d = 1.0 / np.linalg.norm(q, axis=1)
    columns: dict[str, tuple[str, NDArray[Any]]] = {
        "miller_index": ("cctbx::miller::index<>", obs.hkl),
        "id": ("int", obs.crystal),
        "panel": ("std::size_t", panel),
        "flags": ("std::size_t", np.full(n, Flag.INTEGRATED_SUM)),
        "intensity.sum.value": ("double", obs.intensity),
        "intensity.sum.variance": ("double", obs.variance),
        "d": ("double", d),
        "s1": ("vec3<double>", q + s0[obs.crystal]),
        "entering": ("bool", np.zeros(n, dtype=bool)),
    }
    if obs.partiality is not None:
        columns["partiality"] = ("double", obs.partiality)
    if Correction.POLARISATION in stills.corrected:
        columns["lp"] = ("double", np.ones(n))
    if Correction.EFFICIENCY in stills.corrected:
        columns["qe"] = ("double", np.ones(n))
    if obs.x_px is not None and obs.y_px is not None:
        px = np.column_stack([obs.x_px, obs.y_px, none])
        columns["xyzobs.px.value"] = columns["xyzcal.px"] = ("vec3<double>", px)
        columns["xyzobs.px.variance"] = ("vec3<double>", np.full((n, 3), 1.0 / 12.0))
        if stills.detector is not None and len(stills.detector) > panel.max(initial=0):
            mm = px * np.column_stack([stills.detector.pixel_mm[panel], none])
            columns["xyzobs.mm.value"] = columns["xyzcal.mm"] = ("vec3<double>", mm)
    return columns


def existing_twin(path: Path, suffix: str) -> Path:
    """The file of this suffix beside a path. Raises InputError if it is missing."""
    member = path.with_suffix(suffix)
    if not member.is_file():
        raise InputError(
            f"'{member}' is missing: DIALS data are read as a pair, and '{path.name}' needs "
            f"'{member.name}' beside it. Copy or rename the missing file so that both have the "
            "same stem, or leave this one out with input.exclude."
        )
    return member


def _experiment_of_rows(
    table: ReflectionTable, experiments: Experiments, indexed: Mask, strict: bool
) -> Ints:
    """The experiment of every table row: −1 where not indexed, or where there is no experiment.

    Raises InputError if no indexed row has one, or, if strict, any has none.
    """
    ids, inverse = np.unique(table.column("id")[indexed], return_inverse=True)
    index_of = {name: i for i, name in enumerate(experiments.identifiers) if name}
    named = any(table.identifiers.values()) and bool(index_of)
    n = len(experiments.identifiers)
    of_id = np.array(
        [
            index_of.get(table.identifiers.get(i, ""), -1) if named else (i if 0 <= i < n else -1)
            for i in ids.tolist()
        ],
        dtype=np.int64,
    )
    lost = [str(i) for i in ids[of_id < 0].tolist()]
    if lost and (strict or len(lost) == len(ids)):
        shown = ", ".join(lost[:10]) + (" …" if len(lost) > 10 else "")
        raise InputError(
            f"'{table.path}' has rows of id {shown} that belong to no experiment of the "
            f"{n} in the .expt file beside it. The two files do not belong together: give the "
            ".expt file that was written with this table."
        )
    experiment = np.full(table.n_rows, -1, dtype=np.int64)
    experiment[indexed] = of_id[inverse]
    return experiment


def _optional(table: ReflectionTable, rows: Ints, wanted: frozenset[str]) -> dict[str, Any]:
    """The optional columns that are both wanted and there."""
    found: dict[str, Any] = {}
    if "partiality" in wanted and "partiality" in table.columns:
        found["partiality"] = table.columns["partiality"][rows].astype(np.float32)
    if "panel" in wanted and "panel" in table.columns:
        found["panel"] = table.columns["panel"][rows].astype(np.int16)
    positions = next((c for c in ("xyzobs.px.value", "xyzcal.px") if c in table.columns), None)
    if positions is not None:
        for name, axis in (("x_px", 0), ("y_px", 1)):
            if name in wanted:
                found[name] = table.columns[positions][rows, axis].astype(np.float32)
    return found


FORMAT = Format("DIALS", (".expt", ".refl"), read, write, peek.dials)
