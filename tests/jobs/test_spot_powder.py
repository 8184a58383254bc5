"""The spot-powder job as a user runs it."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from sfxproc.config import load
from sfxproc.formats.peak_lists import PeakList, read_peak_list, write_peak_list
from sfxproc.formats.spots import read_spots, write_spots
from sfxproc.powder.settings import SpotPeakSettings
from sfxproc.settings.spot_powder import SpotPowderConfig
from sfxproc.simulate.settings import SpotPowderSettings
from sfxproc.simulate.spot_powder import simulate_spots
from sfxproc.spots import SpotSet

JOB = Path(__file__).resolve().parents[2] / "jobs" / "spot_powder.toml"
SETTINGS = SpotPowderSettings(n_stills=300, lattice="oP")


@pytest.fixture(scope="module")
def spots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Spots of 300 stills in three files."""
    folder = tmp_path_factory.mktemp("spots")
    found, _ = simulate_spots(SETTINGS)
    for number in range(3):
        of_file = (found.spots.shot >= 100 * number) & (found.spots.shot < 100 * (number + 1))
        table = found.spots.take(of_file)
        columns = {**table.columns(), "shot": table.shot - np.int32(100 * number)}
        write_spots(folder / f"run{number}.h5", SpotSet(type(table)(**columns), 100, 0.075))
    return folder


def test_same_bits_at_any_number_of_ranks(
    spots: Path, command: Any, program: Any, sets: Any
) -> None:
    read = []
    for ranks in (1, 3):
        arguments = ("run", JOB, *sets("input.paths=run*.h5", f"output.folder=out{ranks}"))
        if ranks == 1:
            done = command(*arguments, cwd=spots)
        else:
            done = program(*arguments, cwd=spots, ranks=ranks)
        assert (done.status, done.err) == (0, "")
        folder = spots / f"out{ranks}"
        assert (folder / "DONE").exists()
        read.append([(folder / name).read_bytes() for name in ("peaks.txt", "powder.json")])
    assert read[0] == read[1]
    told = json.loads(read[0][1])
    assert told["n_images"] == 300
    lines = read_peak_list(spots / "out1" / "peaks.txt")
    assert len(lines.q2) >= 20
    np.testing.assert_allclose(lines.q2, told["lines"]["q2"], rtol=1e-8)
    assert lines.sigma is not None
    np.testing.assert_allclose(lines.sigma, told["lines"]["sigma"], rtol=1e-8)


def test_results_and_page(spots: Path, command: Any, sets: Any, tmp_path: Path) -> None:
    shutil.copy(spots / "run0.h5", tmp_path)
    shutil.copy(spots / "run1.h5", tmp_path)
    settings = sets('input.paths=["run0.h5", "run1.h5"]')
    done = command("run", JOB, *settings)
    assert done.status == 0, done.err
    assert done.out.endswith("Results are in 'out'.")
    page = (tmp_path / "out" / "powder.html").read_text(encoding="utf-8")
    drawn = json.loads(page.split('id="drawn">')[1].split("</script>")[0])
    assert [plot["id"] for plot in drawn] == ["first", "all"]
    assert {trace["name"] for trace in drawn[1]["data"]} == {
        "spots",
        "fitted",
        "background",
        "lines",
    }
    assert 'src="http' not in page
    config = load(tmp_path / "out" / "job.resolved.toml", (), SpotPowderConfig)
    assert config.input.paths == ["run0.h5", "run1.h5"]
    done = command("run", JOB, *settings)
    assert done.status == 2
    assert "exists and is not empty" in done.err
    assert "nothing to do" in command("run", JOB, *settings, "--resume").out
    assert command("run", JOB, *settings, "--overwrite").status == 0


def test_simulated(command: Any, sets: Any, tmp_path: Path) -> None:
    done = command("run", JOB, *sets("simulate.n_stills=200", "simulate.lattice=tP"))
    assert done.status == 0, done.err
    assert (tmp_path / "out" / "simulated.h5").exists()
    assert len(read_peak_list(tmp_path / "out" / "peaks.txt").q2) >= 8


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ((), ("input.paths is empty",)),
        (("simulate.n_stills=5",), ("too few for rings", "Give more stills")),
        (("simulate.n_stills=40", "peaks.significance=30"), ("lines above 30", "8 at least")),
        (("simulate.n_stills=40", "peaks.significanc=3"), ("did you mean 'peaks.significance'",)),
        (("simulate.n_stills=40", "input.paths=a.h5"), ("Both input.paths and a [simulate]",)),
        (("input.paths=a.h5",), ("a.h5",)),
    ],
)
def test_mistakes(
    settings: tuple[str, ...], parts: tuple[str, ...], command: Any, sets: Any, tmp_path: Path
) -> None:
    done = command("run", JOB, *sets(*settings))
    assert done.status == 2
    assert "Traceback" not in done.err
    for part in parts:
        assert part in done.err
    assert not (tmp_path / "out" / "DONE").exists()


def test_files_without_spots(command: Any, sets: Any, spots: Path, tmp_path: Path) -> None:
    found = read_spots(spots / "run0.h5")
    write_spots(tmp_path / "empty.h5", SpotSet(found.spots.take(slice(0)), 100, 0.075))
    done = command("run", JOB, *sets("input.paths=empty.h5"))
    assert done.status == 2
    assert "holds no spots. Find spots first" in done.err


@pytest.mark.parametrize(
    ("settings", "warning"),
    [
        (("simulate.centre_error_px=[8.0, 0.0]",), "raise peaks.centre_reach_mm"),
        (("peaks.least_sigma=0.5",), "20 of the first 20 lines"),
    ],
)
def test_doubtful_patterns(
    settings: tuple[str, ...], warning: str, command: Any, sets: Any, tmp_path: Path
) -> None:
    """A centre further off than it was looked for; lines as uncertain as half a ring is wide."""
    done = command("run", JOB, *sets("simulate.n_stills=300", "simulate.lattice=oP", *settings))
    assert done.status == 0, done.err
    assert "WARNING: " in done.out
    assert warning in done.out.partition("WARNING: ")[2]
    assert "WARNING: " in (tmp_path / "out" / "log.txt").read_text()


def test_check(command: Any, sets: Any, spots: Path) -> None:
    done = command("check", JOB, *sets("input.paths=run*.h5", "output.folder=new"), cwd=spots)
    assert done.status == 0, done.err
    assert done.out.endswith("The job is valid: 3 input files, results would go to 'new'.")
    done = command("check", JOB, *sets("simulate.n_stills=9", "output.folder=new"), cwd=spots)
    assert "9 stills would be simulated" in done.out
    done = command("check", JOB, *sets("input.paths=run*.h5", "output.folder=."), cwd=spots)
    assert done.status == 2
    assert "exists and is not empty" in done.err


def test_old_results_stay_until_there_are_new_ones(
    command: Any, sets: Any, spots: Path, tmp_path: Path
) -> None:
    shutil.copy(spots / "run0.h5", tmp_path)
    assert command("run", JOB, *sets("input.paths=run0.h5")).status == 0
    before = (tmp_path / "out" / "peaks.txt").read_bytes()
    settings = sets("input.paths=run0.h5", "peaks.significance=90")
    assert command("run", JOB, *settings, "--overwrite").status == 2
    assert (tmp_path / "out" / "peaks.txt").read_bytes() == before
    assert not (tmp_path / "out" / "DONE").exists()


def test_the_job_file_says_the_defaults() -> None:
    text = JOB.read_text()
    told = tomllib.loads(text)
    assert msgspec.convert(told["peaks"], SpotPeakSettings) == SpotPeakSettings()
    hidden = text[text.index("#[simulate]") :].replace("\n#", "\n").removeprefix("#")
    assert msgspec.convert(tomllib.loads(hidden)["simulate"], SpotPowderSettings) == (
        SpotPowderSettings()
    )
    shown = tomllib.loads(hidden)["simulate"]
    assert set(shown) == set(SpotPowderSettings.__struct_fields__)


def test_peak_lists_are_read_as_written(tmp_path: Path) -> None:
    q2 = np.linspace(0.01, 0.2, 12)
    lines = PeakList(q2, 1e-3 * q2, intensity=None)
    write_peak_list(tmp_path / "peaks.txt", lines, ("12 lines",))
    again = read_peak_list(tmp_path / "peaks.txt")
    np.testing.assert_allclose(again.q2, q2, rtol=1e-8)
    assert again.sigma is not None
    np.testing.assert_allclose(again.sigma, 1e-3 * q2, rtol=1e-8)
    assert again.intensity is None
    assert (tmp_path / "peaks.txt").read_text().startswith("# 12 lines\nq2 sigma\n")
