"""The example of docs/adding.md at work: `python -m tests.anisotropic FOLDER`, where `sfxproc` is a
copy of the package with the example in it. Prints what came of it as JSON."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

import sfxproc
from sfxproc.config import load
from sfxproc.data import Stills
from sfxproc.formats.frames import read_frames
from sfxproc.formats.hdf5 import write as write_h5
from sfxproc.jobs import JOBS
from sfxproc.lsq import Loss, Point
from sfxproc.models.settings import ParameterSettings
from sfxproc.parallel.comm import SerialComm
from sfxproc.partiality import PARTIALITIES, values
from sfxproc.report.log import ConsoleLog
from sfxproc.settings.postrefine import PostrefineConfig
from sfxproc.simulate.counting import counted
from sfxproc.simulate.stills import Simulated, StillsSettings, simulate_stills
from sfxproc.symmetry import reciprocal_matrix, space_group, unique_keys
from tests.models.partial_stills import partials, set_up
from tests.problems import moved, written_out

CELL = (50.0, 60.0, 70.0, 90.0, 90.0, 90.0)
STILLS = StillsSettings(
    n_crystals=100,
    d_min_A=3.0,
    unit_cell=CELL,
    space_group="P 21 21 21",
    partiality="gaussian",
    orientation_error_mrad=0.3,
    photons=300.0,
    profile_radius=0.0024,
)
JOB = 'job = "postrefine"\n[symmetry]\nspace_group = "P 21 21 21"\n'
COUNTING = "scaling.error_model=counting", "scaling.gain=1", "scaling.loss=none"


@dataclass(frozen=True)
class Shaped:
    """Stills of crystals whose points have these shapes (n, 2)."""

    stills: Stills
    shape: np.ndarray


def shaped(made: Simulated) -> Shaped:
    """The same stills with points of sizes that differ along the crystals' axes."""
    rng, o, truth = np.random.default_rng(5), made.stills.observations, made.truth
    shape = np.array([0.3, -0.4]) + 0.1 * rng.normal(size=(STILLS.n_crystals, 2))
    group = space_group(STILLS.space_group)
    keys = unique_keys(group, truth.reflections.hkl, False)
    order = np.argsort(keys)
    assert truth.reflections.intensity is not None
    at = order[np.searchsorted(keys[order], unique_keys(group, o.hkl, False))]
    I = truth.reflections.intensity[at]
    m = o.crystal
    q = np.einsum("nij,nj->ni", truth.A[m], o.hkl)
    k = 1.0 / truth.wavelength_A[m]
    q2 = np.sum(q * q, axis=1)
    r = np.sqrt(q2 + k * k + 2.0 * k * q[:, 2]) - k
    x, y, z = (o.hkl @ np.asarray(reciprocal_matrix(CELL)).T).T
    terms = np.stack([(3.0 * z * z / q2 - 1.0) / 2.0, (x * x - y * y) / q2], axis=1)
    R = truth.profile_radius[m] * np.exp(np.sum(shape[m] * terms, axis=1))
    P = values(PARTIALITIES[STILLS.partiality], r, R)
    full = np.exp(truth.ln_G[m] - 0.5 * truth.B_A2[m] * q2) * I
    measured = counted(STILLS, rng, P * full)
    table = replace(o, intensity=measured.intensity, variance=measured.variance, partiality=None)
    return Shaped(replace(made.stills, observations=table), shape)


def run(folder: Path, *settings: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Columns of frames.h5 and the statistics of a job."""
    config = load(
        JOB, [f"output.folder={folder}", "parallel.threads=1", *settings], PostrefineConfig
    )
    JOBS["postrefine"].run(config, SerialComm(), ConsoleLog(Console(file=io.StringIO())))
    told = json.loads((folder / "statistics.json").read_text())
    return dict(read_frames(folder / "frames.h5").columns), told


def gradients() -> list[float]:
    """Of the objective along random directions of all parameters, over differences through the
    solver's own update."""
    data = partials("gaussian", n_crystals=12, d_min_A=5.0)
    chosen = ParameterSettings(wavelength=True, anisotropic=True)
    data = replace(data, geometry=replace(data.geometry, settings=chosen))
    engine, model, start = set_up(data)
    model = model.with_errors(replace(model.errors, scatter=0.1, refits=0))
    rng, loss = np.random.default_rng(7), Loss("cauchy", 4.0)
    away = np.array([0.01, 0.1, 1e-4, 1e-4, 0.02, 1e-4, 0.1, 0.1])
    start = Point(start.local + rng.normal(size=start.local.shape) * away, start.shared)
    gradient = written_out(model, start, loss).gradient
    unit = np.concatenate([np.tile(away, data.n), 0.1 * np.abs(start.shared)])
    found = []
    for only in (slice(None), slice(6, None, 8), slice(7, None, 8)):  # all; e₁; e₂
        direction = np.zeros(len(unit))
        direction[only] = (rng.normal(size=len(unit)) * unit)[only]
        ends = [
            engine.objective(model, moved(model, start, direction, h), loss) for h in (-1e-4, 1e-4)
        ]
        found.append(float(gradient @ direction / ((ends[1] - ends[0]) / 2e-4)))
    return found


def main(folder: Path) -> None:
    """All of it."""
    data = shaped(simulate_stills(STILLS))
    write_h5(folder / "stills.h5", data.stills)
    given = f"input.paths={folder / 'stills.h5'}", "postrefine.partiality=gaussian", *COUNTING
    shape = "postrefine.anisotropic=true"
    blocks = "parallel.strategy=blocks", "parallel.block_size=50", "parallel.overlap=20"
    ways = {"global": (), "blocks": blocks, "cycles": ("postrefine.scheme=cycles",)}
    out: dict[str, Any] = {"package": str(Path(sfxproc.__file__).parent), "gradient": gradients()}
    for name, settings in ways.items():
        columns, told = run(folder / name, *given, shape, *settings)
        refined = np.stack([columns["shape_1"], columns["shape_2"]], axis=1)
        sigma = np.stack([columns["sigma_shape_1"], columns["sigma_shape_2"]], axis=1)
        out[name] = ((refined - data.shape) / sigma).tolist()
        if name == "global":
            out |= {"chi2_per_dof": told["solver"]["chi2_per_dof"], "sigma": float(sigma.mean())}
            page = (folder / name / "report.html").read_text(encoding="utf-8")
            out["report"] = all(
                f'id="plot-shape-{n}"' in page and f">shape {n}</button>" in page for n in (1, 2)
            )
            first = refined
    _, told = run(folder / "isotropic", *given)
    out["isotropic"] = told["solver"]["chi2_per_dof"]
    before = f"start.frames={folder / 'global'}", "start.refine=false"
    columns, _ = run(folder / "again", *given, shape, *before)
    again = np.stack([columns["shape_1"], columns["shape_2"]], axis=1)
    out["again"] = float(np.abs(again - first).max())
    print(json.dumps(out))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
