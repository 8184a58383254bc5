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
from sfxproc.data import Floats, Merged, Reflections, packed_hkl
from sfxproc.errors import OutputError
from sfxproc.formats.atomic import write_text
from sfxproc.formats.crystfel_hkl import symbol, write_hkl
from sfxproc.formats.frames import write_frames
from sfxproc.formats.mtz_merged import Derived, write_difference, write_half, write_merged
from sfxproc.formats.mtz_scaled import ScaledObservations
from sfxproc.intake.selection import Inventory
from sfxproc.merging.free_flags import free_flags
from sfxproc.merging.french_wilson import french_wilson
from sfxproc.merging.statistics import merge_friedel
from sfxproc.merging.wilson import IntensityShells, expected_intensity, intensity_shells
from sfxproc.report.html import Story, report_html
from sfxproc.report.log import Log
from sfxproc.results import exports
from sfxproc.settings.sections import Output
from sfxproc.symmetry import SpaceGroup

RESULTS = (
    "merged.mtz", "merged.hkl", "half1.mtz", "half2.mtz", "half1.hkl", "half2.hkl", "frames.h5",
    "statistics.json", "job.resolved.toml", "log.txt", "report.html", "DONE",
    exports.REFINED, exports.UNMERGED,
)  # fmt: skip
GROUPS = "groups"
FOLDERS = (exports.REFINED_FOLDER, GROUPS)
CHECKPOINT = "checkpoint"
OWNER = f"{CHECKPOINT}/job.json"
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
        log_text=log.text,
    )  # fmt: skip
    write_text(folder / "report.html", report_html(story))
    write_text(folder / "log.txt", log.text)
    write_text(folder / "DONE", "")


def derive(merged: Merged, group: SpaceGroup) -> Derived:
    """Amplitudes, of mates apart also of each, and free flags; a row for each distinct hkl."""
    table = merged.reflections
    mean = merge_friedel(merged).reflections
    shells = intensity_shells(mean)
    derived = Derived(free_flags(mean.hkl, group), _amplitudes(mean, shells))
    if not np.any(table.friedel):
        return derived
    each = _amplitudes(table, shells)
    row = np.searchsorted(packed_hkl(mean.hkl), packed_hkl(table.hkl))
    sides = np.full((2, 2, len(mean)), np.nan)
    for side, of in zip(sides, (table.friedel >= 0, table.friedel < 0), strict=True):
        side[:, row[of]] = each[:, of]
    return replace(derived, plus=sides[0], minus=sides[1])


def _amplitudes(table: Reflections, shells: IntensityShells) -> Floats:
    """F and σ(F), (2, n)."""
    assert table.intensity is not None
    assert table.sigma is not None
    expected = table.epsilon * expected_intensity(shells, table.s2)
    found = french_wilson(table.intensity, table.sigma, expected, table.centric)
    return np.stack([found.amplitude, found.sigma_amplitude])


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
