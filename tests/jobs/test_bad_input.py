"""Every mistake in settings, paths and folders ends with one message, status 2, no results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

# ---- settings --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        (("scaling.los=huber",), ("unknown key 'scaling.los'", "did you mean 'scaling.loss'?")),
        (("scalling.loss=huber",), ("unknown key 'scalling'", "scaling")),
        (("scaling.loss=hubr",), ("scaling.loss", '"cauchy", "huber", "none"')),
        (("selection.d_min_A=-1",), ("selection.d_min_A = -1", "above 0")),
        (("selection.d_min_A=low",), ("selection.d_min_A", "must be a number")),
        (("parallel.threads=-1",), ("parallel.threads = -1", "at least 0")),
        (("solver.method=cg",), ('solver.method = "cg"', '"schur-cg"', '"lm-sparse"')),
        (("symmetry.space_group=P9",), ("space_group", "'P9'", "1 to 230")),
        (("symmetry.space_group=P 43 21 3",), ("'P 43 21 3'", 'Did you mean "P 43 21 2"')),
        (("symmetry.space_group=P63",), ("P 63", "requires γ = 120°", "Correct space_group")),
        (("symmetry.unit_cell=[79,79,38]",), ("unit_cell", "Give six positive numbers")),
        (
            ("symmetry.unit_cell=[79,85,38,90,90,90]",),
            ("79 85 38", "P 43 21 2", "requires a = b"),
        ),
        (
            ("symmetry.unit_cell=[120,120,60,90,90,90]",),
            ("None of the 60 crystals", "120.00", "79.10", "symmetry.length_tolerance_percent"),
        ),
        (
            ("selection.d_min_A=4", "selection.d_max_A=4"),
            ("selection.d_max_A = 4", "selection.d_min_A = 4", "no reflection would be left"),
        ),
        (
            ("selection.d_min_A=1.5",),
            ("selection.d_min_A = 1.5", "beyond the data", "3.00 Å", "Set selection.d_min_A"),
        ),
        (("selection.d_max_A=2",), ("No usable observation", "above d max", "[selection]")),
        (
            ("selection.min_observations=5000",),
            ("too few observations 60", "[selection]"),
        ),
        (
            ("scaling.min_overlaps=5000",),
            ("No crystal has enough reflections in common", "scaling.min_overlaps"),
        ),
        (
            ("selection.min_partiality=0.2",),
            ("selection.min_partiality = 0.2", 'scaling.partiality = "recorded"'),
        ),
        (
            ("scaling.partiality=recorded",),
            ("small.h5' has no column partiality", 'scaling.partiality = "ignore"'),
        ),
        (("simulate.n_crystals=5",), ("input.paths", "[simulate]", "Remove")),
        (("output.folder.x=1",), ("output.folder", "--set output.folder.x=1")),
        (("nonsense",), ("--set nonsense", "expected key=value")),
        (("=3",), ("--set =3", "expected key=value")),
        (('input.paths=["a.h5"',), ("is not a TOML value", "Quote texts")),
        (("job=scael",), ('no job "scael"', 'did you mean "scale"?')),
    ],
    ids=lambda v: v[0][:40] if isinstance(v, tuple) else None,
)
def test_settings(settings: tuple[str, ...], parts: tuple[str, ...], refused: Any) -> None:
    message = refused(*settings)
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "the kind of job is missing"),
        ('job = "scale"\n', "symmetry.space_group is missing"),
        ('job = "scale"\n[symmetry\n', "line 2"),
        ('job = "scale"\n[symmetry]\nspace_group = "P 1"\n', "input.paths is empty"),
    ],
)
def test_job_files(text: str, part: str, job: Path, refused: Any) -> None:
    job.write_text(text)
    assert part in refused()


def test_a_missing_job_file_and_its_neighbours(command: Any, job: Path) -> None:
    done = command("run", "jop.toml")
    assert done.status == 2
    assert "'jop.toml' does not exist" in done.err
    assert "'job.toml'" in done.err


# ---- the output folder -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "parts"),
    [
        ("job.toml", ("'job.toml' is a file, not a folder", "Choose another")),
        ("job.toml/out", ("output.folder 'job.toml/out'", "'job.toml' is a file")),
        ("/proc/sfxproc", ("output.folder '/proc/sfxproc'", "Choose another folder")),
    ],
)
def test_unwritable_output(folder: str, parts: tuple[str, ...], refused: Any) -> None:
    message = refused(f"output.folder={folder}")
    for part in parts:
        assert part in message


def test_results_are_not_overwritten_unasked(
    command: Any, job: Path, sets: Any, results: Any
) -> None:
    out = job.parent / "out"
    out.mkdir()
    (out / "DONE").write_text("old")
    (out / "merged.mtz").write_text("old")
    (out / "notes.md").write_text("mine")
    for verb in ("run", "check"):
        done = command(verb, job)
        assert done.status == 2
        assert "output.folder 'out' exists and is not empty" in done.err
        assert "--overwrite" in done.err
    assert (out / "DONE").read_text() == "old"

    assert command("run", job, "--overwrite").status == 0
    assert (out / "DONE").read_text() == ""
    assert (out / "notes.md").read_text() == "mine"
    assert len(results(out).merged["IMEAN"]) > 2000


def test_a_failed_overwrite_keeps_the_results_but_not_done(
    command: Any, job: Path, sets: Any
) -> None:
    assert command("run", job).status == 0
    kept = (job.parent / "out" / "merged.mtz").read_bytes()
    done = command("run", job, "--overwrite", *sets("selection.d_max_A=2"))
    assert done.status == 2
    assert (job.parent / "out" / "merged.mtz").read_bytes() == kept
    assert not (job.parent / "out" / "DONE").exists()


# ---- which files -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("paths", "parts"),
    [
        ("smal.h5", ("input.paths: 'smal.h5'", "Did you mean 'small.h5'")),
        ("run*/x.h5", ("input.paths: 'run*/x.h5'", "matches no file")),
        ("job.toml", ("suffix '.toml'", ".stream")),
        ("small.h5/x.h5", ("small.h5' is a file, not a folder",)),
        ("small.h5,part0.h5", ("give a list", "'input.paths=[")),
    ],
)
def test_paths(paths: str, parts: tuple[str, ...], refused: Any) -> None:
    message = refused(f"input.paths={paths}")
    for part in parts:
        assert part in message


def test_everything_excluded(refused: Any) -> None:
    assert "input.exclude leaves out all 1 files" in refused("input.exclude=small.h5")


def test_an_empty_list(job: Path, refused: Any) -> None:
    (job.parent / "runs.lst").write_text("# none yet\n")
    assert "runs.lst' names no file. Write one path" in refused("input.paths=runs.lst")


def test_the_same_crystals_twice(job: Path, refused: Any) -> None:
    message = refused('input.paths=["small.h5", "part1.h5"]')
    assert "35 crystals repeat the identity" in message
    assert "'simulated//000010' (2 times)" in message
    assert "input.exclude" in message


def test_merged_data_as_input(job: Path, command: Any, sets: Any) -> None:
    assert command("run", job, *sets("output.folder=first")).status == 0
    done = command("run", job, *sets("input.paths=first/merged.mtz"))
    assert done.status == 2
    assert "merged.mtz' is a merged MTZ" in done.err
    assert "reference.path" in done.err
    done = command("run", job, *sets("input.paths=first/frames.h5"))
    assert done.status == 2
    assert "frames.h5' holds frames" in done.err


# ---- as a process ----------------------------------------------------------------------------


def test_the_program_itself_says_it_on_standard_error(job: Path, program: Any, sets: Any) -> None:
    done = program("run", job, *sets("input.paths=none.h5"), cwd=job.parent)
    assert done.status == 2
    assert "sfxproc: " not in done.out
    assert done.err.startswith("sfxproc: input.paths: 'none.h5': there is no 'none.h5'")
