"""Every job file of a merging job runs as it stands, at one rank and at two, with the same result.

Those of other kinds are tested with their jobs.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfxproc.config import load
from sfxproc.jobs import JOBS
from sfxproc.settings.scale import ScaleConfig
from sfxproc.simulate.stills import StillsSettings

FOLDER = Path(__file__).resolve().parents[2] / "jobs"
ALL = {path: tomllib.loads(path.read_text())["job"] for path in sorted(FOLDER.glob("*.toml"))}
FILES = [path for path, kind in ALL.items() if issubclass(JOBS[kind].config, ScaleConfig)]
SMALLER = ("simulate.n_crystals=40", "simulate.d_min_A=4")


def test_every_kind_of_job_has_a_file() -> None:
    assert set(ALL.values()) == set(JOBS)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_job_file(path: Path, job: Path, program: Any, sets: Any, results: Any) -> None:
    simulates = "simulate" in tomllib.loads(path.read_text())
    settings = SMALLER if simulates else ("input.paths=small.h5",)
    found = []
    for ranks in (1, 2):
        folder = f"out{ranks}"
        done = program(
            "run", path, *sets(*settings, f"output.folder={folder}"), cwd=job.parent, ranks=ranks
        )
        assert (done.status, done.err) == (0, "")
        found.append(results(job.parent / folder))
        assert (job.parent / folder / "DONE").exists()
    for name, values in found[0].master.items():
        np.testing.assert_array_equal(found[1].master[name], values, err_msg=name)
    np.testing.assert_array_equal(found[0].frames["ln_G"], found[1].frames["ln_G"])
    if simulates:
        truth = job.parent / "out1" / "simulated.truth.h5"
        assert truth.read_bytes()[:4] == b"\x89HDF"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_job_file_says_the_defaults(path: Path) -> None:
    """What a commented file shows must be what happens without it, but for what a user fills in."""
    kind = tomllib.loads(path.read_text())["job"]
    config: Any = load(path, (), JOBS[kind].config)
    plain: Any = load('job = "scale"\n[symmetry]\nspace_group = "P 1"', (), JOBS["scale"].config)
    for section in ("selection", "scaling", "solver", "parallel"):
        assert getattr(config, section) == getattr(plain, section), section
    if config.simulate is not None:
        assert config.simulate == StillsSettings(seed=config.simulate.seed)
