"""The files of a job as a list: what each is called, when there is one, and what writes it."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from sfxproc import __version__
from sfxproc.config import resolved_toml
from sfxproc.formats.atomic import write_text
from sfxproc.runs.manifest import Stamp
from sfxproc.runs.names import SETTINGS
from sfxproc.runs.run import Finished, Run

VERSIONS = ("numpy", "scipy", "numba", "gemmi", "h5py")
PROGRAM = f"sfxproc {__version__}"

ResultsT = TypeVar("ResultsT")
ConfigT = TypeVar("ConfigT", bound=msgspec.Struct)

New = Callable[[str], Path]
"""Where a file of a name is to be written, once it is listed in the manifest."""


@dataclass(frozen=True)
class Frame:
    """What every page shows: title, closing sentence, job.resolved.toml and the log."""

    title: str
    sentence: str
    config_text: str
    log_text: str


@dataclass(frozen=True)
class Output(Generic[ResultsT, ConfigT]):
    """One or more files that are written together, from the results of a job.

    names : relative to the folder; one with / at its end is a folder of files whose names follow
    from the results. when : whether settings ask for it. write : writes them; or html : makes a
    page, when all else is told.
    """

    names: tuple[str, ...]
    write: Callable[[ResultsT, New], None] | None = None
    html: Callable[[ResultsT, Frame], str] | None = None
    when: Callable[[ConfigT], bool] = lambda config: True


def names_of(outputs: Sequence[Output[ResultsT, ConfigT]], config: ConfigT) -> tuple[str, ...]:
    """Names of the files and folders that these settings ask for."""
    return tuple(name for output in outputs if output.when(config) for name in output.names)


def write_outputs(
    run: Run,
    outputs: Sequence[Output[ResultsT, ConfigT]],
    results: ResultsT,
    config: ConfigT,
    told: Mapping[str, object],
    sentence: str,
) -> Finished:
    """Write all that the settings ask for in place of what an earlier job left, and tell the
    sentence; on the first rank. Raises OutputError."""
    assert run.output is not None
    wanted = [output for output in outputs if output.when(config)]
    run.output.replace_earlier()
    files = [name for output in wanted for name in output.names if not name.endswith("/")]
    run.output.announce([*files, SETTINGS])
    for output in wanted:
        if output.write is not None:
            output.write(results, run.new)
    settings = resolved_toml(config, provenance(run.inputs))
    write_text(run.new(SETTINGS), settings)
    sentence += _told_changes(run)
    run.log(sentence)
    frame = Frame(f"{run.claim.kind} {run.folder.name}", sentence, settings, run.log.text)
    for output in wanted:
        if output.html is not None:
            (name,) = output.names
            write_text(run.new(name), output.html(results, frame))
    return Finished(run.folder, run.output.manifest.files, told, sentence)


def provenance(inputs: Mapping[str, Stamp]) -> str:
    """Versions, and inputs with their sizes as the job began."""
    libraries = ", ".join(f"{name} {version(name)}" for name in VERSIONS)
    lines = [f"{PROGRAM}, Python {platform.python_version()}, {libraries}", "inputs:"]
    lines += [f"  {path} ({stamp.bytes:,} bytes)" for path, stamp in inputs.items()]
    return "\n".join(lines if inputs else lines[:1])


def _told_changes(run: Run) -> str:
    """The end of the closing sentence, if inputs are not as they were; the log names them."""
    changes = run.changed_inputs()
    for path, change in changes.items():
        run.log(f"WARNING: the input '{path}' {change}")
    if not changes:
        return ""
    n = "An input file" if len(changes) == 1 else f"{len(changes)} input files"
    return f" {n} changed while the job ran: results may be of neither state (see the log)."
