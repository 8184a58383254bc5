"""The output folder of a job: claimed before anything is read, filled at the end, DONE last."""

from __future__ import annotations

import json
import math
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from sfxproc import __version__
from sfxproc.config import resolved_toml
from sfxproc.data import Merged, Reflections
from sfxproc.formats.atomic import write_text
from sfxproc.formats.crystfel_hkl import symbol, write_hkl
from sfxproc.formats.frames import write_frames
from sfxproc.formats.mtz_merged import write_difference, write_half, write_merged
from sfxproc.formats.mtz_scaled import ScaledObservations
from sfxproc.intake.selection import Inventory
from sfxproc.merging.derived import derive
from sfxproc.models.parameters import among
from sfxproc.report.html import Story, report_html
from sfxproc.report.log import Log
from sfxproc.results import exports
from sfxproc.runs.folder import (
    FOLDERS,
    GROUPS,
    RESULTS,
)

VERSIONS = ("numpy", "scipy", "numba", "gemmi", "h5py")


@dataclass(frozen=True, eq=False)
class Results:
    """What a merging job has to tell: columns of frames.h5 by name, statistics ready for JSON,
    a merge of each group, scaled observations if wanted."""

    merged: Merged
    frames: Mapping[str, NDArray[Any]]
    statistics: Mapping[str, Any]
    groups: Mapping[str, Merged] = field(default_factory=dict)
    unmerged: ScaledObservations | None = None


def write_results(
    folder: Path,
    dataset: Inventory,
    results: Results,
    config: msgspec.Struct,
    kind: str,
    sentence: str,
    log: Log,
) -> None:
    """Write all files of a merging job (rank 0 only), the log with the closing sentence and DONE
    last. kind : of the job, for the report. Raises OutputError."""
    for name in RESULTS:
        (folder / name).unlink(missing_ok=True)
    for name in FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
    group, cell = dataset.space_group, dataset.cell
    wavelengths = dataset.crystals.wavelength_A
    known = wavelengths[np.isfinite(wavelengths)]
    wavelength_A = float(np.median(known)) if len(known) else math.nan
    history = [f"sfxproc {__version__}"]
    merged = results.merged
    point_group = symbol(group, friedel_merged=not np.any(merged.reflections.friedel))
    derived = derive(merged, group)
    write_merged(folder / "merged.mtz", merged, group.hm, cell, wavelength_A, history, derived)
    for half in (1, 2):
        write_half(
            folder / f"half{half}.mtz", merged, group.hm, cell, wavelength_A, history, half=half
        )
        write_hkl(folder / f"half{half}.hkl", _half(merged, half - 1), point_group)
    write_hkl(folder / "merged.hkl", merged.reflections, point_group)
    for name, part in results.groups.items():
        (folder / GROUPS).mkdir(exist_ok=True)
        path = folder / GROUPS / f"{name}.mtz"
        write_merged(path, part, group.hm, cell, wavelength_A, history, derive(part, group))
    for (one, first), (other, second) in combinations(results.groups.items(), 2):
        path = folder / GROUPS / f"{one}-minus-{other}.mtz"
        write_difference(path, first, second, group.hm, cell, wavelength_A, history)
    attributes = {"space_group": group.hm, "unit_cell": cell}
    write_frames(folder / "frames.h5", dataset.crystals, results.frames, attributes, merged)
    crystals = dataset.crystals
    if "A_refined" in results.frames:
        wavelength = results.frames.get("wavelength_refined_A")
        crystals = exports.refined_crystals(dataset, results.frames["A_refined"], wavelength)
        exports.write_refined_experiments(folder, dataset, crystals)
    if results.unmerged is not None:
        exports.write_unmerged(folder, dataset, results.unmerged, crystals, history)
    write_text(folder / "statistics.json", _json(results.statistics))
    settings = resolved_toml(config, _provenance(dataset))
    write_text(folder / "job.resolved.toml", settings)
    log(sentence)
    story = Story(
        title=f"{kind} {folder.name}", sentence=sentence, told=results.statistics,
        crystals=dataset.crystals, frames=results.frames, merged=merged, config_text=settings,
        log_text=log.text, parameters=among(results.frames),
    )  # fmt: skip
    write_text(folder / "report.html", report_html(story))
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
