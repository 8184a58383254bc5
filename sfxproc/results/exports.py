"""What a job writes for other programs: refined experiment lists, scaled observations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Crystals, Status
from sfxproc.errors import OutputError
from sfxproc.formats import dials
from sfxproc.formats.dials_expt import write_models, write_refined
from sfxproc.formats.mtz_scaled import ScaledObservations, write_scaled
from sfxproc.intake.reading import Dataset
from sfxproc.intake.selection import Inventory
from sfxproc.lsq import Loss, Point
from sfxproc.models.scale import ScaleModel
from sfxproc.models.scaled_rows import scaled_rows
from sfxproc.runs.folder import REFINED, REFINED_FOLDER, UNMERGED

F8 = NDArray[np.float64]
F4 = NDArray[np.float32]


def refined_crystals(data: Inventory, A_refined: F8, wavelength_A: F8 | None = None) -> Crystals:
    """The crystals as refined; A is NaN where one was left out.

    A_refined : (n_crystals, 3, 3), Å⁻¹. wavelength_A : (n_crystals,) if refined.
    """
    left_out = data.status == Status.LEFT_OUT
    A = np.where(left_out[:, None, None], np.nan, A_refined)
    wavelength = data.crystals.wavelength_A if wavelength_A is None else wavelength_A
    return replace(data.crystals, A=A, wavelength_A=wavelength)


def write_refined_experiments(folder: Path, data: Inventory, crystals: Crystals) -> list[Path]:
    """Write the crystals as DIALS experiment lists, on one rank, and return the paths.

    crystals : from `refined_crystals`. Each input `.expt` is written again, as `refined.expt` if it
    is the only input, otherwise below `refined/` by its label, which no other input has. Crystals
    of all other inputs go to one `refined.expt`, with the job's detector. Raises OutputError, and
    InputError for an input that can no longer be read.
    """
    oriented = np.isfinite(crystals.A).all(axis=(1, 2))
    others = np.ones(len(crystals), dtype=bool)
    written = []
    for file in data.files:
        if file.format is not dials.FORMAT:
            continue
        own = np.asarray(crystals.file == file.label)
        others &= ~own
        path = folder / REFINED
        if len(data.files) > 1:
            path = folder / REFINED_FOLDER / file.label.lstrip("/")
        _make_folder(path.parent)
        write_refined(path, file.path, crystals.take(own & oriented))
        written.append(path)
    if np.any(others & oriented):
        path = folder / REFINED
        write_models(path, crystals.take(others & oriented), data.detector, data.space_group.hm)
        written.append(path)
    return written


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"Cannot make the folder '{folder}' for refined experiment lists "
            f"({error.strerror or error}). Remove what is in its way, or choose another "
            "output.folder."
        ) from error


def gathered_observations(
    data: Dataset, model: ScaleModel, point: Point, loss: Loss
) -> ScaledObservations | None:
    """All scaled observations of the job in the order of its crystals, on rank 0; None elsewhere.

    model, point : in the final gauge, with the partialities of the point.
    """
    own = data.chunks.crystals
    rows = scaled_rows(model, point, loss, data.status[own] != Status.LEFT_OUT)
    table = data.observations.take(rows.row)
    positions = () if table.x_px is None or table.y_px is None else (table.x_px, table.y_px)
    columns = (
        rows.intensity, rows.sigma, rows.scale, rows.partiality, rows.weight, *positions
    )  # fmt: skip
    sums = model.engine.sums
    crystal = sums.gathered((rows.crystal + own.start).astype(np.int32))
    hkl = sums.gathered(np.ascontiguousarray(table.hkl))
    values = sums.gathered(np.stack(columns, axis=1).astype(np.float32, copy=False))
    if crystal is None or hkl is None or values is None:
        return None
    return ScaledObservations(crystal, hkl, *values.T)


def write_unmerged(
    folder: Path,
    data: Inventory,
    observations: ScaledObservations,
    crystals: Crystals,
    history: Sequence[str] = (),
) -> Path:
    """Write `unmerged.mtz`, on one rank. crystals : of the job, as refined. Raises OutputError."""
    path = folder / UNMERGED
    write_scaled(path, observations, crystals, data.space_group.hm, data.cell, history)
    return path
