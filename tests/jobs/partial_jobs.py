"""Small jobs on simulated stills, in this process, on ranks that may be threads of it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console

from sfxproc.commands.compare_crystals import Setting, crystals_against_truth
from sfxproc.commands.compare_truth import true_and_ideal
from sfxproc.config import load
from sfxproc.formats.frames import read_frames
from sfxproc.formats.hdf5 import write as write_h5
from sfxproc.formats.reference import in_group, read_reference
from sfxproc.formats.truth import read_truth_set, truth_path, write_truth
from sfxproc.jobs import JOBS
from sfxproc.merging.compare_truth import TruthAgreement, compare_with_truth
from sfxproc.parallel.comm import Comm
from sfxproc.report.log import ConsoleLog
from sfxproc.simulate.stills import Simulated, StillsSettings, simulate_stills
from sfxproc.symmetry import Reindexing, space_group
from tests.jobs.conftest import results
from tests.problems import on_ranks

JOB = 'job = "{}"\n[symmetry]\nspace_group = "P 43 21 2"\n'

PARTIAL: dict[str, Any] = {
    "n_crystals": 80,
    "d_min_A": 3.2,
    "profile_radius": 0.0024,
    "partiality": "xsphere",
    "bandwidth": 1e-3,
    "orientation_error_mrad": 0.65,
    "photons": 300.0,
    "background_counts": 5.0,
    "wavelength_A": 1.3,
    "seed": 11,
}
"""Of StillsSettings: some 350 reflections a crystal, each reflection twelve times."""

Told = dict[str, Any]


def written(path: Path, settings: StillsSettings) -> Simulated:
    """Simulated stills, written to a file with their truth beside it."""
    made = simulate_stills(settings)
    write_h5(path, made.stills)
    write_truth(truth_path(path), made.truth.columns(), msgspec.json.encode(settings).decode())
    return made


def run_job(kind: str, folder: Path, *settings: str, ranks: int = 1) -> Any:
    """The results of a job in a folder; settings as on the command line."""
    config: Any = load(
        JOB.format(kind),
        [f"output.folder={folder}", "parallel.threads=1", "output.n_shells=4", *settings],
        JOBS[kind].config,
    )

    def work(comm: Comm) -> None:
        log = ConsoleLog(Console(file=io.StringIO()), speaks=comm.rank == 0)
        JOBS[kind].run(config, comm, log)

    on_ranks(ranks, work)
    return results(folder)


def against_truth(folder: Path, data: Path) -> tuple[TruthAgreement, Told]:
    """A merge of simulated data, and its crystals, against what is true.

    Reflections that were hardly measured (σ of the ideal merge above the mean intensity) are left
    out: one of them would outweigh all others in R.
    """
    columns, settings = read_truth_set([truth_path(data)])
    told = json.loads(settings)
    group, path = space_group(told["space_group"]), folder / "merged.mtz"
    true, ideal = true_and_ideal(columns, group, told["unit_cell"])
    assert true.intensity is not None
    assert ideal.sigma is not None
    ideal = ideal.take(ideal.sigma < true.intensity.mean())
    same = Reindexing("h,k,l", np.eye(3))
    merged = in_group(read_reference(path), group)
    frames = path.with_name("frames.h5")
    crystals = crystals_against_truth(
        frames, read_frames(frames), columns, group, Setting(same, same)
    )
    return compare_with_truth(merged, true, ideal, (), 4).overall, crystals
