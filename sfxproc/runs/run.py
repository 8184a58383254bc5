"""One run of a job: its output folder claimed, gone on with or begun, and in the end complete."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from sfxproc import signals
from sfxproc.errors import Stopped, UserError
from sfxproc.formats.checkpoint import Checkpoint
from sfxproc.parallel.comm import Comm
from sfxproc.parallel.decide import on_rank_0
from sfxproc.report.log import Log
from sfxproc.runs.contents import Claim
from sfxproc.runs.folder import OutputFolder, drop_state, hold
from sfxproc.runs.manifest import Stamp, stamp_of
from sfxproc.runs.names import CHECKPOINT
from sfxproc.runs.progress import SignsOfLife
from sfxproc.runs.stages import Stages, TasksFailed

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Finished:
    """What a job leaves. files : all that it wrote, relative to the folder. told : its figures, as
    they are in the file of them. sentence : what came of it."""

    folder: Path
    files: tuple[str, ...]
    told: Mapping[str, object]
    sentence: str


@dataclass(eq=False)
class Run:
    """A job under way in its output folder, on all ranks.

    resumed : whether it goes on from an earlier start. complete : what was written, if the results
    are complete already and there is nothing to do. inputs : what it reads, by absolute path, as
    the files were when it began. output : the folder under the lock, on the first rank.
    """

    claim: Claim
    comm: Comm
    log: Log
    resumed: bool
    complete: tuple[str, ...] | None
    inputs: Mapping[str, Stamp]
    output: OutputFolder | None
    store: Checkpoint = field(init=False)
    life: SignsOfLife = field(init=False)
    stages: Stages = field(init=False)
    _kept_at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.store = Checkpoint(self.folder / CHECKPOINT)
        comm, first = self.comm, self.comm.rank == 0
        self.life = SignsOfLife(self.folder, comm.size, first, self.begin_state)
        self.stages = Stages(comm, self.log, self.life, self.store)

    @property
    def folder(self) -> Path:
        """Of the output."""
        return self.claim.folder

    @property
    def threads(self) -> int:
        """Of each rank."""
        return self.claim.threads or 1

    # ---- state -----------------------------------------------------------------------------

    def begin_state(self) -> None:
        """Make the checkpoint known as this job's, before anything is kept in it. Any rank may
        call, the first one writes. Raises OutputError."""
        if self.output is not None:
            self.output.begin_state()

    def asked(self) -> bool:
        """Whether the state should be kept now: it is time, or a rank was asked to stop. On all
        ranks."""
        due = time.monotonic() - self._kept_at >= self.claim.interval_s
        due = due and self.comm.rank == 0
        return self.comm.any_true(due or signals.requested() is not None)

    def stop_wanted(self) -> bool:
        """Whether any rank was asked by a signal to stop, on all ranks."""
        return self.comm.any_true(signals.requested() is not None)

    def save(self, key: str, arrays: Arrays | None) -> None:
        """Keep the first rank's arrays, in a job that goes on from them. Called on all ranks.
        Raises OutputError."""
        if self.comm.rank == 0:
            assert arrays is not None
            self.begin_state()
            self.store.save(key, arrays)
        self._kept_at = time.monotonic()
        signals.keeping(self.store.folder)

    def load(self, key: str) -> dict[str, NDArray[Any]] | None:
        """What an earlier start of the job kept, from the first rank to all; None if there is
        nothing, or nothing that can be used, which is logged."""
        arrays = None
        if self.comm.rank == 0 and self.resumed:
            arrays = self.store.load(key)
            for note in self.store.notes:
                self.log(f"WARNING: {note}")
            self.store.notes.clear()
        kept: dict[str, NDArray[Any]] | None = self.comm.bcast(arrays)
        if kept is not None:
            signals.keeping(self.store.folder)
        return kept

    @contextmanager
    def refusable(self) -> Iterator[None]:
        """Within the block a mistake of the user's ends the job for good: what was kept until then
        would not fit once it is mended, so it is dropped."""
        try:
            yield
        except (Stopped, TasksFailed):
            raise
        except UserError:
            if not self.resumed and self.output is not None:
                drop_state(self.folder)
            raise

    # ---- files -----------------------------------------------------------------------------

    def new(self, name: str) -> Path:
        """Where a file of this name is to be written, in a folder that is there; on the first rank.
        Raises OutputError if somebody else's file is there."""
        assert self.output is not None
        return self.output.new(name)

    def changed_inputs(self) -> dict[str, str]:
        """What happened to input files since the job began, by path; on one rank."""
        now = {path: stamp_of(Path(path)) for path in self.inputs}
        return {
            path: "is no longer there" if stamp is None else f"was replaced: now {stamp}"
            for path, stamp in now.items()
            if stamp != self.inputs[path]
        }

    def finish(self, finished: Finished | None) -> Finished:
        """Write the log and, last, DONE; the end of a job whose results are written, told to all
        ranks. finished : on the first rank."""
        if self.output is not None:
            assert finished is not None
            files = self.output.finish(self.log.text)
            finished = Finished(finished.folder, files, finished.told, finished.sentence)
        told: Finished = self.comm.bcast(finished)
        return told


@contextmanager
def opened(claim: Claim, comm: Comm, log: Log) -> Iterator[Run]:
    """A run in the claimed folder, under its lock until the block ends; on all ranks.

    Only the first rank touches the disk; errors are raised on all. If the block fails, what can be
    gone on from is left, otherwise the folder is as it was found. Raises OutputError if the folder
    must not or cannot be written to, InputError if inputs are missing, ConfigError if what is there
    and is to be gone on with is of another job.
    """
    output = on_rank_0(comm, lambda: hold(claim))
    state = None
    if output is not None:
        complete = output.manifest.files if output.lock is None else None
        state = output.resumed, complete, output.manifest.facts.inputs
    resumed, complete, inputs = comm.bcast(state)
    run = Run(claim, comm, log, resumed, complete, inputs, output)
    if run.complete is None:
        _tell_beginning(run)
    try:
        yield run
    except BaseException:
        if output is not None:
            output.abandon()
        raise
    if output is not None:
        output.release()


def _tell_beginning(run: Run) -> None:
    """Log whether the job goes on, and whose lock it took over."""
    if run.output is not None and run.output.lock is not None and run.output.lock.note:
        run.log(f"took over {run.output.lock.note}")
    if run.resumed:
        run.log(f"going on with the job in '{run.folder}'")
    elif run.claim.output.resume:
        run.log(f"there is no job to go on with in '{run.folder}': it begins anew")
