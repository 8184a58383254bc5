"""What a job says while it runs: lines with the time since its start, and progress.

Rank 0 speaks; other ranks are silent. On a terminal progress is a bar; in a batch log it is a
plain line now and then.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

PROGRESS_INTERVAL_s = 10.0
TEXT_WIDTH = 100


class Advance(Protocol):
    """Tell a progress display that n more are done."""

    def __call__(self, n: int = 1) -> None: ...


class Log(Protocol):
    """Where a job reports to."""

    def __call__(self, message: str) -> None:
        """One line: what happened."""

    def show(self, renderable: RenderableType) -> None:
        """A table or anything else rich can print."""

    def progress(self, total: int, description: str) -> AbstractContextManager[Advance]:
        """Progress of `total` equal pieces of work while the block runs."""

    @property
    def text(self) -> str:
        """All lines and tables so far, plain, for `log.txt`."""


@dataclass
class ConsoleLog:
    """A log on a console. `speaks` is false on all ranks but 0; `clock` gives seconds."""

    console: Console
    speaks: bool = True
    clock: Callable[[], float] = time.monotonic
    _start: float = field(init=False)
    _parts: list[str] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self._start = self.clock()

    def __call__(self, message: str) -> None:
        """Print and keep one line, after the seconds since the log was opened."""
        if not self.speaks:
            return
        line = f"{self.clock() - self._start:8.1f} s  {message}"
        self.console.print(line, soft_wrap=True, markup=False, highlight=False)
        self._parts.append(f"{line}\n")

    def show(self, renderable: RenderableType) -> None:
        """Print a table between empty lines, and keep it without colours."""
        if not self.speaks:
            return
        self.console.print("", renderable, "", sep="\n")
        plain = Console(file=io.StringIO(), width=TEXT_WIDTH, color_system=None)
        with plain.capture() as captured:
            plain.print("", renderable, "", sep="\n")
        self._parts.append("\n".join(s.rstrip() for s in captured.get().split("\n")))

    @contextmanager
    def progress(self, total: int, description: str) -> Iterator[Advance]:
        """A bar on a terminal; elsewhere a line at most every PROGRESS_INTERVAL_s."""
        if not self.speaks:
            yield _ignore
        elif self.console.is_terminal:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            )
            with Progress(*columns, console=self.console, transient=True) as bar:
                task = bar.add_task(description, total=total)
                yield lambda n=1: bar.advance(task, n)
        else:
            yield self._plain_progress(total, description)

    def _plain_progress(self, total: int, description: str) -> Advance:
        done, last = 0, self.clock()

        def advance(n: int = 1) -> None:
            nonlocal done, last
            done += n
            if self.clock() - last >= PROGRESS_INTERVAL_s:
                last = self.clock()
                share = f" ({100 * done / total:.0f} %)" if total else ""
                self(f"{description}: {done:,} of {total:,}{share}")

        return advance

    @property
    def text(self) -> str:
        """All lines and tables so far."""
        return "".join(self._parts)


def _ignore(n: int = 1) -> None:
    """Progress on a silent rank."""


def open_log(rank: int = 0) -> ConsoleLog:
    """The log of a job on standard output, silent on ranks other than 0."""
    return ConsoleLog(Console(), speaks=rank == 0)
