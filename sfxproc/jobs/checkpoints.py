"""The state of a job in `checkpoint/` of its output folder, until its results are complete.

`job.json` there tells whose state it is: settings, program and inputs. It is written before
anything else in the output folder, and a job goes on only from its own.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from sfxproc import __version__, signals
from sfxproc.errors import ConfigError, OutputError, Stopped, UserError
from sfxproc.formats.atomic import atomic
from sfxproc.formats.checkpoint import Checkpoint
from sfxproc.jobs.outputs import CHECKPOINT, OWNER, claim_output, was_stopped
from sfxproc.jobs.settings import Output
from sfxproc.jobs.status import STOPPED, write_progress
from sfxproc.lsq import Engine, Point
from sfxproc.lsq.lm import State
from sfxproc.lsq.problem import NONE, AnyModel, ModelT
from sfxproc.lsq.result import iterations_of, table_of
from sfxproc.parallel.comm import Comm
from sfxproc.report.log import Log

NO_MATTER = (
    "output.folder", "output.overwrite", "output.resume", "output.checkpoint_interval_s",
    "parallel.threads",
)  # fmt: skip
"""Settings that cannot change results."""
MOST_TOLD = 20  # differences between two jobs

Facts = Mapping[str, Any]
Arrays = Mapping[str, NDArray[Any]]


@dataclass(eq=False)
class JobCheckpoint:
    """What a job keeps of its state, and whether it goes on from such a state.

    folder : of the job's output. facts : what tells it from others, on the first rank.
    """

    comm: Comm
    folder: Path
    interval_s: float
    facts: Facts
    resumed: bool
    store: Checkpoint = field(init=False)
    _kept_at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.store = Checkpoint(self.folder / CHECKPOINT)

    def begin(self) -> None:
        """Make the folder known as this job's, before anything is written to it. Any rank may
        call, the first one writes. Raises OutputError."""
        path = self.folder / OWNER
        if self.comm.rank == 0 and not path.exists():
            with atomic(path) as temporary:
                path.parent.mkdir(exist_ok=True)
                temporary.write_text(json.dumps(self.facts, indent=1) + "\n", encoding="utf-8")

    def asked(self) -> bool:
        """Whether the state should be kept now: it is time, or a rank was asked to stop. On all
        ranks."""
        due = time.monotonic() - self._kept_at >= self.interval_s
        due = due and self.comm.rank == 0
        return self.comm.any_true(due or signals.requested() is not None)

    def save(self, key: str, arrays: Arrays | None) -> None:
        """Keep the first rank's arrays, in a job that goes on from them. Called on all ranks.
        Raises OutputError."""
        if self.comm.rank == 0:
            assert arrays is not None
            self.begin()
            self.store.save(key, arrays)
        self._kept_at = time.monotonic()
        signals.keeping(self.store.folder)

    def load(self, key: str, log: Log) -> dict[str, NDArray[Any]] | None:
        """What an earlier run of the job kept, from the first rank to all; None if there is
        nothing, or nothing that can be used, which is logged."""
        arrays = None
        if self.comm.rank == 0 and self.resumed:
            arrays = self.store.load(key)
            for note in self.store.notes:
                log(f"WARNING: {note}")
            self.store.notes.clear()
        told: dict[str, NDArray[Any]] | None = self.comm.bcast(arrays)
        if told is not None:
            signals.keeping(self.store.folder)
        return told

    def remove(self) -> None:
        """Remove it, when results are complete. A file that will not go does no harm."""
        shutil.rmtree(self.store.folder, ignore_errors=True)


def stop_wanted(comm: Comm) -> bool:
    """Whether any rank was asked by a signal to stop, on all ranks."""
    return comm.any_true(signals.requested() is not None)


def stopped(comm: Comm, folder: Path, where: str) -> Stopped:
    """What ends a job on all ranks that stops because it was asked to, its state kept in `folder`,
    that of its output. where : such as "after iteration 7"."""
    signals.keeping(folder / CHECKPOINT)
    if comm.rank == 0:
        write_progress(folder, STOPPED, 0, 0, comm.size, force=True)
    return Stopped(signals.farewell(where))


# ---- whose it is -----------------------------------------------------------------------------


def open_job(
    config: msgspec.Struct, settings: Output, files: Callable[[], Sequence[Path]], comm: Comm,
    log: Log,
) -> JobCheckpoint | None:  # fmt: skip
    """Claim the output folder, for a job that begins or, with output.resume, goes on.

    files : lists what the job reads, on the first rank. None if its results are complete: there is
    nothing to do. Raises OutputError if the folder may not or cannot be written to, InputError if
    inputs are missing, ConfigError if what is kept there is of another job.
    """
    folder = Path(settings.folder)
    if settings.resume and comm.bcast((folder / "DONE").exists()):
        if comm.rank == 0:  # one that was killed just before it did so
            shutil.rmtree(folder / CHECKPOINT, ignore_errors=True)
        log(
            f"The results in '{folder}' are complete already: nothing to do. To do the job anew, "
            "use --overwrite without --resume."
        )
        return None
    found: tuple[Facts, bool] | UserError = ({}, False)
    if comm.rank == 0:
        try:
            found = _claimed(config, settings, files())
        except UserError as error:
            found = error
    found = comm.bcast(found)
    if isinstance(found, UserError):
        raise found
    facts, resumed = found
    if resumed:
        log(f"going on with the job in '{folder}'")
    elif settings.resume:
        log(f"there is no job to go on with in '{folder}': it begins anew")
    return JobCheckpoint(comm, folder, settings.checkpoint_interval_s, facts, resumed)


def _claimed(config: msgspec.Struct, settings: Output, files: Sequence[Path]) -> tuple[Facts, bool]:
    """The facts of the job, and whether it goes on from a checkpoint of its own."""
    folder = Path(settings.folder)
    facts = _facts_of(config, files)
    resumed = settings.resume and was_stopped(folder)
    if resumed:
        _require_same(_read_facts(folder / OWNER), facts, folder)
    claim_output(settings)
    return facts, resumed


def _facts_of(config: msgspec.Struct, files: Sequence[Path]) -> Facts:
    """What a state depends on: program, settings that matter, input files."""
    facts = {"sfxproc": __version__, **dict(_leaves(msgspec.to_builtins(config), ""))}
    paths = [path.expanduser().absolute() for path in files]
    return facts | {f"file '{path}'": _stamp(path) for path in paths if path.exists()}


def _leaves(tree: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    """Settings that matter by dotted path, as they come back from JSON."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{path}{name}.")
        elif f"{path}{name}" not in NO_MATTER:
            yield f"{path}{name}", list(value) if isinstance(value, tuple) else value


def _stamp(path: Path) -> str:
    """Size and time of change of a file; reading it all would take too long."""
    status = path.stat()
    seconds, ns = divmod(status.st_mtime_ns, 1_000_000_000)
    changed = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    return f"{status.st_size:,} bytes, changed {changed}.{ns:09d} UTC"


def _read_facts(path: Path) -> Facts:
    try:
        return dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise OutputError(
            f"'{path}' cannot be read ({error}), so nobody knows whose state is kept there. Begin "
            "anew with --overwrite, without --resume."
        ) from error


def _require_same(kept: Facts, given: Facts, folder: Path) -> None:
    names = [*kept, *(name for name in given if name not in kept)]
    differing = [name for name in names if kept.get(name) != given.get(name)]
    if not differing:
        return
    lines = [f"- {n}: {_shown(kept.get(n))} → {_shown(given.get(n))}" for n in differing]
    if len(lines) > MOST_TOLD:
        lines[MOST_TOLD:] = [f"- and {len(lines) - MOST_TOLD} more"]
    raise ConfigError(
        "\n".join(
            [
                f"The job that was stopped in '{folder}' is not this one (there → here):",
                *lines,
                "Put back what was changed, choose another folder with `--set output.folder=NAME`, "
                "or begin anew with --overwrite, without --resume.",
            ]
        )
    )


def _shown(value: Any) -> str:
    return "not set" if value is None else value if isinstance(value, str) else json.dumps(value)


# ---- states of the solver --------------------------------------------------------------------


def arrays_of(state: State[AnyModel], engine: Engine) -> dict[str, NDArray[Any]] | None:
    """A state but for its model as arrays, on the first rank; None elsewhere. Called on all.

    Local parameters of all ranks lie end to end, so that it fits any number of ranks.
    """
    local = engine.sums.gathered(state.point.local)
    if local is None:
        return None
    return {
        "local": local,
        "shared": state.point.shared,
        "border": state.point.border,
        "damping": np.array([state.damping, state.growth]),
        "known": np.array([] if state.known is None else [state.known]),
        "iterations": table_of(state.iterations),
        "seconds": np.array([state.seconds]),
    }


def state_of(arrays: Arrays, model: ModelT, engine: Engine) -> State[ModelT]:
    """The state of this rank's share that `arrays_of` made these of. model : as adapted then."""
    n_local = model.layout.n_local
    before = engine.sums.place(n_local)
    damping, growth = arrays["damping"].tolist()
    known = arrays["known"].tolist()
    return State(
        Point(
            arrays["local"][before : before + n_local].copy(), arrays["shared"],
            arrays.get("border", NONE),
        ),
        damping, growth, model, known[0] if known else None,
        iterations_of(arrays["iterations"]), float(arrays["seconds"][0]),
    )  # fmt: skip
