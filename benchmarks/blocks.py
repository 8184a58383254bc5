"""Strategy blocks against the global one on the same stills: how near, and what ranks bring.

Whole jobs, `sfxproc run` from file to merge: wall time, CPU time of all ranks, the time that rank 0
dealing, and efficiency, the wall time of one rank over (ranks × wall time). With --average also
what rounds of averages alone come to.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmarks.runs import table
from sfxproc.formats.hdf5 import write
from sfxproc.simulate.stills import StillsSettings, simulate_stills

BIN = Path(sys.executable).parent
JOB = 'job = "scale"\n[symmetry]\nspace_group = "P 43 21 2"\n'
FILES = ("merged.mtz", "half1.mtz", "half2.mtz", "merged.hkl")


def add_arguments(commands: Any) -> None:
    """The command `blocks`."""
    parser = commands.add_parser("blocks", help=__doc__.splitlines()[0])
    parser.add_argument("--crystals", type=int, default=20000)
    parser.add_argument("--block-size", type=int, default=2000)
    parser.add_argument("--overlap", type=int, default=1000)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--average", type=int, metavar="ROUNDS", help="also averages alone")
    parser.add_argument("--folder", type=Path, default=Path("benchmark-blocks"))
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Do the jobs and print the tables."""
    folder: Path = options.folder
    folder.mkdir(exist_ok=True)
    (folder / "job.toml").write_text(JOB)
    data = folder / f"stills-{options.crystals}.h5"
    if not data.exists():
        write(data, simulate_stills(StillsSettings(n_crystals=options.crystals)).stills)
    # the error model that averages keep, for all alike
    errors = ("scaling.error_model=scatter",) if options.average else ()
    blocks = (
        *errors,
        "parallel.strategy=blocks",
        f"parallel.block_size={options.block_size}",
        f"parallel.overlap={options.overlap}",
        "parallel.threads=1",
    )
    alone = "parallel.threads=1", "solver.tolerance=1e-12"
    together = job(folder, data, "global", 1, *errors, *alone)
    rows = [together]
    for ranks in options.ranks:
        rows.append(job(folder, data, f"blocks{ranks}", ranks, *blocks))
    if options.average:
        mode = (
            'parallel.rounds_mode="average"',
            f"parallel.rounds={options.average}",
            "parallel.round_tolerance_sigma=1e-30",
        )
        rows.append(job(folder, data, "average", 1, *blocks, *mode))
    first = next(r for r in rows if r["name"].startswith("blocks"))
    for row in rows:
        row |= against(folder / row["name"], folder / "global")
        if row["name"].startswith("blocks"):
            row["efficiency"] = first["wall_s"] * first["ranks"] / (row["wall_s"] * row["ranks"])
            row["same_bits"] = same_bits(folder / row["name"], folder / first["name"])
    print(table(rows, COLUMNS))
    for row in rows:
        if row["rounds"]:
            print(f"\n{row['name']}:\n\n{table(row['rounds'], ROUNDS)}")
    return 0


def job(folder: Path, data: Path, name: str, ranks: int, *settings: str) -> dict[str, Any]:
    """One whole job; its times and what it says of itself."""
    command = [str(BIN / "sfxproc"), "run", "job.toml", "--overwrite"]
    for setting in (f"input.paths={data.name}", f"output.folder={name}", *settings):
        command += ["--set", setting]
    if ranks > 1:
        command = [str(BIN / "mpiexec"), "-n", str(ranks), *command]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    solver = json.loads((folder / name / "statistics.json").read_text())["solver"]
    return {
        "name": name,
        "ranks": ranks,
        "wall_s": wall,
        "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "dealing_s": solver.get("coordinating_s"),
        "rounds": solver.get("rounds", []),
        "load": os.getloadavg()[0],
    }


def frames(folder: Path) -> dict[str, np.ndarray]:
    """The columns that are compared."""
    with h5py.File(folder / "frames.h5") as handle:
        names = ("reflections/intensity", "reflections/sigma", "crystals/ln_G", "crystals/B_A2")
        return {name: handle[name][...] for name in names}


def against(folder: Path, reference: Path) -> dict[str, float]:
    """Differences from the joint solution."""
    ours, theirs = frames(folder), frames(reference)
    z = (ours["reflections/intensity"] - theirs["reflections/intensity"]) / theirs[
        "reflections/sigma"
    ]
    return {
        "rms_z": float(np.sqrt(np.mean(z**2))),
        "max_ln_G": float(np.abs(ours["crystals/ln_G"] - theirs["crystals/ln_G"]).max()),
        "max_B": float(np.abs(ours["crystals/B_A2"] - theirs["crystals/B_A2"]).max()),
    }


def same_bits(a: Path, b: Path) -> bool:
    """Whether two jobs wrote the same files and the same scales."""
    one, other = frames(a), frames(b)
    columns = all(np.array_equal(one[n], other[n], equal_nan=True) for n in one)
    return columns and all((a / f).read_bytes() == (b / f).read_bytes() for f in FILES)


def shown(name: str, style: str) -> Any:
    """A figure as text, – where there is none."""
    return lambda row: "–" if row.get(name) is None else format(row[name], style)


COLUMNS = (
    ("job", lambda row: row["name"]),
    ("ranks", shown("ranks", "d")),
    ("wall s", shown("wall_s", ".1f")),
    ("CPU s", shown("cpu_s", ".1f")),
    ("efficiency", shown("efficiency", ".2f")),
    ("rank 0 deals, s", shown("dealing_s", ".2f")),
    ("same bits", lambda row: {True: "yes", False: "NO"}.get(row.get("same_bits"), "–")),
    ("r.m.s. ΔI/σ", shown("rms_z", ".2g")),
    ("max Δ ln G", shown("max_ln_G", ".1e")),
    ("max ΔB, Å²", shown("max_B", ".1e")),
    ("load", shown("load", ".1f")),
)
ROUNDS = (
    ("round", shown("number", "d")),
    ("objective", shown("objective", ".10g")),
    ("blocks differ, σ", shown("disagreement", ".2g")),
    ("step, σ", shown("step", ".2g")),
    ("scatter", shown("scatter", ".6f")),
)
