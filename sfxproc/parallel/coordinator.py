"""Rank 0 deals independent tasks of uneven length; every rank works on them, rank 0 too.

A task is a number 0 … n−1 and does the same wherever it is done: whatever it needs is told to all
ranks beforehand, whatever it finds are named arrays. They are consumed on rank 0 in the order of
the numbers, so that what is made of them does not depend on who did what when.

A task that raises is tried once more, by another rank if there is one; if that fails too it is set
aside with its reason and the others go on. A user's mistake (UserError) ends the job at once. With
a store, each result is kept as soon as it is found, and what is kept is not done again.
"""

from __future__ import annotations

import socket
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

from numpy.typing import NDArray

from sfxproc.errors import UserError
from sfxproc.parallel.comm import Comm

Arrays = Mapping[str, NDArray[Any]]

NAP_s = 0.001  # of the coordinator while nothing happens
FAREWELL_s = 3.0  # for the tasks at hand when a user's mistake ends the job
ATTEMPTS = 2
END = -1


class Store(Protocol):
    """Where results are kept by key."""

    def save(self, key: str, arrays: Arrays) -> None:
        """Keep a result, whole or not at all."""

    def load(self, key: str) -> dict[str, NDArray[Any]] | None:
        """A result kept before, None if there is none that can be trusted."""


@dataclass(frozen=True)
class Stage:
    """A kind of task: its name, which is also that of its results in a store, and the work."""

    name: str
    work: Callable[[int], Arrays]


@dataclass(frozen=True)
class Outcome:
    """How dealing ended, the same on all ranks.

    failed : why each task that was set aside failed, by number. halted : stopped on request before
    all were done. coordinating_s : time that rank 0 spent on dealing and consuming.
    """

    failed: Mapping[int, str]
    halted: bool
    coordinating_s: float


@dataclass(frozen=True)
class Report:
    """What a rank says when it asks for a task: which it did, what it found or why it failed."""

    task: int = END
    arrays: Arrays | None = None
    reason: str = ""
    mistake: bool = False
    stop: bool = False


def deal(
    comm: Comm,
    stage: Stage,
    n_tasks: int,
    consume: Callable[[int, Arrays], None],
    *,
    store: Store | None = None,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int], None] = lambda n: None,
) -> Outcome:
    """Have all tasks of a stage done. Called on all ranks alike.

    consume : called on rank 0 only, in the order of the numbers, tasks set aside left out. stop :
    asked often, on every rank; once it says yes no further task is begun. progress : told on rank 0
    how many more are done. Raises UserError if a task does.
    """
    worker = Worker(comm.rank, stage, store, stop)
    if comm.rank > 0:
        _serve(comm, worker)
        return Outcome(*comm.bcast(None))
    dealer = Dealer(n_tasks, consume, progress, comm.size == 1)
    dealer.resume(stage.name, store)
    if comm.size == 1:
        while (task := dealer.next_for(0)) is not None:
            dealer.take(worker.attempt(task), 0)
            dealer.halt(stop())
    else:
        _coordinate(comm, dealer, worker)
    outcome = dealer.failed, dealer.halted, dealer.busy_s
    return Outcome(*comm.bcast(outcome))


@dataclass(frozen=True)
class Worker:
    """Does tasks of a stage on one rank."""

    rank: int
    stage: Stage
    store: Store | None
    stop: Callable[[], bool]

    def attempt(self, task: int) -> Report:
        """Do a task, keep what it finds, and report."""
        try:
            arrays = self.stage.work(task)
            if self.store is not None:
                self.store.save(key_of(self.stage.name, task), arrays)
        except UserError as error:
            return Report(task, reason=str(error), mistake=True)
        except Exception:
            where = f"rank {self.rank} on {socket.gethostname()}"
            return Report(task, reason=f"{where}:\n{traceback.format_exc()}", stop=self.stop())
        return Report(task, arrays, stop=self.stop())


@dataclass
class Dealer:
    """The books of rank 0: which tasks wait, failed, or are found but not yet consumed."""

    n_tasks: int
    consume: Callable[[int, Arrays], None]
    progress: Callable[[int], None]
    alone: bool
    waiting: deque[int] = field(default_factory=deque)
    tried: dict[int, list[int]] = field(default_factory=dict)
    found: dict[int, Arrays] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    next_consumed: int = 0
    halted: bool = False
    busy_s: float = 0.0

    def resume(self, name: str, store: Store | None) -> None:
        """Consume what the store holds; the rest waits."""
        for task in range(self.n_tasks):
            arrays = None if store is None else store.load(key_of(name, task))
            if arrays is None:
                self.waiting.append(task)
            else:
                self.settle(task, arrays)

    def next_for(self, rank: int) -> int | None:
        """A task for a rank, not one that it failed at unless it is alone."""
        if self.halted:
            return None
        fits = (t for t in self.waiting if self.alone or rank not in self.tried.get(t, ()))
        task = next(fits, None)
        if task is not None:
            self.waiting.remove(task)
        return task

    def take(self, report: Report, rank: int) -> None:
        """Book a report. Raises UserError for a user's mistake."""
        began = time.perf_counter()
        if report.mistake:
            raise UserError(report.reason)
        self.halt(report.stop)
        if report.arrays is not None:
            self.settle(report.task, report.arrays)
        elif report.task != END:
            before = self.tried.setdefault(report.task, [])
            before.append(rank)
            if len(before) < ATTEMPTS:
                self.waiting.append(report.task)
            else:
                self.failed[report.task] = report.reason
                self.settle(report.task, None)
        self.busy_s += time.perf_counter() - began

    def settle(self, task: int, arrays: Arrays | None) -> None:
        """Hold a result until those before it are consumed; None for a task set aside."""
        if arrays is not None:
            self.found[task] = arrays
        self.progress(1)
        while self.next_consumed in self.found or self.next_consumed in self.failed:
            if self.next_consumed not in self.failed:
                self.consume(self.next_consumed, self.found.pop(self.next_consumed))
            self.next_consumed += 1

    def halt(self, wanted: bool) -> None:
        """Deal no more, if wanted and something is left to deal."""
        self.halted = self.halted or (wanted and self.next_consumed < self.n_tasks)


def key_of(name: str, task: int) -> str:
    """The key of a task's result in a store."""
    return f"{name}/{task:06d}"


def _serve(comm: Comm, worker: Worker) -> None:
    """Ask rank 0 for tasks until there are none."""
    report = Report()
    while True:
        comm.send_object(report, 0)
        task = comm.receive_object(0)
        if task == END:
            return
        report = worker.attempt(task)


def _coordinate(comm: Comm, dealer: Dealer, worker: Worker) -> None:
    """Deal to the other ranks from the main thread while a second one does tasks here."""
    idle: list[int] = []
    at_work = comm.size - 1
    own: Future[Report] | None = None
    pool = ThreadPoolExecutor(1)
    try:
        while True:
            dealer.halt(worker.stop())
            if own is None and (task := dealer.next_for(0)) is not None:
                own = pool.submit(worker.attempt, task)
            for rank in list(idle) if dealer.waiting else ():
                if (task := dealer.next_for(rank)) is not None:
                    comm.send_object(task, rank)
                    idle.remove(rank)
                    at_work += 1
            source = comm.probe()
            if source is not None:
                began = time.perf_counter()
                report = comm.receive_object(source)
                dealer.busy_s += time.perf_counter() - began
                idle.append(source)
                at_work -= 1
                dealer.take(report, source)
            elif own is not None and own.done():
                report, own = own.result(), None
                dealer.take(report, 0)
            elif at_work == 0 and own is None and (dealer.halted or not dealer.waiting):
                break
            else:
                time.sleep(NAP_s)
        for rank in idle:
            comm.send_object(END, rank)
    except UserError:
        _await(comm, at_work, own)
        raise
    finally:
        pool.shutdown(wait=False)  # an error here must not wait for the task at hand


def _await(comm: Comm, at_work: int, own: Future[Report] | None) -> None:
    """Wait for the tasks at hand, lest a rank keep what it found when what is kept has been removed
    already; but not for long ones."""
    end = time.monotonic() + FAREWELL_s
    while time.monotonic() < end and (at_work > 0 or not (own is None or own.done())):
        source = comm.probe()
        if source is None:
            time.sleep(NAP_s)
        else:
            comm.receive_object(source)
            at_work -= 1
