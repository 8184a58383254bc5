"""One compilation a job: what rank 0 solves first leaves nothing for the other ranks to compile."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from sfxproc.formats.hdf5 import write
from sfxproc.simulate.stills import StillsSettings, simulate_stills

SETTINGS = (
    (),
    ("symmetry.anomalous=true", "scaling.loss=none", "scaling.covariance=sampled"),
    ("scaling.partiality=recorded", "input.paths=partial.h5", "scaling.error_model=given"),
)
POSTREFINE = (
    "output.folder=post", "input.paths=partial.h5", "postrefine.cell=true",
    "postrefine.wavelength=true", "merging.independent_halves=true", "output.unmerged=true",
)  # fmt: skip
RANK_0_ALONE = {
    "covariance.subtract_pairs", "covariance.quadratic_forms", "covariance.mirror",
    "predict.predict_still",
}  # fmt: skip


def compiled(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*.nbc")}


def test_other_ranks_compile_nothing(
    job: Path, surroundings: dict[str, str], sets: Any, tmp_path: Path
) -> None:
    partial = StillsSettings(n_crystals=30, d_min_A=3.5, partiality="sphere")
    write(job.parent / "partial.h5", simulate_stills(partial).stills)
    cache = tmp_path / "cache"
    environment = surroundings | {"NUMBA_CACHE_DIR": str(cache), "OPENBLAS_NUM_THREADS": "1"}
    script = (
        "from sfxproc.models.settings import ParameterSettings\n"
        "from sfxproc.refine.warm import Kernels, solve_tiny\n"
        "refined = ParameterSettings(cell=True, wavelength=True)\n"
        "solve_tiny(Kernels(('sphere',), refined, n_strains=2))"
    )
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, cwd=tmp_path)
    before = compiled(cache)
    assert before
    for number, settings in enumerate(SETTINGS):
        command = [
            sys.executable, "-m", "sfxproc", "run", str(job),
            *sets(f"output.folder=warm{number}", *settings),
        ]  # fmt: skip
        subprocess.run(
            command, env=environment, check=True, cwd=job.parent, stdout=subprocess.DEVNULL
        )
    partial_job = job.with_name("partial.toml")
    partial_job.write_text(job.read_text().replace('"scale"', '"postrefine"'))
    command = [sys.executable, "-m", "sfxproc", "run", str(partial_job), *sets(*POSTREFINE)]
    subprocess.run(command, env=environment, check=True, cwd=job.parent, stdout=subprocess.DEVNULL)
    # what rank 0 alone uses may be compiled later: it is the only writer then too
    new = {name.split("-")[0] for name in compiled(cache) - before}
    assert new <= RANK_0_ALONE
