"""Refined experiment lists and scaled observations, from the inputs of a job."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
import pytest
from rich.console import Console

from sfxproc.data import Crystals, Status, Stills
from sfxproc.formats import dials
from sfxproc.formats.dials_expt import read_experiments
from sfxproc.formats.hdf5 import write as write_h5
from sfxproc.formats.mtz_scaled import write_scaled
from sfxproc.intake.reading import Dataset, read_dataset
from sfxproc.intake.source import Intake
from sfxproc.lsq import Engine, LevenbergMarquardt, Loss, Point
from sfxproc.models.scale import ScaleModel
from sfxproc.models.scale_start import ScaleSettings, scale_problem
from sfxproc.parallel.chunks import ChunkSums
from sfxproc.parallel.comm import Comm, SerialComm
from sfxproc.report.log import ConsoleLog
from sfxproc.results import exports
from sfxproc.settings.sections import Input, Selection, Symmetry
from sfxproc.simulate.stills import StillsSettings, simulate_stills
from tests.problems import on_ranks

GROUP = "P 43 21 2"
N = 60
POSITIONS = frozenset({"x_px", "y_px"})
LEFT_OUT = [3, 25, 47]


@pytest.fixture(scope="module")
def stills() -> Stills:
    return simulate_stills(StillsSettings(n_crystals=N, d_min_A=3.0, seed=4)).stills


@pytest.fixture(scope="module")
def folder(
    stills: Stills, some: Callable[..., Stills], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Two experiment lists of one name and a file of another format."""
    made = tmp_path_factory.mktemp("exports")
    for name, rows in (("a/x", slice(0, 20)), ("b/x", slice(20, 40))):
        (made / name).parent.mkdir()
        dials.write(made / f"{name}.expt", some(stills, rows))
    write_h5(made / "c.h5", some(stills, slice(40, N)))
    return made


def read(folder: Path, *names: str, comm: Comm | None = None) -> Dataset:
    log = ConsoleLog(Console(file=io.StringIO()), speaks=False)
    intake = Intake(
        Input(paths=[str(folder / name) for name in names]),
        Symmetry(space_group=GROUP, ambiguity="ignore"),
        Selection(),
        POSITIONS,
    )
    return read_dataset(intake, SerialComm() if comm is None else comm, log)


def scaled(data: Dataset, comm: Comm | None = None) -> tuple[ScaleModel, Point]:
    engine = Engine(ChunkSums(SerialComm() if comm is None else comm, data.chunks))
    settings = ScaleSettings(
        b_factor=True, b_prior_A2=None, gain=None, variances="given", min_overlaps=3
    )
    problem = scale_problem(
        engine, data.observations, data.chunks.local_bounds, data.reflections, settings
    )
    result = LevenbergMarquardt(tolerance=1e-12).solve(engine, problem.model, problem.start)
    return result.model, result.model.centred(result.point)


# ---- refined experiment lists ------------------------------------------------------------------


def turned(data: Dataset) -> tuple[Dataset, Crystals]:
    """Crystals that are not as they were read, some left out."""
    status = data.status.copy()
    status[LEFT_OUT] = Status.LEFT_OUT
    data = replace(data, status=status)
    angle = 1e-3 * np.arange(len(data.crystals))
    R = np.tile(np.eye(3), (len(angle), 1, 1))
    R[:, 0, 0] = R[:, 1, 1] = np.cos(angle)
    R[:, 0, 1], R[:, 1, 0] = -np.sin(angle), np.sin(angle)
    return data, exports.refined_crystals(data, R @ data.crystals.A)


def write_refined(folder: Path, data: Dataset, crystals: Crystals) -> tuple[list[str], list[Path]]:
    """Names of the lists and, written, their paths."""
    names = exports.refined_names(data, crystals)
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
    exports.write_refined_experiments(paths, data, crystals)
    return names, paths


def test_one_list_for_each_and_one_for_the_rest(folder: Path, tmp_path: Path) -> None:
    data, refined = turned(read(folder, "a/x.expt", "b/x.expt", "c.h5"))
    assert np.flatnonzero(np.isnan(refined.A[:, 0, 0])).tolist() == LEFT_OUT
    names, written = write_refined(tmp_path, data, refined)
    assert names == ["refined/a/x.expt", "refined/b/x.expt", "refined.expt"]
    again = [read_experiments(path, "x").crystals for path in written]
    kept = np.setdiff1d(np.arange(N), LEFT_OUT)
    A = np.concatenate([c.A for c in again])
    np.testing.assert_allclose(A, refined.A[kept], rtol=0, atol=1e-15)
    assert np.concatenate([c.event for c in again]).tolist() == data.crystals.event[kept].tolist()
    symbols = [json.loads(p.read_text())["crystal"][0]["space_group_hall_symbol"] for p in written]
    assert symbols == ["P 1", "P 1", gemmi.SpaceGroup(GROUP).hall]


def test_a_single_list(folder: Path, tmp_path: Path) -> None:
    data = read(folder, "a/x.expt")
    wavelength = np.linspace(1.29, 1.31, 20)
    refined = exports.refined_crystals(data, data.crystals.A, wavelength)
    names, (path,) = write_refined(tmp_path, data, refined)
    assert names == ["refined.expt"]
    again = read_experiments(path, "x")
    np.testing.assert_array_equal(again.crystals.wavelength_A, wavelength)
    assert again.detector is not None


def test_all_crystals_of_a_list_left_out(folder: Path, tmp_path: Path) -> None:
    data = read(folder, "a/x.expt")
    refined = exports.refined_crystals(data, np.full((20, 3, 3), np.nan))
    _, (path,) = write_refined(tmp_path, data, refined)
    assert len(read_experiments(path, "x").crystals) == 0


# ---- scaled observations -----------------------------------------------------------------------


def unmerged(folder: Path, out: Path, comm: Comm | None = None) -> tuple[Dataset, Any]:
    """Written by rank 0; the data and what was gathered."""
    data = read(folder, "a/x.expt", "c.h5", comm=comm)
    model, point = scaled(data, comm)
    gathered = exports.gathered_observations(data, model, point, Loss())
    if gathered is not None:
        write_scaled(out / "unmerged.mtz", gathered, data.crystals, GROUP, data.cell)
    return data, gathered


def test_scaled_again_all_scales_are_one(folder: Path, tmp_path: Path) -> None:
    data, gathered = unmerged(folder, tmp_path)
    _, point = scaled(data)
    assert np.ptp(point.local[:, 0]) > 0.5  # there is something to scale
    again = read(tmp_path, "unmerged.mtz")
    assert len(again.observations) == len(data.observations) == len(gathered)
    np.testing.assert_allclose(again.cell, data.cell, rtol=1e-6)
    _, once_more = scaled(again)
    assert np.abs(once_more.local[:, 0]).max() < 2e-4
    assert np.abs(once_more.local[:, 1]).max() < 2e-3  # Å²
    np.testing.assert_array_equal(again.reflections.hkl, data.reflections.hkl)
    off = (once_more.shared - point.shared) / np.sqrt(np.mean(point.shared**2))
    assert np.abs(off).max() < 2e-4


def test_rows_are_the_observations(folder: Path, tmp_path: Path) -> None:
    """I_obs = I · FRACTIONCALC/SCALEUSED, with the index and the place where it was measured."""
    data, gathered = unmerged(folder, tmp_path)
    table = data.observations
    for name in ("crystal", "hkl", "x_px", "y_px"):
        np.testing.assert_array_equal(getattr(gathered, name), getattr(table, name))
    np.testing.assert_allclose(
        gathered.intensity * gathered.partiality / gathered.scale, table.intensity, rtol=1e-5
    )
    np.testing.assert_allclose((gathered.sigma / gathered.scale) ** 2, table.variance, rtol=1e-5)


def test_left_out_crystals_have_no_rows(folder: Path) -> None:
    data = read(folder, "c.h5")
    model, point = scaled(data)
    status = data.status.copy()
    status[5] = Status.LEFT_OUT
    found = exports.gathered_observations(replace(data, status=status), model, point, Loss())
    assert found is not None
    assert sorted({*range(20)} - {*found.crystal.tolist()}) == [5]


@pytest.mark.parametrize("size", [2, 3])
def test_the_same_file_from_any_number_of_ranks(size: int, folder: Path, tmp_path: Path) -> None:
    for name in ("one", "more"):
        (tmp_path / name).mkdir()
    unmerged(folder, tmp_path / "one")
    found = on_ranks(size, lambda comm: unmerged(folder, tmp_path / "more", comm)[1])
    assert [f is None for f in found] == [False] + [True] * (size - 1)
    one, more = ((tmp_path / name / "unmerged.mtz").read_bytes() for name in ("one", "more"))
    assert one == more
