"""What a job is expected to need, beside what it turns out to hold and to take."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from sfxproc.config import convert
from sfxproc.formats import FORMATS, peek
from sfxproc.formats.base import Format
from sfxproc.refine import estimate as module
from sfxproc.refine.covariance import EXACT_PARAMETERS
from sfxproc.refine.estimate import EXACT_CRYSTALS, BASE_bytes, Estimate, estimate, needs_table
from sfxproc.settings.postrefine import PostrefineConfig
from sfxproc.settings.scale import ScaleConfig
from sfxproc.simulate.stills import Simulated
from sfxproc.symmetry import s_squared, space_group, unique_keys

WRITTEN = [fmt for fmt in FORMATS if fmt.write is not None]
GROUP = "P 43 21 2"


def expected(group: str = GROUP, **tables: Any) -> Estimate:
    tree = {"job": "scale", "symmetry": {"space_group": group}, **tables}
    return estimate(convert(tree, ScaleConfig, "a test"))


def near(value: float, truth: float, factor: float) -> bool:
    return truth / factor <= value <= truth * factor


@pytest.fixture
def files(samples: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(samples)
    return samples


# ---- what files hold -------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", WRITTEN, ids=lambda f: f.name)
def test_what_is_written_is_counted(fmt: Format, files: Path, small: Simulated) -> None:
    told = fmt.peek(files / f"small{fmt.suffixes[0]}")
    settings = small.truth.settings
    assert (told.n_crystals, told.n_observations) == (60, len(small.stills.observations))
    assert told.exact
    np.testing.assert_allclose(told.cell, settings.unit_cell, atol=0.01)
    assert 0.5 / np.sqrt(told.s2.max()) == pytest.approx(settings.d_min_A, rel=0.01)
    needs = expected(input={"paths": [f"small{fmt.suffixes[0]}"]})
    keys = unique_keys(space_group(GROUP), small.stills.observations.hkl, False)
    assert near(needs.n_reflections, len(np.unique(keys)), 1.05)


def test_large_streams_are_sampled(
    files: Path, monkeypatch: pytest.MonkeyPatch, small: Simulated
) -> None:
    monkeypatch.setattr(peek, "PIECE_bytes", 1 << 15)
    path = files / "small.stream"
    assert path.stat().st_size > 2 * peek.PIECES * peek.PIECE_bytes
    told = peek.stream(path)
    assert not told.exact
    assert told.n_observations == pytest.approx(len(small.stills.observations), rel=0.05)
    assert told.n_crystals == pytest.approx(60, rel=0.1)


def test_real_files(shared_data: Path) -> None:
    stills = shared_data / "stills"
    lysozyme = expected(input={"paths": [str(stills / "LD91_lysozyme_300xtal.refl")]})
    assert (lysozyme.n_crystals, lysozyme.n_observations, lysozyme.guesses) == (300, 8790, ())
    assert near(lysozyme.n_reflections, 2864, 1.5)
    receptor = expected("C 2 2 21", input={"paths": [str(stills / "5HT2B_70frames.stream")]})
    assert (receptor.n_crystals, receptor.n_observations) == (32, 7966)
    assert near(receptor.n_reflections, 6941, 1.2)


@pytest.mark.parametrize("suffix", [".h5", ".mtz", ".stream", ".expt"])
def test_damaged_files_are_guessed_by_their_size(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(b"none of it\n" * 8000)
    path.with_suffix(".refl").write_bytes(b"")
    needs = expected(input={"paths": [str(path)]})
    if suffix != ".stream":  # which is text that shows no crystal
        assert near(needs.n_observations, 8000 * 11 / 80, 1.1)
        assert "observations" in needs.guesses
    assert "unique reflections" in needs.guesses
    assert needs.bytes_per_rank(1) > BASE_bytes


def test_of_many_files_some_are_looked_into(
    files: Path, monkeypatch: pytest.MonkeyPatch, small: Simulated
) -> None:
    every = expected(input={"paths": ["part*.h5"]})
    assert (every.n_crystals, every.guesses, every.n_files) == (60, (), 3)
    monkeypatch.setattr(module, "PEEKED", 2)
    some = expected(input={"paths": ["part*.h5"]})
    assert "crystals" in some.guesses
    assert near(some.n_crystals, 60, 1.2)
    assert near(some.n_observations, len(small.stills.observations), 1.2)


# ---- what settings change --------------------------------------------------------------------


@pytest.mark.parametrize("limits", [{"d_min_A": 4.0}, {"d_max_A": 5.0}])
@pytest.mark.parametrize("anomalous", [False, True])
def test_limits_and_anomalous(
    limits: dict[str, float], anomalous: bool, files: Path, small: Simulated
) -> None:
    hkl = small.stills.observations.hkl
    d_A = 0.5 / np.sqrt(s_squared(hkl, small.truth.settings.unit_cell))
    kept = (d_A >= limits.get("d_min_A", 0.0)) & (d_A <= limits.get("d_max_A", np.inf))
    keys = np.unique(unique_keys(space_group(GROUP), hkl[kept], anomalous))
    symmetry = {"space_group": GROUP, "anomalous": anomalous}
    needs = expected(input={"paths": ["small.h5"]}, selection=limits, symmetry=symmetry)
    assert near(needs.n_observations, np.count_nonzero(kept), 1.05)
    assert near(needs.n_reflections, len(keys), 1.1)


def simulated(n: int, **tables: Any) -> Estimate:
    return expected(simulate={"n_crystals": n}, **tables)


def test_blocks_have_tasks_and_chunks_have_threads() -> None:
    blocks = simulated(10_000, parallel={"strategy": "blocks"})
    # 9 blocks of 2000, each but the last beginning a segment of 1000, which are 10
    assert (blocks.n_pieces, blocks.n_tasks) == (9, 19)
    assert blocks.useful_ranks(threads=4) == 9
    assert blocks.wall_s(9) == blocks.wall_s(100) < blocks.wall_s(8) == blocks.wall_s(5)
    together = simulated(10_000)
    assert together.n_pieces == together.n_tasks >= 64
    assert together.useful_ranks(threads=4) == together.n_pieces // 4
    assert together.wall_s(4, 4) == pytest.approx(together.wall_s(16), rel=0.2)
    assert together.wall_s(1) == pytest.approx(together.cpu_s)


@pytest.mark.parametrize("strategy", ["global", "blocks"])
def test_postrefinement_takes_its_time(files: Path, strategy: str) -> None:
    settings = {
        "symmetry": {"space_group": GROUP},
        "input": {"paths": ["part*.h5"]},
        "parallel": {"strategy": strategy},
    }
    scaled = estimate(convert({"job": "scale", **settings}, ScaleConfig, "a test"))
    refined = estimate(convert({"job": "postrefine", **settings}, PostrefineConfig, "a test"))
    assert refined.solving_s > 3.0 * scaled.solving_s
    assert refined.n_observations == scaled.n_observations


def test_memory_falls_with_ranks_as_far_as_work_is_divided(files: Path) -> None:
    three = expected(input={"paths": ["part*.h5"]})
    assert three.bytes_per_rank(3) < three.bytes_per_rank(1)
    one = simulated(100_000)  # made and read by rank 0
    assert one.bytes_per_rank(64) > 0.5 * one.bytes_per_rank(1)
    in_blocks = {"strategy": "blocks", "block_size": 10, "overlap": 5}
    blocks = expected(input={"paths": ["part*.h5"]}, parallel=in_blocks)
    assert blocks.bytes_per_rank(8) > blocks.bytes_per_rank(1)  # results wait on rank 0


def test_exact_covariances_need_dense_matrices() -> None:
    assert 2 * EXACT_CRYSTALS == EXACT_PARAMETERS
    sampled, exact = (simulated(3000, scaling={"covariance": kind}) for kind in ("auto", "exact"))
    assert sampled.dense_bytes == 0
    assert exact.bytes_per_rank(1) - sampled.bytes_per_rank(1) == pytest.approx(6000**2 * 8)
    assert exact.cpu_s > sampled.cpu_s + 10


# ---- against what jobs take ------------------------------------------------------------------


RUN = """
import sys
from pathlib import Path
import sfxproc.__main__ as entry
try:
    entry.main()
finally:
    print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""  # peak resident memory, KiB


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
def test_a_job_takes_about_the_memory_expected(tmp_path: Path) -> None:
    settings = ("n_crystals=400", "d_min_A=2.0")
    (tmp_path / "job.toml").write_text(f'job = "scale"\n[symmetry]\nspace_group = "{GROUP}"\n')
    sets = [f"--set=simulate.{s}" for s in settings] + ["--set=parallel.threads=1"]
    command = [sys.executable, "-c", RUN, "run", "job.toml", *sets]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    needs = expected(simulate={"n_crystals": 400, "d_min_A": 2.0})
    assert near(needs.bytes_per_rank(1), float(done.stdout.split()[-1]) * 1024, 2.0)


def test_check_prints_it(command: Any, job: Path, sets: Any) -> None:
    done = command("check", job, *sets("parallel.threads=2"))
    assert done.status == 0
    for part in ("crystals 60", "observations", "CPU time", "4 ranks of 2 threads", "GB at most"):
        assert part in done.out
    few = command("check", job).out
    assert "64 ranks of 1 thread" in few
    assert "as with" in few  # 64 ranks are more than there is work for


def test_the_table_says_what_is_a_guess() -> None:
    console = Console(width=100)
    with console.capture() as captured:
        console.print(needs_table(simulated(1234)))
    assert "about 1,234" in captured.get()
