"""Data of each partiality model refined with each: how much does the wrong one cost, does it show?

R is that of the merge against the truth, over that of the ideal merge (true parameters, best
weights). Unexplained scatter and χ²/dof with counting variances alone are what a user sees; 2 ln L
is what `partiality = "auto"` goes by.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.runs import Figures, machine, number, table, told
from sfxproc.commands.compare_truth import true_and_ideal
from sfxproc.merging.compare_truth import compare_with_truth
from sfxproc.models.postrefine import Geometry, axes_of
from sfxproc.partiality import PARTIALITIES
from sfxproc.refine.choose_partiality import Sample, fit_of
from sfxproc.settings.postrefine import PostrefineConfig
from sfxproc.settings.sections import Symmetry
from sfxproc.simulate.stills import Simulated, StillsSettings, simulate_stills
from sfxproc.symmetry import reflections, space_group, unique_keys

SIMULATED = [name for name in PARTIALITIES if name != "unity"]
COLUMNS = [
    ("data", lambda f: str(f["data"])),
    ("model", lambda f: str(f["model"])),
    ("R/ideal", number("ratio", ".3f")),
    ("R %", number("r", ".2f", 100.0)),
    ("unexplained scatter %", number("scatter", ".1f", 100.0)),
    ("χ²/dof, counting", number("chi2", ".2f")),
    ("−2 Δ ln L", number("excess", ".0f")),
    ("CPU ms a crystal", number("cpu_ms", ".1f")),
]


def add_arguments(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command."""
    command = commands.add_parser(
        "partiality", help="data of each partiality model refined with each"
    )
    command.add_argument("--data", nargs="*", default=SIMULATED, choices=SIMULATED)
    command.add_argument("--models", nargs="*", default=list(PARTIALITIES), choices=PARTIALITIES)
    command.add_argument("--crystals", type=int, default=500)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """The table."""
    before = machine()
    rows: list[Figures] = []
    for name in options.data:
        data = simulated(name, options.crystals)
        found = [measured(data, name, model) for model in options.models]
        best = min(f["score"] for f in found)
        rows += [{**f, "excess": f["score"] - best} for f in found]
    print(table(rows, COLUMNS))
    print(f"\n{told(before)}")
    return 0


@dataclass(frozen=True, eq=False)
class Data:
    """Stills, set up as the job sets up its sample."""

    made: Simulated
    sample: Sample


def simulated(name: str, n_crystals: int) -> Data:
    """Lysozyme to 2 Å, about 450 reflections a crystal, 0.65 mrad off, sizes 10 % too large."""
    made = simulate_stills(
        StillsSettings(
            n_crystals=n_crystals,
            d_min_A=2.0,
            profile_radius=0.0012,
            photons=200.0,
            partiality=name,
            bandwidth=1e-3 if PARTIALITIES[name].uses_bandwidth else 0.0,
            orientation_error_mrad=0.65,
            size_factor=1.1,
        )
    )
    crystals, rows = made.stills.crystals, made.stills.observations
    group = space_group(made.truth.settings.space_group)
    keys = unique_keys(group, rows.hkl, False)
    unique = np.unique(keys)
    rows = replace(rows, reflection=np.searchsorted(unique, keys).astype(np.int32))
    assert rows.reflection is not None
    rows = rows.take(np.lexsort([rows.reflection, rows.crystal]))
    beam = np.array(crystals.beam)
    geometry = Geometry(
        np.ascontiguousarray(rows.hkl, dtype=np.int16),
        np.array(crystals.A),
        beam,
        axes_of(beam),
        1.0 / np.array(crystals.wavelength_A),
        np.zeros(n_crystals),
        # a model with a spectrum gets one to try
        np.full(n_crystals, max(made.truth.settings.bandwidth, 1e-4)),
    )
    table = reflections(group, np.array(made.truth.settings.unit_cell), unique)
    return Data(made, Sample(rows, table, geometry, np.array(crystals.profile_radius)))


def measured(data: Data, name: str, model: str) -> Figures:
    """One fit."""
    config = PostrefineConfig(job="postrefine", symmetry=Symmetry(space_group="P 43 21 2"))
    began = time.process_time()
    found = fit_of(data.sample, PARTIALITIES[model], config, 1)
    cpu_s = time.process_time() - began
    assert found is not None
    score, result = found
    columns = data.made.truth.columns()
    settings = data.made.truth.settings
    group = space_group(settings.space_group)
    true, ideal = true_and_ideal(columns, group, np.array(settings.unit_cell))
    merged = replace(
        data.sample.reflections,
        intensity=result.point.shared,
        sigma=np.ones(len(result.point.shared)),
        n_observations=np.ones(len(result.point.shared), dtype=np.int32),
    )
    overall = compare_with_truth(merged, true, ideal, [], 10).overall
    scale = result.model.at(result.point)
    counting = replace(
        scale, errors=replace(scale.errors, scatter=0.0, background=1.0, gain=scale.errors.counted)
    )
    chi2, _ = counting.chi2_at(result.point, 0.0)
    return {
        "data": name,
        "model": model,
        "ratio": overall.r_ratio,
        "r": overall.r,
        "scatter": result.model.errors.scatter,
        "chi2": chi2 / scale.dof / scale.errors.mean,
        "score": score,
        "cpu_ms": 1e3 * cpu_s / len(data.sample.size),
    }
