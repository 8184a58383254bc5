"""What a job writes for other programs: refined experiment lists, scaled observations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Crystals, Status
from sfxproc.formats import dials
from sfxproc.formats.dials_expt import write_models, write_refined
from sfxproc.formats.inputs import InputFile
from sfxproc.formats.mtz_scaled import ScaledObservations
from sfxproc.intake.reading import Dataset
from sfxproc.intake.selection import Inventory
from sfxproc.lsq import Loss, Point
from sfxproc.models.scale import ScaleModel
from sfxproc.models.scaled_rows import scaled_rows
from sfxproc.runs.names import REFINED, REFINED_FOLDER

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


def refined_names(data: Inventory, crystals: Crystals) -> list[str]:
    """Names of the DIALS experiment lists of the crystals, relative to the output folder.

    crystals : from `refined_crystals`. Each input `.expt` is written again, as `refined.expt` if it
    is the only input, otherwise below `refined/` by its label, which no other input has. Crystals
    of all other inputs go to one `refined.expt`.
    """
    lists = _experiment_lists(data)
    names = [REFINED] * len(lists)
    if len(data.files) > 1:
        names = [REFINED_FOLDER + file.label.lstrip("/") for file in lists]
    return names + [REFINED] * bool(np.any(_elsewhere(data, crystals)))


def write_refined_experiments(paths: Sequence[Path], data: Inventory, crystals: Crystals) -> None:
    """Write the crystals as DIALS experiment lists, on one rank.

    paths : for each of `refined_names`. Crystals that are in no input `.expt` have the job's
    detector. Raises OutputError, and InputError for an input that can no longer be read.
    """
    oriented = _oriented(crystals)
    lists = _experiment_lists(data)
    for path, file in zip(paths, lists, strict=False):
        own = np.asarray(crystals.file == file.label)
        write_refined(path, file.path, crystals.take(own & oriented))
    for path in paths[len(lists) :]:
        others = crystals.take(_elsewhere(data, crystals))
        write_models(path, others, data.detector, data.space_group.hm)


def _experiment_lists(data: Inventory) -> list[InputFile]:
    return [file for file in data.files if file.format is dials.FORMAT]


def _oriented(crystals: Crystals) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(crystals.A).all(axis=(1, 2)))


def _elsewhere(data: Inventory, crystals: Crystals) -> NDArray[np.bool_]:
    """Which crystals have an orientation, but no experiment list that they came from."""
    labels = {file.label for file in _experiment_lists(data)}
    inside = np.array([label in labels for label in crystals.file.tolist()], dtype=bool)
    return np.asarray(_oriented(crystals) & ~inside)


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
    columns = (rows.intensity, rows.sigma, rows.scale, rows.partiality, rows.weight, *positions)
    sums = model.engine.sums
    crystal = sums.gathered((rows.crystal + own.start).astype(np.int32))
    hkl = sums.gathered(np.ascontiguousarray(table.hkl))
    values = sums.gathered(np.stack(columns, axis=1).astype(np.float32, copy=False))
    if crystal is None or hkl is None or values is None:
        return None
    return ScaledObservations(crystal, hkl, *values.T)
