"""The spot-powder job: spots of many stills in, the lines of their powder pattern out.

Ranks read the files; rank 0 has the spots of all, in the order of the files, and does the rest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sfxproc import __version__
from sfxproc.config import resolved_toml
from sfxproc.data import concatenate
from sfxproc.errors import ConfigError, OutputError
from sfxproc.formats.atomic import write_text
from sfxproc.formats.inputs import InputFile, list_inputs
from sfxproc.formats.peak_lists import PeakList, write_peak_list
from sfxproc.formats.spots import read_spots, write_spots
from sfxproc.parallel.comm import Comm
from sfxproc.parallel.coordinator import Arrays, Stage, deal
from sfxproc.powder.settings import SpotPeakSettings
from sfxproc.powder.spots import SpotPowder, powder_of
from sfxproc.report.log import Log
from sfxproc.report.spot_powder import SpotPowderStory, spot_powder_html
from sfxproc.report.terminal import counts_table
from sfxproc.runs.folder import claim_output, refusal
from sfxproc.settings.sections import Output
from sfxproc.settings.spot_powder import SpotPowderConfig
from sfxproc.simulate.spot_powder import simulate_spots
from sfxproc.spots import Spots, SpotSet

CROWDED = 0.4  # of a ring's σ: lines less certain than that may be several
MANY, FIRST_LINES = 7, 20  # of those that indexing looks at
AT_THE_EDGE = 0.9  # of peaks.centre_reach_mm


def run(config: SpotPowderConfig, comm: Comm, log: Log) -> None:
    """Do the job. Raises ConfigError, InputError, OutputError or DataError."""
    log(f"sfxproc {__version__}, {config.job}; ranks: {comm.size}")
    folder = Path(config.output.folder)
    if config.output.resume and comm.bcast((folder / "DONE").exists()):
        log(f"The results in '{folder}' are complete already: nothing to do.")
        return
    files = _inputs(config)
    if comm.rank == 0:
        claim_output(_output(config))
    found = _read(files, config.input.strict, comm, log)
    if comm.rank == 0:
        if config.simulate is not None:
            found, truth = simulate_spots(config.simulate)
            write_spots(folder / "simulated.h5", found)
            cell = " ".join(f"{v:.2f}" for v in truth.structure.cell)
            log(f"simulated {truth.structure.space_group.hm}, {cell}")
        log(f"{len(found.spots):,} spots on {found.n_shots:,} images")
        powder = powder_of(found.spots, config.peaks)
        for warning in _warnings(powder, config.peaks):
            log(f"WARNING: {warning}")
        _write(folder, config, found, powder, log)
    comm.barrier()


def check(config: SpotPowderConfig, log: Log) -> None:
    """Validate a job without reading spots: settings, inputs, output folder."""
    files = _inputs(config)
    if problem := refusal(_output(config)):
        raise OutputError(problem)
    if config.simulate is None:
        log.show(counts_table("Inputs", {f.label: f.format.name for f in files}))
        told = f"{len(files)} input files"
    else:
        told = f"{config.simulate.n_stills:,} stills would be simulated"
    log(f"The job is valid: {told}, results would go to '{config.output.folder}'.")


def _inputs(config: SpotPowderConfig) -> list[InputFile]:
    if config.simulate is None:
        return list_inputs(config.input.paths, config.input.exclude, Path.cwd())
    if config.input.paths:
        raise ConfigError(
            "Both input.paths and a [simulate] table are given, so it is not clear what to read. "
            "Remove the [simulate] table to read the files, or input.paths to simulate."
        )
    return []


def _output(config: SpotPowderConfig) -> Output:
    """The folder as `outputs` takes it: nothing of this job is gone on with, so that to resume is
    to begin anew."""
    settings = config.output
    return Output(folder=settings.folder, overwrite=settings.overwrite or settings.resume)


# ---- reading -------------------------------------------------------------------------------


@dataclass(eq=False)
class _Gathered:
    """Spots of the files, in their order."""

    tables: list[Spots] = field(default_factory=list)
    n_shots: int = 0
    pixel_mm: float = 0.0

    def add(self, number: int, arrays: Arrays) -> None:
        """Add those of one file, its images counted on from the ones before."""
        columns = {name: arrays[name] for name in ("position_mm", "wavelength_A", "intensity")}
        self.tables.append(Spots(shot=arrays["shot"] + np.int32(self.n_shots), **columns))
        self.n_shots += int(arrays["n_shots"])
        self.pixel_mm = self.pixel_mm or float(arrays["pixel_mm"])


def _read(files: list[InputFile], strict: bool, comm: Comm, log: Log) -> SpotSet:
    """The spots of all files on rank 0, none elsewhere."""
    gathered = _Gathered()
    notes: list[tuple[int, str]] = []

    def read(number: int) -> Arrays:
        found = read_spots(files[number].path, strict)
        notes.extend((number, note) for note in found.notes)
        constants = {"n_shots": np.array(found.n_shots), "pixel_mm": np.array(found.pixel_mm)}
        return found.spots.columns() | constants

    with log.progress(len(files), "reading") as advance:
        outcome = deal(comm, Stage("spots", read), len(files), gathered.add, progress=advance)
    for number, note in sorted({n for said in comm.allgather(notes) for n in said}):
        log(f"{files[number].label}: {note}")
    for number, reason in sorted(outcome.failed.items()):
        log(f"WARNING: {files[number].label} failed twice and was left out: {reason}")
    none = Spots(np.empty(0, np.int32), np.empty((0, 3)), np.empty(0), np.empty(0, np.float32))
    return SpotSet(concatenate([*gathered.tables] or [none]), gathered.n_shots, gathered.pixel_mm)


def _warnings(powder: SpotPowder, settings: SpotPeakSettings) -> Iterator[str]:
    """What may spoil the lines."""
    found_mm, reach_mm = float(np.hypot(*powder.centre_mm)), settings.centre_reach_mm
    if reach_mm > 0 and found_mm > AT_THE_EDGE * reach_mm:
        yield (
            f"the centre of the beam was found {found_mm:.2f} mm from the recorded one, as far off "
            "as it was looked for. Correct the geometry, or raise peaks.centre_reach_mm."
        )
    first = powder.peaks.take(slice(0, FIRST_LINES))
    q = np.sqrt(first.q2)
    uncertain = first.sigma > CROWDED * 2.0 * q * powder.width.sigma(q)
    if (n := int(np.count_nonzero(uncertain))) > MANY:
        yield (
            f"{n} of the first {len(first)} lines overlap with others so that they may be several "
            "lines each; their sigma says so. Indexing needs lines apart: look at powder.html, and "
            "give narrower rings (better geometry, one wavelength) or more stills."
        )


# ---- writing -------------------------------------------------------------------------------


def _write(
    folder: Path, config: SpotPowderConfig, found: SpotSet, powder: SpotPowder, log: Log
) -> None:
    """All results, DONE last."""
    peaks, told = powder.peaks, _told(found, powder)
    lines = PeakList(peaks.q2, peaks.sigma, peaks.intensity)
    comments = (
        f"sfxproc {__version__}: lines of {len(found.spots):,} spots on {found.n_shots:,} images",
        "q2 = 1/d² and its sigma in Å⁻²; intensity: sum over the spots of a line",
    )
    write_peak_list(folder / "peaks.txt", lines, comments)
    write_text(folder / "powder.json", json.dumps(told, indent=1, allow_nan=False) + "\n")
    settings = resolved_toml(config, f"sfxproc {__version__}")
    write_text(folder / "job.resolved.toml", settings)
    d_A = peaks.q2**-0.5
    summary = {
        "lines": len(peaks),
        "d": f"{d_A[0]:.3f} to {d_A[-1]:.3f} Å",
        "σ(d)/d, median": f"{np.median(0.5 * peaks.sigma / peaks.q2):.1e}",
        "width σ of rings": f"{told['ring_sigma_first']:.2e} to {told['ring_sigma_last']:.2e} Å⁻¹",
        "centre of the beam moved by": "{:.3f}, {:.3f} mm".format(*powder.centre_mm),
    }
    log.show(counts_table("Powder pattern of the spots", summary, justify="left"))
    sentence = (
        f"{len(peaks)} lines from {d_A[0]:.2f} to {d_A[-1]:.2f} Å. Results are in '{folder}'."
    )
    log(sentence)
    story = SpotPowderStory(
        title=f"spot-powder {folder.name}", sentence=sentence, figures=summary,
        edges=powder.edges, counts=powder.counts, model=powder.model,
        background=powder.background, lines=peaks.columns(), config_text=settings,
        log_text=log.text,
    )  # fmt: skip
    write_text(folder / "powder.html", spot_powder_html(story))
    write_text(folder / "log.txt", log.text)
    write_text(folder / "DONE", "")


def _told(found: SpotSet, powder: SpotPowder) -> dict[str, object]:
    """What powder.json holds."""
    peaks = powder.peaks
    q = np.sqrt(peaks.q2)
    return {
        "n_spots": len(found.spots),
        "n_images": found.n_shots,
        "pixel_mm": found.pixel_mm,
        "wavelength_A": float(np.median(found.spots.wavelength_A)),
        "centre_mm": powder.centre_mm.tolist(),
        "ring_sigma_first": float(powder.width.sigma(q[0])),
        "ring_sigma_last": float(powder.width.sigma(q[-1])),
        "lines": {name: values.tolist() for name, values in peaks.columns().items()},
    }
