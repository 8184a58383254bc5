"""The powder job as a user runs it: cells found, the same bits however it is run, bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import sfxproc.jobs.powder as powder
from sfxproc.config import load
from sfxproc.jobs import JOBS
from sfxproc.parallel.comm import SerialComm
from sfxproc.powder.indexing import CHANCE
from sfxproc.powder.search import IndexSettings, waves
from sfxproc.report.log import open_log
from sfxproc.settings.powder import Peaks, PowderConfig, Search, SimulatedPattern
from sfxproc.symmetry import metric_tensors
from tests.launch import launched

JOB = Path(__file__).resolve().parents[2] / "jobs" / "powder.toml"
CUBIC = ("cP", "cI", "cF")
QUICK = (
    f"search.lattices={json.dumps(CUBIC)}",
    "search.effort=2",
    "search.early_stop=false",
    "search.n_cells=5",
    "simulate.lattice=cP",
    "simulate.number=1",
)
N_TASKS = sum(len(wave) for wave in waves(IndexSettings(lattices=CUBIC, effort=2.0)))
SILICON_A = 5.431
SILICON_HKL = [
    (1, 1, 1),
    (2, 2, 0),
    (3, 1, 1),
    (4, 0, 0),
    (3, 3, 1),
    (4, 2, 2),
    (5, 1, 1),
    (4, 4, 0),
    (5, 3, 1),
    (6, 2, 0),
    (5, 3, 3),
    (4, 4, 4),
]
D = [SILICON_A / float(np.sqrt(np.dot(hkl, hkl))) for hkl in SILICON_HKL]
TWO_THETA = [float(np.degrees(2 * np.arcsin(1.5406 / (2 * d)))) for d in D]
KILLED = """
import os, signal, sys
import sfxproc.__main__ as entry
import sfxproc.jobs.powder as powder
search, calls = powder.search, []
def wrapped(*arguments):
    calls.append(arguments)
    if len(calls) == 2 and os.environ["PMI_RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return search(*arguments)
powder.search = wrapped
sys.argv[0] = "sfxproc"
entry.main()
"""


def text_of(values: list[float]) -> str:
    return "\n".join(f"{v:.6f}" for v in values) + "\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("powder")


@pytest.fixture(scope="module")
def calm(folder: Path) -> Path:
    """The output folder of a job that nobody disturbs."""
    config = load(JOB, [*QUICK, f"output.folder={folder / 'calm'}"], PowderConfig)
    JOBS["powder"].run(config, SerialComm(), open_log())
    return folder / "calm"


# ---- what comes of it ------------------------------------------------------------------------


def test_the_cell_of_the_simulated_pattern_comes_first(calm: Path) -> None:
    told = json.loads((calm / "cells.json").read_text())
    truth = json.loads((calm / "simulated.truth.json").read_text())
    assert told["tasks_done"] == told["tasks_planned"] == N_TASKS
    assert told["lattices_tried"] == list(CUBIC)
    first, n = told["cells"][0], len(told["lines"]["q2"])
    assert first["lattice"] == "cP"
    np.testing.assert_allclose(first["cell"], truth["cell"], rtol=1e-5)
    assert (first["n_explained"], first["rank"]) == (n, 1)
    assert first["n_calculated"] >= n
    assert first["m20"] > 100
    assert 0.5 < first["confidence"] <= 1.0
    assert sum(cell["confidence"] for cell in told["cells"]) <= 1.0 + 1e-9
    assert len(told["cells"]) == 5
    multiples = [cell["multiple_of"] for cell in told["cells"]]
    assert multiples[0] is None
    reduced = np.array([cell["reduced_cell"] for cell in told["cells"]])
    volumes = np.linalg.det(metric_tensors(reduced)) ** 0.5
    related = [(volume, of) for volume, of in zip(volumes, multiples, strict=True) if of]
    assert related
    for volume, of in related:
        assert volume == pytest.approx(of["times"] * volumes[of["rank"] - 1], rel=0.02)
    scores = [cell["score"] for cell in told["cells"]]
    assert scores == sorted(scores, reverse=True)
    hkl = np.array(first["lines"]["hkl"])
    calculated = (hkl**2).sum(axis=1) / first["cell"][0] ** 2
    np.testing.assert_allclose(first["lines"]["q2_calculated"], calculated, rtol=1e-9)
    residual = np.array(told["lines"]["q2"]) - calculated
    np.testing.assert_allclose(first["lines"]["residual"], residual, atol=1e-12)
    groups = [name for each in first["space_groups"] for name in each["space_groups"]]
    assert len(groups) > 1
    assert sum(each["share"] for each in first["space_groups"]) == pytest.approx(1.0)


def test_other_files(calm: Path) -> None:
    told = json.loads((calm / "cells.json").read_text())
    names = sorted(path.name for path in (calm / "cells").iterdir())
    n = min(5, len(told["cells"]))
    stems = [f"{c['rank']:02d}-{c['lattice']}" for c in told["cells"][:n]]
    assert names == [f"{stem}.{kind}" for stem in stems for kind in ("cell", "phil")]
    page = (calm / "powder.html").read_text(encoding="utf-8")
    drawn = json.loads(page.split('id="drawn">')[1].split("</script>")[0])
    assert [plot["id"] for plot in drawn] == ["pattern", "residuals"]
    assert 'src="http' not in page
    config = load(calm / "job.resolved.toml", (), PowderConfig)
    assert config.search.lattices == list(CUBIC)
    assert (calm / "DONE").exists()
    assert not (calm / "checkpoint").exists()


def test_early_end_and_given_lines(folder: Path, command: Any, sets: Any) -> None:
    (folder / "silicon.csv").write_text("two_theta\n" + text_of(TWO_THETA))
    settings = (
        *QUICK,
        "search.early_stop=true",
        "peaks.path=silicon.csv",
        "peaks.wavelength_A=1.5406",
        "output.folder=si",
        "output.cell_files=1",
    )
    done = command("run", JOB, *sets(*settings), cwd=folder)
    assert (done.status, done.err) == (0, "")
    assert "[simulate] has no effect" in done.out
    told = json.loads((folder / "si" / "cells.json").read_text())
    assert told["cells"][0]["lattice"] == "cF"
    assert told["cells"][0]["cell"][0] == pytest.approx(SILICON_A, abs=1e-4)
    assert told["beyond_doubt"] == (told["tasks_done"] < N_TASKS)
    assert told["beyond_doubt"] == ("beyond doubt; the search ends" in done.out)
    names = sorted(path.name for path in (folder / "si" / "cells").iterdir())
    assert names == ["01-cF.cell", "01-cF.phil"]
    assert not (folder / "si" / "simulated.txt").exists()


def test_lines_at_random_have_no_cell(tmp_path: Path, command: Any, sets: Any) -> None:
    q2 = np.sort(np.random.default_rng(4).uniform(0.02, 0.3, 9))
    (tmp_path / "noise.txt").write_text("q2\n" + text_of(q2.tolist()))
    done = command("run", JOB, *sets(*QUICK, "peaks.path=noise.txt", "search.lattices=cP"))
    assert (done.status, done.err) == (0, "")
    assert "No cell is better than chance: 9 lines, lattices cP." in done.out
    assert "raise search.effort" in done.out
    assert (tmp_path / "out" / "DONE").exists()
    told = json.loads((tmp_path / "out" / "cells.json").read_text())
    assert all(cell["score"] <= CHANCE for cell in told["cells"])


# ---- the same however it is run --------------------------------------------------------------


def test_same_bits_at_three_ranks(folder: Path, calm: Path, program: Any, sets: Any) -> None:
    done = program("run", JOB, *sets(*QUICK, "output.folder=ranks"), cwd=folder, ranks=3)
    assert (done.status, done.err) == (0, "")
    assert done.out.endswith("Results are in 'ranks'.")
    assert (folder / "ranks" / "cells.json").read_bytes() == (calm / "cells.json").read_bytes()


def test_killed_on_one_of_two_ranks_and_gone_on_with(
    folder: Path, calm: Path, command: Any, sets: Any, surroundings: Any
) -> None:
    out = folder / "killed"
    arguments = ["run", str(JOB), *sets(*QUICK, f"output.folder={out}")]
    done = subprocess.run(
        [*launched([sys.executable, "-c", KILLED], 2), *arguments],
        cwd=folder,
        env=surroundings,
        timeout=60,
        capture_output=True,
        check=False,
        start_new_session=True,
    )
    assert done.returncode != 0
    assert (out / "checkpoint" / "job.json").exists()
    assert not (out / "cells.json").exists()
    gone_on = command(*arguments, "--resume", cwd=folder)
    assert (gone_on.status, gone_on.err) == (0, "")
    assert "going on with the job" in gone_on.out
    assert (out / "cells.json").read_bytes() == (calm / "cells.json").read_bytes()
    assert not (out / "checkpoint").exists()


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[Any]]:
    """Count the tasks done in this process, which gets Ctrl-C in the one of the number given."""

    def counted(interrupted: int) -> list[Any]:
        tasks: list[Any] = []

        def wrapped(*arguments: Any) -> Any:
            tasks.append(arguments[1])
            if len(tasks) == interrupted:
                os.kill(os.getpid(), signal.SIGINT)
            return search(*arguments)

        monkeypatch.setattr(powder, "search", wrapped)
        return tasks

    search = powder.search
    return counted


def test_interrupted_and_gone_on_with(
    folder: Path, calm: Path, command: Any, sets: Any, searched: Any
) -> None:
    arguments = ("run", JOB, *sets(*QUICK, "output.folder=interrupted"))
    before = searched(2)
    heeded = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
    try:
        done = command(*arguments, cwd=folder)
    finally:
        signal.signal(signal.SIGINT, heeded)
    assert done.status == 75
    assert "stopped by SIGINT in the stage 'cubic'. What was done so far is kept" in done.err
    refused = command(*arguments, cwd=folder)
    assert refused.status == 2
    assert "holds a job that was stopped" in refused.err
    after = searched(0)
    done = command(*arguments, "--resume", cwd=folder)
    assert (done.status, done.err) == (0, "")
    assert 2 <= len(before) < N_TASKS
    assert len(before) + len(after) == N_TASKS
    assert not set(before) & set(after)
    kept = folder / "interrupted" / "cells.json"
    assert kept.read_bytes() == (calm / "cells.json").read_bytes()
    assert "nothing to do" in command(*arguments, "--resume", cwd=folder).out


# ---- bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "settings", "parts"),
    [
        (text_of(D[:7]), ("peaks.kind=d",), ("'p.txt' holds 7 lines", "8 at least")),
        (text_of(D[:7] + D[:1]), ("peaks.kind=d",), ("'p.txt' holds 7 different lines",)),
        (text_of(D), (), ("'p.txt' does not say what its numbers are", "peaks.kind")),
        (text_of([*D, -1.0]), ("peaks.kind=d",), ("'p.txt', line 13: d is -1",)),
        (text_of(TWO_THETA), ("peaks.kind=d",), ("as 2θ does: set peaks.kind = two_theta",)),
        (
            text_of([3.0 * d for d in D]),
            ("peaks.kind=q2",),
            ("'p.txt', line 1:", "as d does: set peaks.kind = d"),
        ),
        (text_of(TWO_THETA), ("peaks.kind=two_theta",), ("'p.txt'", "peaks.wavelength_A")),
        (text_of(D) + "strong\n", ("peaks.kind=d",), ("'p.txt', line 13: 'strong'",)),
        (text_of(D), ("peaks.kind=e",), ('peaks.kind = "e": must be one of', '"two_theta"')),
        (text_of(D), ('search.lattices=["cP", "oB"]',), ("search.lattices", '"oI"')),
        (text_of(D), ("search.lattices=[]",), ("search.lattices = []", "one or more values")),
        (text_of(D), ("search.n_lines=5",), ("search.n_lines = 5", "at least 8")),
        (text_of(D), ("search.min_volume_A3=9", "search.max_volume_A3=8"), ("8 is below min_vol",)),
        (text_of(D), ("search.effor=2",), ("did you mean 'search.effort'",)),
        (text_of(D), ("peaks.path=q.txt",), ("peaks.path: 'q.txt'", "Did you mean 'p.txt'?")),
    ],
)
def test_mistakes(
    text: str,
    settings: tuple[str, ...],
    parts: tuple[str, ...],
    command: Any,
    sets: Any,
    tmp_path: Path,
) -> None:
    (tmp_path / "p.txt").write_text(text)
    done = command("run", JOB, *sets("peaks.path=p.txt", *settings))
    assert done.status == 2
    assert "Traceback" not in done.err
    for part in parts:
        assert part in done.err
    out = tmp_path / "out"
    assert not out.exists() or list(out.iterdir()) == []


def test_unsorted_and_repeated_lines_are_told(tmp_path: Path, command: Any, sets: Any) -> None:
    (tmp_path / "p.txt").write_text("d\n" + text_of([*D[3:], *D[:3], D[0]]))
    done = command("check", JOB, *sets("peaks.path=p.txt"))
    assert (done.status, done.err) == (0, "")
    assert "The lines were not in order; they were sorted." in done.out
    assert "1 lines were given twice and merged." in done.out
    assert "12 of 12 lines are used" in done.out
    assert "the job can be run" in done.out


def test_without_lines_and_without_simulation(tmp_path: Path, command: Any) -> None:
    (tmp_path / "job.toml").write_text('job = "powder"\n')
    for verb in ("check", "run"):
        done = command(verb, "job.toml")
        assert done.status == 2
        assert "peaks.path is not set" in done.err


# ---- settings --------------------------------------------------------------------------------


def test_the_job_file_says_the_defaults() -> None:
    text = JOB.read_text()
    told = tomllib.loads(text)
    assert msgspec.convert(told["search"], Search) == Search()
    assert msgspec.convert(told["peaks"], Peaks) == Peaks()
    assert msgspec.convert(told["simulate"], SimulatedPattern) == SimulatedPattern()
    shown = tomllib.loads(text.replace("\n#path", "\npath").replace("\n#kind", "\nkind"))
    assert set(shown["peaks"]) | {"wavelength_A"} == set(Peaks.__struct_fields__)
    for name, section in (("search", Search), ("simulate", SimulatedPattern)):
        assert set(told[name]) == set(section.__struct_fields__)
    assert msgspec.convert(told, PowderConfig).output == PowderConfig(job="powder").output
    assert powder.index_settings(Search()) == IndexSettings()


# ---- from spots to a cell --------------------------------------------------------------------


def test_from_the_spots_of_stills_to_a_cell(tmp_path: Path, command: Any, sets: Any) -> None:
    spots = sets("simulate.n_stills=200", "simulate.lattice=cP", "output.folder=spots")
    done = command("run", JOB.with_name("spot_powder.toml"), *spots)
    assert done.status == 0, done.err
    settings = sets(*QUICK, "peaks.path=spots/peaks.txt", "output.folder=cells")
    done = command("run", JOB, *settings)
    assert (done.status, done.err) == (0, "")
    told = json.loads((tmp_path / "cells" / "cells.json").read_text())
    assert told["sigma_known"]
    assert told["cells"][0]["lattice"] == "cP"
    assert told["cells"][0]["cell"][0] == pytest.approx(9.64, rel=0.003)
