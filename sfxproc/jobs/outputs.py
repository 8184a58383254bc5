"""The output folder of a job: claimed before anything is read, filled at the end, DONE last."""

from __future__ import annotations

import json
import math
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from sfxproc import __version__
from sfxproc.config import resolved_toml
from sfxproc.data import Merged, Reflections
from sfxproc.errors import OutputError
from sfxproc.formats.atomic import write_text
from sfxproc.formats.crystfel_hkl import symbol, write_hkl
from sfxproc.formats.frames import write_frames
from sfxproc.formats.mtz_merged import write_half, write_merged
from sfxproc.jobs.selection import Inventory
from sfxproc.jobs.settings import Output
from sfxproc.report.log import Log

RESULTS = (
    "merged.mtz", "merged.hkl", "half1.mtz", "half2.mtz", "half1.hkl", "half2.hkl", "frames.h5",
    "statistics.json", "job.resolved.toml", "log.txt", "DONE",
)  # fmt: skip
CHECKPOINT = "checkpoint"
OWNER = f"{CHECKPOINT}/job.json"
VERSIONS = ("numpy", "scipy", "numba", "gemmi", "h5py")


@dataclass(frozen=True, eq=False)
class Results:
    """What a merging job has to tell: columns of frames.h5 by name, statistics ready for JSON."""

    merged: Merged
    frames: Mapping[str, NDArray[Any]]
    statistics: Mapping[str, Any]


def claim_output(settings: Output) -> None:
    """Claim the output folder, on one rank. Raises OutputError if it must not or cannot be written
    to. The DONE of an earlier job is removed from it at once, as is its checkpoint unless it is
    to be gone on with, its results only when new ones are there to take their place."""
    folder = Path(settings.folder)
    if problem := refusal(settings):
        raise OutputError(problem)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
        (folder / "DONE").unlink(missing_ok=True)
        if (folder / CHECKPOINT).exists() and not (settings.resume and was_stopped(folder)):
            shutil.rmtree(folder / CHECKPOINT)
        for path in (*folder.glob(".*.part"), *folder.glob(f"{CHECKPOINT}/**/.*.part")):
            path.unlink(missing_ok=True)  # of a process that was killed
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise OutputError(
            f"Cannot write to output.folder '{folder}': {error.strerror or error}. Choose another "
            "folder or correct its permissions."
        ) from error
    if free < 1 << 20:
        raise OutputError(
            f"The disk of output.folder '{folder}' is full; free some space or choose another."
        )


def was_stopped(folder: Path) -> bool:
    """Whether this is the output folder of a job that can be gone on with."""
    return (folder / OWNER).exists()


def refusal(settings: Output) -> str | None:
    """Why results must not go to this folder; None if they may."""
    folder = Path(settings.folder)
    above = next((p for p in folder.parents if p.exists()), folder)
    what = folder if folder.exists() else above
    if not what.is_dir():
        return f"output.folder '{folder}': '{what}' is a file, not a folder. Choose another name."
    # without its owner's name a checkpoint has nothing that counts
    empty = not folder.is_dir() or all(path.name == CHECKPOINT for path in folder.iterdir())
    if was_stopped(folder):
        if settings.resume or settings.overwrite:
            return None
        return (
            f"output.folder '{folder}' holds a job that was stopped. Go on with it by --resume, "
            "choose another folder with `--set output.folder=NAME`, or begin anew with --overwrite."
        )
    if empty or settings.overwrite:
        return None
    if settings.resume:
        return (
            f"output.folder '{folder}' holds files but no job that can be gone on with. Choose "
            "another folder with `--set output.folder=NAME`, or replace what is there with "
            "--overwrite."
        )
    return (
        f"output.folder '{folder}' exists and is not empty. Choose another with `--set "
        "output.folder=NAME`, or replace its results with --overwrite."
    )


def write_results(
    folder: Path,
    dataset: Inventory,
    results: Results,
    config: msgspec.Struct,
    sentence: str,
    log: Log,
) -> None:
    """Write all files of a merging job (rank 0 only), the log with the closing sentence and DONE
    last. Raises OutputError."""
    for name in RESULTS:
        (folder / name).unlink(missing_ok=True)
    group, cell = dataset.space_group, dataset.cell
    wavelengths = dataset.crystals.wavelength_A
    known = wavelengths[np.isfinite(wavelengths)]
    wavelength_A = float(np.median(known)) if len(known) else math.nan
    history = [f"sfxproc {__version__}"]
    merged = results.merged
    point_group = symbol(group, friedel_merged=not np.any(merged.reflections.friedel))
    write_merged(folder / "merged.mtz", merged, group.hm, cell, wavelength_A, history)
    for half in (1, 2):
        write_half(
            folder / f"half{half}.mtz", merged, group.hm, cell, wavelength_A, history, half=half
        )
        write_hkl(folder / f"half{half}.hkl", _half(merged, half - 1), point_group)
    write_hkl(folder / "merged.hkl", merged.reflections, point_group)
    attributes = {"space_group": group.hm, "unit_cell": cell}
    write_frames(folder / "frames.h5", dataset.crystals, results.frames, attributes, merged)
    write_text(folder / "statistics.json", _json(results.statistics))
    write_text(folder / "job.resolved.toml", resolved_toml(config, _provenance(dataset)))
    log(sentence)
    write_text(folder / "log.txt", log.text)
    write_text(folder / "DONE", "")


def _half(merged: Merged, i: int) -> Reflections:
    """The reflections with the intensities of half set i (0 or 1)."""
    return replace(
        merged.reflections,
        intensity=merged.half_intensity[i],
        sigma=merged.half_sigma[i],
        n_observations=merged.half_n[i],
    )


def _json(value: Mapping[str, Any]) -> str:
    """JSON text; it has no NaN and no infinity, so these become null."""

    def plain(v: Any) -> Any:
        if isinstance(v, Mapping):
            return {key: plain(item) for key, item in v.items()}
        if isinstance(v, list | tuple):
            return [plain(item) for item in v]
        return None if isinstance(v, float) and not math.isfinite(v) else v

    return json.dumps(plain(value), indent=1, allow_nan=False) + "\n"


def _provenance(dataset: Inventory) -> str:
    """Versions and inputs with their sizes, as a comment."""
    libraries = ", ".join(f"{name} {version(name)}" for name in VERSIONS)
    lines = [f"sfxproc {__version__}, Python {platform.python_version()}, {libraries}", "inputs:"]
    paths = [path for f in dataset.files for path in f.members]
    lines += [f"  {path} ({path.stat().st_size:,} bytes)" for path in paths]
    return "\n".join(lines)
