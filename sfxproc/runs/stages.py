"""A job as a sequence of stages of dealt tasks, each of which is done once and then remembered.

What a stage's tasks find is combined on rank 0, kept in the checkpoint and told to all ranks. A job
that goes on after a stop runs the same code from its beginning: stages that are kept are not done
again, of the one that was interrupted only the tasks that are missing. So the rest of the program
need not know of restarts, and the bits are those of an uninterrupted job.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from sfxproc import signals
from sfxproc.errors import DataError
from sfxproc.formats.checkpoint import Checkpoint
from sfxproc.parallel.combine import FAILED, Combiner, Found, broadcast_arrays
from sfxproc.parallel.comm import Comm
from sfxproc.parallel.coordinator import Arrays, Stage, deal
from sfxproc.report.log import Log
from sfxproc.runs.progress import SignsOfLife


class TasksFailed(DataError):
    """Tasks failed that the job cannot do without; what others found is kept."""


T = TypeVar("T")

MOST_LOST = 0.05  # of the data: what is left would no longer be what was measured


@dataclass(eq=False)
class Stages:
    """The stages of one job: runs each, or remembers it.

    life : told how far they are. store : None keeps nothing. coordinating_s : spent by rank 0 on
    dealing.
    """

    comm: Comm
    log: Log
    life: SignsOfLife
    store: Checkpoint | None
    coordinating_s: float = 0.0
    number: int = 0

    def run(
        self,
        name: str,
        work: Callable[[int], Arrays],
        n_tasks: int,
        combiner: Combiner[T],
        to_all: bool = True,
        all_needed: bool = False,
        lost_share: Callable[[Sequence[int]], float] = lambda failed: 0.0,
        **standing: Any,
    ) -> T:
        """What the combiner makes of what the tasks of a stage find, on all ranks; it is told the
        numbers of the tasks that were set aside as FAILED.

        to_all : False leaves other ranks than 0 without. all_needed : the job cannot do without any
        of them. lost_share : what part of all data is lost if some fail. standing : further things
        for `status` (round, rounds, objective). Raises Stopped if a stop was asked for before all
        were done, DataError if all tasks fail, needed ones do, or more than MOST_LOST is lost.
        """
        key = f"{self.number:03d}-{name}"
        self.number += 1
        lost = (lambda failed: 1.0) if all_needed else lost_share
        kept = self._kept(key) if self.comm.rank == 0 else None
        if self.comm.bcast(kept is None):
            kept = self._deal(key, name, work, n_tasks, combiner, lost, standing)
        return combiner.told(broadcast_arrays(self.comm, kept) if to_all else kept or {})

    def _kept(self, key: str) -> Found | None:
        """What an earlier run of the job found."""
        if self.store is None:
            return None
        found = self.store.load(key)
        for note in self.store.notes:
            self.log(f"WARNING: {note}")
        self.store.notes.clear()
        return found

    def _deal(
        self,
        key: str,
        name: str,
        work: Callable[[int], Arrays],
        n_tasks: int,
        combiner: Combiner[T],
        lost_share: Callable[[Sequence[int]], float],
        standing: Mapping[str, Any],
    ) -> Found | None:
        """The combined result, kept, on rank 0; None elsewhere."""
        done = 0
        if self.store is not None:
            self.life.begin()
        with self.log.progress(n_tasks, name) as advance, signals.deferred():

            def progress(n: int) -> None:
                nonlocal done
                done += n
                advance(n)
                self.life.tell(name, done, n_tasks, **standing)

            outcome = deal(
                self.comm,
                Stage(key, work),
                n_tasks,
                combiner.add,
                store=self.store,
                stop=lambda: signals.requested() is not None,
                progress=progress,
            )
            if outcome.halted:
                raise self.life.stopped(f"in the stage '{name}'")
        self.coordinating_s += outcome.coordinating_s
        if outcome.failed:
            self._tell(name, n_tasks, outcome.failed, lost_share(sorted(outcome.failed)))
        if self.comm.rank > 0:
            return None
        result = combiner.result() | {FAILED: np.array(sorted(outcome.failed), dtype=np.int64)}
        if self.store is not None:
            self.store.save(key, result)
            self.store.drop(f"{key}/")
            signals.keeping(self.store.folder)
        return result

    def _tell(self, name: str, n_tasks: int, failed: Mapping[int, str], lost: float) -> None:
        """Warn of tasks that were set aside. Raises DataError if the job cannot do without."""
        first, reason = min(failed.items())
        place = f"number {first}, on {reason.strip()}"
        if lost > MOST_LOST or len(failed) == n_tasks:
            without = f", with {100 * lost:.0f} % of the data" if 0.0 < lost < 1.0 else ""
            raise TasksFailed(
                f"{len(failed)} of {n_tasks} tasks of the stage '{name}' failed twice{without}, "
                "and the job cannot do without them. What is done is kept: mend the cause and go "
                f"on with `sfxproc run JOB --resume`. The first was {place}"
            )
        self.log(
            f"WARNING: {len(failed)} of {n_tasks} tasks of the stage '{name}' failed twice and "
            f"were set aside ({place})"
        )
