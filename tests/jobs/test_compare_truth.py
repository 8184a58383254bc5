"""`sfxproc compare --truth`: jobs on simulated data, scored against what was put in."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from rich.console import Console

from sfxproc.commands.compare_truth import compare_truth
from sfxproc.data import Merged, Status
from sfxproc.errors import DataError, InputError
from sfxproc.formats.frames import write_frames
from sfxproc.formats.mtz_merged import write_merged
from sfxproc.formats.truth import truth_path, write_truth
from sfxproc.simulate.sense import reindexing_of
from sfxproc.simulate.stills import Simulated, StillsSettings, simulate_stills
from sfxproc.symmetry import reindexed_hkl, space_group, unique_keys

HEXAGONAL = StillsSettings(
    n_crystals=40,
    space_group="P 63",
    unit_cell=(60.0, 60.0, 50.0, 90.0, 90.0, 120.0),
    d_min_A=4.0,
    partiality="sphere",
    orientation_error_mrad=0.5,
    gain=2.0,
    wrong_indexed_fraction=0.2,
    reindexed_fraction=0.5,
    reindexing="k,h,-l",
    recorded_cell_error_percent=0.1,
    seed=3,
)

Told = dict[str, Any]


def told_of(merged: Path, *truths: Path, **more: Any) -> Told:
    arguments = {"n_shells": 3, "d_min_A": None, "json_path": None, **more}
    return asdict(compare_truth(merged, truths, console=Console(quiet=True), **arguments))


@pytest.fixture(scope="module")
def made() -> Simulated:
    return simulate_stills(HEXAGONAL)


@pytest.fixture(scope="module")
def truth(made: Simulated, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("truth") / "a.truth.h5"
    write_truth(path, made.truth.columns(), msgspec.json.encode(HEXAGONAL).decode())
    return path


def write_ideal(path: Path, made: Simulated, triplet: str = "h,k,l") -> None:
    """The ideal merge as a merged MTZ, in a setting."""
    t = made.truth
    group, hkl = space_group("P 63"), reindexed_hkl(t.reflections.hkl, reindexing_of(triplet))
    seen = t.ideal_weight > 0
    safe = np.where(seen, t.ideal_weight, 1.0)
    I = np.where(seen, t.ideal_weighted / safe, np.nan)
    sigma = np.where(seen, 1 / np.sqrt(safe), np.nan)
    n = seen.astype(np.int32)
    keys = unique_keys(group, hkl, False)
    packed = [((keys >> (2 + shift)) & ((1 << 20) - 1)) - (1 << 19) for shift in (40, 20, 0)]
    table = replace(
        t.reflections,
        hkl=np.stack(packed, axis=1).astype(np.int16),
        intensity=I,
        sigma=sigma,
        n_observations=n,
    )
    write_merged(
        path,
        Merged(table, np.stack([I, I]), np.stack([sigma, sigma]), np.stack([n, n]), I, I),
        "P 63",
        np.array(HEXAGONAL.unit_cell),
        1.3,
    )


def frames(made: Simulated, path: Path, refined: bool = True, **columns: np.ndarray) -> None:
    """A frames.h5 of a perfect job that has brought all crystals into the setting of the truth."""
    t, n = made.truth, len(made.truth.number)
    crystals = made.stills.crystals
    other = np.where(t.reindexed)[0]
    A = crystals.A.copy()
    A[other] = A[other] @ np.linalg.inv(np.linalg.inv(reindexing_of("k,h,-l").matrix)).T
    crystals = replace(crystals, A=A)
    status = np.where(t.wrong, Status.LEFT_OUT, Status.USED)
    good = {
        "status": status,
        "reason": np.zeros(n, dtype=np.int8),
        "ln_G": t.ln_G + 7.0,
        "B_A2": t.B_A2 - 3.0,
        "sigma_ln_G": np.full(n, 0.01),
        "sigma_B_A2": np.full(n, 0.1),
    }
    if refined:
        good |= {"A_refined": t.A, "size": 1.1 * t.profile_radius}
    write_frames(path, crystals, good | columns, {}, None)


# ---- reflections -----------------------------------------------------------------------------


@pytest.mark.parametrize("triplet", ["h,k,l", "k,h,-l"])
def test_the_ideal_merge_is_as_good_as_itself(
    triplet: str, made: Simulated, truth: Path, tmp_path: Path
) -> None:
    """In either of the settings that crystals may be indexed in."""
    write_ideal(tmp_path / "merged.mtz", made, triplet)
    told = told_of(tmp_path / "merged.mtz", truth)
    overall = told["overall"]
    assert overall["n_common"] == told["n_ideal"] == np.sum(made.truth.ideal_weight > 0)
    assert overall["r_ratio"] == pytest.approx(1.0, abs=1e-4)
    assert [shell["r_ratio"] for shell in told["shells"]] == pytest.approx([1.0] * 3, abs=1e-4)
    assert overall["rms_z"] == pytest.approx(1.0, abs=0.15)
    assert overall["cc_star"] == pytest.approx(1.0)
    assert told["scale"]["k"] == pytest.approx(1.0, abs=0.05)
    assert told["crystals"] is None


def test_figures_are_written_and_limited(made: Simulated, truth: Path, tmp_path: Path) -> None:
    write_ideal(tmp_path / "merged.mtz", made)
    told = told_of(tmp_path / "merged.mtz", truth, d_min_A=5.0, json_path=tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text()) == told
    assert told["overall"]["d_min_A"] == pytest.approx(5.0, abs=0.02)
    assert told["overall"]["n_common"] < 0.6 * told["n_ideal"]


def test_a_truth_in_parts(made: Simulated, tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.truth.h5" for i in (0, 1)]
    for i, path in enumerate(paths):
        settings = msgspec.structs.replace(HEXAGONAL, n_crystals=20, first_crystal=20 * i)
        columns = simulate_stills(settings).truth.columns()
        write_truth(path, columns, msgspec.json.encode(settings).decode())
    write_ideal(tmp_path / "merged.mtz", made)
    frames(made, tmp_path / "frames.h5")
    told = told_of(tmp_path / "merged.mtz", *paths)
    assert told["overall"]["r_ratio"] == pytest.approx(1.0, abs=1e-4)
    assert told["crystals"]["n"] == 40
    with pytest.raises(DataError, match=r"20 of 40 crystals .* truth of each part"):
        told_of(tmp_path / "merged.mtz", paths[0])


def test_a_truth_of_other_data(made: Simulated, truth: Path, tmp_path: Path) -> None:
    merged = tmp_path / "merged.mtz"
    write_ideal(merged, made)
    frames(made, tmp_path / "frames.h5")
    for changes, text in (
        ({"seed": 4}, "named as in the truth, but the median one is turned by"),
        ({"first_crystal": 100}, r"not named as in the truth \('000100'"),
        ({"space_group": "P 1", "n_crystals": 1, "reindexed_fraction": 0.0}, "Laue class"),
    ):
        settings = msgspec.structs.replace(HEXAGONAL, **changes)
        other = tmp_path / "other.truth.h5"
        columns = simulate_stills(settings).truth.columns()
        write_truth(other, columns, msgspec.json.encode(settings).decode())
        with pytest.raises(DataError, match=text):
            told_of(merged, other)
    with pytest.raises(DataError, match="have no reflection in common"):
        told_of(merged, truth, d_min_A=100.0)
    with pytest.raises(InputError, match="holds frames"):
        told_of(merged, tmp_path / "frames.h5")


# ---- crystals --------------------------------------------------------------------------------


def test_crystals_against_the_truth(made: Simulated, truth: Path, tmp_path: Path) -> None:
    write_ideal(tmp_path / "merged.mtz", made)
    t, n = made.truth, len(made.truth.number)
    assert 3 < t.wrong.sum() < 15
    frames(made, tmp_path / "frames.h5")
    found = told_of(tmp_path / "merged.mtz", truth)["crystals"]
    n_right = int(np.sum(~t.wrong))
    counts = {
        "n": 40,
        "n_missing": 0,
        "n_compared": n_right,
        "right_left_out": 0,
        "wrong_left_out": 40 - n_right,
        "wrong_kept": 0,
        "other_setting": 0,
    }
    assert {name: found[name] for name in counts} == counts
    assert found["orientation_recorded_mrad"] == pytest.approx(0.5, rel=0.3)
    assert found["orientation_refined_mrad"] < 1e-6
    assert found["cell_recorded_percent"] == pytest.approx(0.1, rel=0.4)
    assert found["cell_refined_percent"] < 1e-9
    assert found["size_ratio"] == pytest.approx(1.1)
    for name in ("rms_ln_G", "pull_ln_G", "rms_B_A2", "pull_B_A2"):
        assert found[name] < 1e-9

    off = np.random.default_rng(1).normal(size=(2, n))
    status = np.where(t.wrong, Status.USED, Status.FIXED)
    status[0], status[~t.wrong] = Status.LEFT_OUT, Status.USED
    status[np.nonzero(~t.wrong)[0][:2]] = Status.LEFT_OUT
    frames(
        made,
        tmp_path / "frames.h5",
        refined=False,
        status=status,
        ln_G=t.ln_G + 0.02 * off[0],
        B_A2=t.B_A2 + 0.05 * off[1],
    )
    found = told_of(tmp_path / "merged.mtz", truth)["crystals"]
    assert found["right_left_out"] == 2
    assert found["wrong_kept"] + found["wrong_left_out"] == t.wrong.sum()
    assert found["n_compared"] == n_right - 2
    assert found["pull_ln_G"] == pytest.approx(2.0, rel=0.3)
    assert found["pull_B_A2"] == pytest.approx(0.5, rel=0.3)
    assert not {"orientation_refined_mrad", "size_ratio"} & set(found)


def test_crystals_in_the_other_setting_are_counted(
    made: Simulated, truth: Path, tmp_path: Path
) -> None:
    t = made.truth
    frames(made, tmp_path / "frames.h5")
    write_ideal(tmp_path / "merged.mtz", made, "k,h,-l")
    found = told_of(tmp_path / "merged.mtz", truth)["crystals"]
    assert found["other_setting"] == found["n_compared"] == np.sum(~t.wrong)


def test_equivalent_orientations_are_no_error(made: Simulated, truth: Path, tmp_path: Path) -> None:
    """A job may name the axes by any rotation of the Laue group."""
    turned = made.truth.A @ np.linalg.inv(reindexing_of("-h-k,h,l").matrix).T
    frames(made, tmp_path / "frames.h5", A_refined=turned)
    write_ideal(tmp_path / "merged.mtz", made)
    found = told_of(tmp_path / "merged.mtz", truth)["crystals"]
    assert found["orientation_refined_mrad"] < 1e-6


# ---- jobs ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scaled(program: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a job that simulates its input."""
    folder = tmp_path_factory.mktemp("job")
    (folder / "job.toml").write_text(
        'job = "scale"\n[symmetry]\nspace_group = "P 43 21 2"\n'
        "[simulate]\nn_crystals = 80\nd_min_A = 3.2\nseed = 2\n"
    )
    done = program("run", "job.toml", cwd=folder)
    assert (done.status, done.err) == (0, "")
    assert "`sfxproc compare out/merged.mtz --truth out/simulated.truth.h5`" in done.out
    return folder / "out"


def test_a_job_that_simulates_can_be_scored(scaled: Path) -> None:
    merged = scaled / "merged.mtz"
    told = told_of(merged, truth_path(scaled / "simulated.h5"))
    overall, crystals = told["overall"], told["crystals"]
    assert overall["n_common"] == told["n_ideal"] > 2000
    assert 0.99 < overall["r_ratio"] < 1.06
    assert overall["r"] < 0.02
    assert overall["rms_z"] == pytest.approx(1.0, abs=0.06)
    assert abs(overall["cc"] - overall["cc_star"]) < 4 * overall["sigma_cc"]
    assert crystals["n_compared"] == 80
    assert crystals["orientation_recorded_mrad"] < 1e-9
    assert crystals["pull_ln_G"] == pytest.approx(1.0, abs=0.25)
    assert crystals["pull_B_A2"] == pytest.approx(1.0, abs=0.25)
    assert "size_ratio" not in crystals


def test_the_command_prints_tables_and_a_sentence(
    scaled: Path, program: Any, tmp_path: Path
) -> None:
    for name in ("merged.mtz", "frames.h5"):
        shutil.copy(scaled / name, tmp_path)
    truth = str(scaled / "simulated.truth.h5")
    done = program("compare", "merged.mtz", "--truth", truth, "--json", "a.json", cwd=tmp_path)
    assert (done.status, done.err) == (0, "")
    for part in ("in P 43 21 2", "Crystals of frames.h5", "times that of the ideal merge", "CC*"):
        assert part in " ".join(done.out.split())
    assert json.loads((tmp_path / "a.json").read_text())["overall"]["r_ratio"] < 1.06
