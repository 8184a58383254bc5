"""The output folder of a job: the names in it, and whether it may be written to."""

from __future__ import annotations

import shutil
from pathlib import Path

from sfxproc.errors import OutputError
from sfxproc.settings.sections import Output

REFINED, REFINED_FOLDER, UNMERGED = "refined.expt", "refined", "unmerged.mtz"
RESULTS = (
    "merged.mtz", "merged.hkl", "half1.mtz", "half2.mtz", "half1.hkl", "half2.hkl", "frames.h5",
    "statistics.json", "job.resolved.toml", "log.txt", "report.html", "DONE",
    REFINED, UNMERGED,
)  # fmt: skip
GROUPS = "groups"
FOLDERS = (REFINED_FOLDER, GROUPS)
CHECKPOINT = "checkpoint"
OWNER = f"{CHECKPOINT}/job.json"


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


REFINED, REFINED_FOLDER, UNMERGED = "refined.expt", "refined", "unmerged.mtz"
