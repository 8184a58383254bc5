"""The scaling job from files to results, run as a user runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gemmi
import h5py
import numpy as np
import pytest

from sfxproc.data import Stills
from sfxproc.formats.crystfel_hkl import read_hkl
from sfxproc.formats.hdf5 import write as write_h5
from sfxproc.simulate.stills import Simulated, StillsSettings, simulate_stills

FILES = {
    "merged.mtz", "merged.hkl", "half1.mtz", "half2.mtz", "half1.hkl", "half2.hkl", "frames.h5",
    "statistics.json", "job.resolved.toml", "log.txt", "report.html", "manifest.json", "DONE",
}  # fmt: skip
SHELL = {
    "d_max_A", "d_min_A", "n_unique", "n_possible", "completeness", "multiplicity",
    "mean_i_over_sigma", "cc_half", "cc_star", "r_split", "cc_reference",
}  # fmt: skip
MERGED = "H:H K:H L:H IMEAN:J SIGIMEAN:Q N:I"
SIDES = "I(+):K SIGI(+):M I(-):K SIGI(-):M N(+):I N(-):I"
AMPLITUDES = "F:F SIGF:Q"
AMPLITUDE_SIDES = "F(+):G SIGF(+):L F(-):G SIGF(-):L DANO:D SIGDANO:Q"
FREE = "FreeR_flag:I"
HALVES = "IHALF1:J SIGIHALF1:Q IHALF2:J SIGIHALF2:Q NHALF1:R NHALF2:R"

Scale = Callable[..., Any]
TINY = StillsSettings(n_crystals=12, d_min_A=5.0)


def columns(path: Path) -> str:
    return " ".join(f"{c.label}:{c.type}" for c in gemmi.read_mtz_file(str(path)).columns)


# ---- what is written -------------------------------------------------------------------------


def test_all_files_are_there_and_no_other(base: Any) -> None:
    assert {p.name for p in base.folder.iterdir()} == FILES
    assert (base.folder / "DONE").read_text() == ""


def test_merged_and_half_sets_have_the_documented_columns(base: Any) -> None:
    assert columns(base.folder / "merged.mtz") == f"{MERGED} {AMPLITUDES} {FREE} {HALVES}"
    for half in ("1", "2"):
        assert columns(base.folder / f"half{half}.mtz") == MERGED
        mtz = gemmi.read_mtz_file(str(base.folder / f"half{half}.mtz"))
        given = np.array(mtz.column_with_label("IMEAN"))
        np.testing.assert_array_equal(given, base.merged[f"IHALF{half}"])
    n_halves = base.merged["NHALF1"] + base.merged["NHALF2"]
    np.testing.assert_array_equal(n_halves, base.merged["N"])


def test_merged_follows_the_truth(base: Any, small: Simulated) -> None:
    mtz = gemmi.read_mtz_file(str(base.folder / "merged.mtz"))
    assert mtz.spacegroup.hm == "P 43 21 2"
    assert mtz.cell.parameters == pytest.approx((79.1, 79.1, 38.2, 90, 90, 90), abs=1e-4)
    true = small.truth.reflections
    wanted = {tuple(h): i for h, i in zip(true.hkl.tolist(), true.intensity, strict=True)}
    hkl = mtz.make_miller_array().tolist()
    ratio = base.merged["IMEAN"] / np.array([wanted[tuple(h)] for h in hkl])
    strong = base.merged["IMEAN"] > 10 * base.merged["SIGIMEAN"]
    assert strong.sum() > 1000
    assert np.std(ratio[strong]) < 0.06
    assert base.statistics["overall"]["cc_half"] > 0.998


def test_hkl_lists_hold_the_same_as_the_mtz(base: Any) -> None:
    for name, label in (("merged", "IMEAN"), ("half1", "IHALF1"), ("half2", "IHALF2")):
        hkl, intensity, _, n = read_hkl(base.folder / f"{name}.hkl")
        kept = np.isfinite(base.merged[label])
        np.testing.assert_allclose(intensity, base.merged[label][kept], atol=0.0051, rtol=1e-6)
        expected = base.merged["N" if name == "merged" else f"N{label[1:]}"][kept]
        np.testing.assert_array_equal(n, expected)
        np.testing.assert_array_equal(hkl[:, 0], base.merged["H"][kept])


def test_frames_tell_every_crystal(base: Any, small: Simulated) -> None:
    frames = base.frames
    asked = (
        "identity", "status", "reason", "n_observations", "ln_G", "sigma_ln_G", "B_A2",
        "sigma_B_A2", "cc_to_merge",
    )  # fmt: skip
    assert set(asked) <= set(frames)
    assert {len(frames[name]) for name in asked} == {60}
    assert frames["identity"][3] == b"simulated//000003"
    assert set(frames["status"]) == {b"used"}
    assert set(frames["reason"]) == {b"none"}
    counts = np.bincount(small.stills.observations.crystal)
    np.testing.assert_array_equal(frames["n_observations"], counts)
    for name, truth in (("ln_G", small.truth.ln_G), ("B_A2", small.truth.B_A2)):
        off = (frames[name] - np.mean(frames[name])) - (truth - np.mean(truth))
        assert np.sqrt(np.mean((off / frames[f"sigma_{name}"]) ** 2)) < 1.4
        assert abs(np.mean(frames[name])) < 1e-9  # the gauge
    assert np.all(frames["cc_to_merge"] > 0.9)
    with h5py.File(base.folder / "frames.h5") as handle:
        assert handle.attrs["space_group"] == "P 43 21 2"


def test_statistics(base: Any, small: Simulated) -> None:
    told = base.statistics
    n = len(small.stills.observations)
    assert set(told["overall"]) >= SHELL
    assert len(told["shells"]) == 10
    assert all(set(shell) >= SHELL for shell in told["shells"])
    assert sum(s["n_unique"] for s in told["shells"]) == told["overall"]["n_unique"]
    assert told["overall"]["n_unique"] == len(base.merged["IMEAN"])
    assert told["overall"]["multiplicity"] == pytest.approx(n / len(base.merged["IMEAN"]))
    assert told["observations"] == {"read": n, "used": n, "left_out": {}}
    crystals = {"n_images": 60, "n_crystals": 60, "status": {"used": 60}, "reasons": {}}
    assert told["crystals"] == crystals
    assert told["solver"]["method"] == "schur-cg"
    assert told["solver"]["converged"] is True
    assert told["solver"]["n_residuals"] == n
    assert told["solver"]["chi2_per_dof"] == pytest.approx(1.0, abs=0.05)


def test_the_log_tells_the_job_and_has_no_empty_tables(base: Any) -> None:
    text = (base.folder / "log.txt").read_text()
    for part in ("60 crystals (60 used)", "Converged", "CC½", "Results are in 'base'"):
        assert part in text
    assert "left out" not in text  # no empty tables


# ---- inputs ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "of_sigma"),
    [("small.expt", 1e-5), ("small.mtz", 1e-5), ("small.stream", 0.02)],  # two decimals
)
def test_every_format_gives_the_same(
    name: str, of_sigma: float, job: Path, program: Any, sets: Any, results: Any,
    base: Any,
) -> None:  # fmt: skip
    done = program("run", job, *sets(f"input.paths={name}"), cwd=job.parent)
    assert (done.status, done.err) == (0, "")
    found = results(job.parent / "out")
    for label in ("H", "K", "L", "N"):
        np.testing.assert_array_equal(found.merged[label], base.merged[label])
    off = (found.merged["IMEAN"] - base.merged["IMEAN"]) / base.merged["SIGIMEAN"]
    assert np.abs(off).max() < of_sigma
    ours, theirs = found.statistics["overall"], base.statistics["overall"]
    for key in ("n_unique", "n_possible", "completeness", "multiplicity"):
        assert ours[key] == theirs[key]
    for key in ("mean_i_over_sigma", "r_meas"):
        assert ours[key] == pytest.approx(theirs[key], rel=of_sigma)
    # half sets go by identity, which depends on the format
    assert ours["cc_half"] == pytest.approx(theirs["cc_half"], abs=1e-3)


def test_parts_by_glob_list_and_name_are_the_whole(
    job: Path, scale: Scale, base: Any, command: Any, sets: Any
) -> None:
    (job.parent / "parts.lst").write_text("# the run\npart0.h5\npart1.h5\n\npart2.h5\n")
    globbed = scale("a", "input.paths=part*.h5")
    listed = scale("b", "input.paths=parts.lst")
    for found in (globbed, listed):
        for name in ("intensity", "sigma", "n_observations"):
            np.testing.assert_array_equal(found.master[name], base.master[name])
        np.testing.assert_array_equal(found.frames["ln_G"], base.frames["ln_G"])
    fewer = scale("c", "input.paths=part*.h5", 'input.exclude=["part1.h5"]')
    assert fewer.statistics["crystals"]["n_crystals"] == 25


def test_check_tells_the_inputs_and_writes_nothing(job: Path, command: Any, sets: Any) -> None:
    done = command("check", job, *sets("input.paths=part*.h5"))
    assert done.status == 0
    for part in ("part0.h5 native HDF5", "3 input files", "results would go to 'out'"):
        assert part in done.out
    assert not (job.parent / "out").exists()


def test_a_resolved_job_gives_the_same_bits(
    job: Path, program: Any, command: Any, base: Any, results: Any
) -> None:
    resolved = base.folder / "job.resolved.toml"
    text = resolved.read_text()
    assert "sfxproc 0" in text
    assert f"small.h5 ({(job.parent / 'small.h5').stat().st_size:,} bytes)" in text
    done = command("run", resolved, "--set", "output.folder=again")
    assert done.status == 0, done.err
    again = results(job.parent / "again")
    for name, values in base.frames.items():
        np.testing.assert_array_equal(again.frames[name], values, err_msg=name)
    for name, values in base.master.items():
        np.testing.assert_array_equal(again.master[name], values, err_msg=name)
    for name in ("merged.mtz", "half1.mtz", "half2.mtz", "merged.hkl"):
        assert (again.folder / name).read_bytes() == (base.folder / name).read_bytes(), name


def test_resolved_names_both_files_of_a_pair(job: Path, scale: Scale) -> None:
    found = scale("out", "input.paths=small.refl")
    text = (found.folder / "job.resolved.toml").read_text()
    assert "small.expt (" in text
    assert "small.refl (" in text


# ---- settings --------------------------------------------------------------------------------


def test_limits_of_resolution(scale: Scale, small: Simulated) -> None:
    found = scale("out", "selection.d_min_A=3.5", "selection.d_max_A=15")
    overall, left_out = found.statistics["overall"], found.statistics["observations"]["left_out"]
    assert overall["d_min_A"] == pytest.approx(3.5, rel=1e-5)
    assert overall["d_max_A"] == pytest.approx(15, rel=1e-5)
    assert set(left_out) == {"below d min", "above d max"}
    used = found.statistics["observations"]["used"]
    assert used + sum(left_out.values()) == len(small.stills.observations)
    d_A = 0.5 / np.sqrt(found.master["s2"])
    assert d_A.min() >= 3.5
    assert d_A.max() <= 15


def test_anomalous(job: Path, scale: Scale) -> None:
    settings = StillsSettings(n_crystals=60, d_min_A=3.5, anomalous_fraction=0.3)
    write_h5(job.parent / "anomalous.h5", simulate_stills(settings).stills)
    found = scale("out", "input.paths=anomalous.h5", "symmetry.anomalous=true")
    expected = f"{MERGED} {SIDES} {AMPLITUDES} {AMPLITUDE_SIDES} {FREE} {HALVES}"
    assert columns(found.folder / "merged.mtz") == expected
    n = found.merged["N(+)"] + found.merged["N(-)"]
    np.testing.assert_array_equal(n, found.merged["N"])
    assert found.statistics["anomalous"] is True
    assert found.statistics["overall"]["cc_anom"] > 0.7
    assert "CCano" in (found.folder / "log.txt").read_text()
    merged = scale("mean", "input.paths=anomalous.h5").statistics["overall"]
    assert "cc_anom" not in merged
    assert merged["n_unique"] == found.statistics["overall"]["n_unique"]


def test_recorded_partialities(job: Path, scale: Scale) -> None:
    settings = StillsSettings(n_crystals=60, d_min_A=3.5, partiality="sphere")
    simulated = simulate_stills(settings)
    write_h5(job.parent / "partial.h5", simulated.stills)
    wanted = ("input.paths=partial.h5", 'scaling.partiality="recorded"')
    used = scale("recorded", *wanted, "selection.min_partiality=0.2")
    ignored = scale("ignored", "input.paths=partial.h5")
    low = int(np.sum(simulated.stills.observations.partiality <= np.float32(0.2)))
    assert used.statistics["observations"]["left_out"] == {"partiality too low": low}
    assert used.statistics["overall"]["r_split"] < 0.4 * ignored.statistics["overall"]["r_split"]
    assert used.statistics["error_model"]["scatter"] < 0.05
    assert ignored.statistics["error_model"]["scatter"] > 0.3


def test_counting_error_model_has_no_scatter(scale: Scale) -> None:
    found = scale("out", "scaling.error_model=counting")
    assert found.statistics["error_model"]["scatter"] == 0.0


def test_robust_losses_stand_outliers(job: Path, scale: Scale) -> None:
    settings = StillsSettings(n_crystals=60, d_min_A=3.5, outlier_fraction=0.03)
    simulated = simulate_stills(settings)
    write_h5(job.parent / "spoilt.h5", simulated.stills)
    error = {}
    for loss in ("none", "huber", "cauchy"):
        found = scale(loss, "input.paths=spoilt.h5", f"scaling.loss={loss}")
        off = found.frames["ln_G"] - simulated.truth.ln_G
        error[loss] = float(np.std(off))
    assert error["huber"] < 0.8 * error["none"]
    assert error["cauchy"] < 0.8 * error["none"]


def test_dense_and_conjugate_gradients_agree(job: Path, scale: Scale) -> None:
    write_h5(job.parent / "tiny.h5", simulate_stills(TINY).stills)
    tight = ("input.paths=tiny.h5", "solver.tolerance=1e-14", "scaling.error_model=counting")
    found = [scale(m, *tight, f"solver.method={m}") for m in ("schur-cg", "lm-dense-stepwise")]
    intensity = [f.master["intensity"] for f in found]
    np.testing.assert_allclose(intensity[0], intensity[1], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found[0].frames["ln_G"], found[1].frames["ln_G"], atol=1e-6)
    assert found[1].statistics["solver"]["method"] == "lm-dense-stepwise"


def test_without_b_factors(scale: Scale) -> None:
    found = scale("out", "scaling.b_factor=false")
    np.testing.assert_array_equal(found.frames["B_A2"], 0.0)
    assert np.std(found.frames["ln_G"]) > 0.1


def test_too_few_iterations_are_said(scale: Scale) -> None:
    found = scale("out", "solver.max_iterations=1")
    assert found.statistics["solver"]["converged"] is False
    text = (found.folder / "log.txt").read_text()
    assert "raise solver.max_iterations" in text
    assert "did NOT converge" in text


# ---- what is left out is counted -------------------------------------------------------------


def test_crystals_and_observations_left_out_are_counted(
    small: Simulated, job: Path, scale: Scale
) -> None:
    stills = small.stills
    obs, crystals = stills.observations, stills.crystals
    counts = np.bincount(obs.crystal)
    intensity, variance = obs.intensity.copy(), obs.variance.copy()
    intensity[:4] = np.nan
    variance[4:9] = 0.0
    variance[9:12] = -1.0
    variance[12] = np.inf
    cell = crystals.cell.copy()
    cell[7, 0] *= 1.2
    cell[8] = np.nan
    hkl = obs.hkl.copy()
    hkl[20] = (0, 0, 5)  # absent in P 43 21 2
    few = np.flatnonzero(obs.crystal == 9)
    kept = np.ones(len(obs), dtype=bool)
    kept[few[2:]] = False
    changed = replace(obs, intensity=intensity, variance=variance, hkl=hkl).take(kept)
    spoilt = Stills(replace(crystals, cell=cell), changed, n_images=60)
    write_h5(job.parent / "spoilt.h5", spoilt)
    found = scale("out", "input.paths=spoilt.h5", "symmetry.unit_cell=[79.1,79.1,38.2,90,90,90]")
    told = found.statistics
    assert told["observations"]["left_out"] == {
        "crystal left out": counts[7] + counts[8] + 2,
        "not finite": 5,
        "variance not positive": 8,
        "systematic absence": 1,
    }
    assert told["observations"]["read"] == len(changed)
    assert told["crystals"]["status"] == {"used": 57, "left_out": 3}
    assert told["crystals"]["reasons"] == {
        "cell off target": 1,
        "no orientation": 1,
        "too few observations": 1,
    }
    status = [s.decode() for s in found.frames["status"][7:10]]
    reason = [s.decode() for s in found.frames["reason"][7:10]]
    assert status == ["left out"] * 3
    assert reason == ["cell off target", "no orientation", "too few observations"]
    assert np.isnan(found.frames["ln_G"][7:10]).all()
    assert np.isfinite(np.delete(found.frames["ln_G"], [7, 8, 9])).all()
    assert np.isfinite(found.merged["IMEAN"]).all()
    text = (found.folder / "log.txt").read_text()
    for title in ("Observations left out\n", "Crystals left out\n"):
        assert title in text


def test_a_crystal_without_overlaps_or_signal_keeps_its_start_scale(
    small: Simulated, job: Path, scale: Scale
) -> None:
    stills = small.stills
    intensity = stills.observations.intensity.copy()
    intensity[stills.observations.crystal == 5] = -3.0
    write_h5(
        job.parent / "dark.h5",
        replace(stills, observations=replace(stills.observations, intensity=intensity)),
    )
    found = scale("out", "input.paths=dark.h5")
    assert found.frames["status"][5] == b"fixed"
    assert found.frames["reason"][5] == b"no signal"
    assert found.statistics["crystals"]["reasons"] == {"no signal": 1}
    assert "1 crystals keep their start scale" in " ".join(
        (found.folder / "log.txt").read_text().split()
    )
