"""`python -m benchmarks border`: a linearisation and a step with common parameters.

Rows of 2000 blocks of 10 local parameters, each touching 24 of 390 common ones by one of 128
patterns: six that all have, as a beam is, and 18 of the others. Derivatives are Chebyshev
polynomials, worked out anew at each linearisation, as a model of geometry would.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numba import njit

from benchmarks.memory import peak_MB
from benchmarks.runs import Column, Figures, machine, number, table, told, write_json
from sfxproc.lsq import Border, Engine, Layout, Loss, Point
from sfxproc.lsq.border.normal import packed_size
from sfxproc.lsq.border.solve import border_step
from sfxproc.lsq.covariance import exact
from sfxproc.parallel.chunks import ChunkSums, plan_chunks
from sfxproc.parallel.comm import SerialComm
from tests.twins.arrow import blocks_of

F8 = np.ndarray
COMMON = 6  # columns that every pattern has
PATTERNS = 128
COLUMNS: list[Column] = [
    ("blocks", number("blocks")),
    ("local", number("local")),
    ("common", number("common")),
    ("w", number("slots")),
    ("rows", number("rows")),
    ("linearise CPU s", number("linearise", ".3f")),
    ("step CPU s", number("step", ".3f")),
    ("both", number("both", ".3f")),
    ("exact covariances CPU s", number("exact", ".2f")),
    ("peak MB", number("peak_MB")),
    ("before", number("before_MB")),
]


@njit(cache=True, nogil=True)
def polynomials(t, out):  # type: ignore[no-untyped-def]
    """out[i, n] = Tₙ(t[i])."""
    for i in range(len(t)):
        for n in range(out.shape[1]):
            if n < 2:
                out[i, n] = 1.0 if n == 0 else t[i]
            else:
                out[i, n] = 2.0 * t[i] * out[i, n - 1] - out[i, n - 2]


@njit(cache=True, nogil=True)
def subtract_model(a, f, block, local, columns, pattern, common, r):  # type: ignore[no-untyped-def]
    """r −= a·local + f·common of each row."""
    for i in range(len(r)):
        for s in range(a.shape[1]):
            r[i] -= a[i, s] * local[block[i], s]
        for v in range(f.shape[1]):
            r[i] -= f[i, v] * common[columns[pattern[i], v]]


@dataclass(frozen=True, eq=False)
class Polynomials:
    """x = Σ Tₛ(t) local + Σ Tᵥ(v) common, of unit variance."""

    layout: Layout
    x: F8
    t: F8
    v: F8

    def rows(self, point: Point, first: int, last: int, r: F8, d: F8, a: F8, c: F8, f: F8) -> None:
        """Residuals and derivatives."""
        layout, border = self.layout, self.layout.border
        assert border is not None
        at = slice(layout.start[first], layout.start[last])
        polynomials(self.t[at], a)
        polynomials(self.v[at], f)
        r[:] = self.x[at]
        block = blocks_of(layout.start, first, last)
        subtract_model(
            a, f, block, point.local, border.columns, border.pattern[at], point.border, r
        )
        if d.size:
            d[:] = np.abs(r)
        a *= -1.0
        f *= -1.0

    def deviances(self, point: Point, first: int, last: int, d: F8) -> None:
        """Their absolute values."""
        border = self.layout.border
        assert border is not None
        a, f = (np.empty((len(d), n)) for n in (point.local.shape[1], border.columns.shape[1]))
        self.rows(point, first, last, d, np.empty(0), a, np.empty(0), f)
        np.abs(d, out=d)

    def retract(self, point: Point, local: F8, shared: F8, border: F8) -> Point:
        """Parameters plus step."""
        return Point(point.local + local, point.shared, point.border + border)

    def refreshed(self, point: Point) -> Self:
        """The same."""
        return self


def problem(
    blocks: int, p: int, k: int, w: int, rows: int, threads: int
) -> tuple[Engine, Polynomials, Point]:
    """A problem of these sizes, and a point off its minimum."""
    rng = np.random.default_rng(1)
    start = np.linspace(0, rows, blocks + 1).astype(np.int64)
    fixed = min(COMMON, w, k)
    columns = np.stack(
        [
            np.concatenate([np.arange(fixed), fixed + rng.permutation(k - fixed)[: w - fixed]])
            for _ in range(PATTERNS)
        ]
    ).astype(np.int32)
    border = Border(
        names=tuple(f"common[{i}]" for i in range(k)),
        columns=columns,
        pattern=rng.integers(0, PATTERNS, rows).astype(np.int32),
        free=np.ones(k, dtype=bool),
        prior_centre=np.zeros(k),
        prior_weight=np.full(k, 1e-3),
    )
    chunks = plan_chunks(np.diff(start), packed_size(k), SerialComm())
    layout = Layout(
        start=start,
        shared=np.empty(0, dtype=np.int32),
        n_shared=0,
        chunk=chunks.local_bounds,
        parameters=tuple(f"local_{s}" for s in range(p)),
        gauge=(),
        free=np.ones((blocks, p), dtype=bool),
        prior_centre=np.zeros((blocks, p)),
        prior_weight=np.zeros((blocks, p)),
        component=np.zeros(blocks, dtype=np.int32),
        border=border,
    )
    model = Polynomials(
        layout, rng.normal(size=rows), rng.uniform(-1.0, 1.0, rows), rng.uniform(-1.0, 1.0, rows)
    )
    engine = Engine(ChunkSums(SerialComm(), chunks), threads)
    return engine, model, Point(np.zeros((blocks, p)), np.zeros(0), np.zeros(k))


def add_arguments(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command."""
    border = commands.add_parser("border", help="a step with common parameters")
    border.add_argument("--blocks", type=int, default=2000)
    border.add_argument("--local", type=int, default=10)
    border.add_argument("--common", type=int, default=390)
    border.add_argument("--slots", type=int, default=24, help="common parameters of a row")
    border.add_argument("--rows", type=int, default=320_000)
    border.add_argument("--threads", type=int, default=1)
    border.add_argument("--repeat", type=int, default=3, help="the least CPU time is shown")
    border.add_argument("--exact", action="store_true", help="exact covariances too")
    border.add_argument("--json", metavar="FILE")
    border.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measure, and print a table."""
    before = machine()
    print(told(before))
    sizes = (options.local, options.common, options.slots)
    figures = measured(options.blocks, sizes, options.rows, options)
    print(table([figures], COLUMNS))
    write_json(options.json, [figures], before)
    return 0


def measured(
    blocks: int, sizes: tuple[int, int, int], rows: int, options: argparse.Namespace
) -> Figures:
    """Figures of one problem; a small one of the same kind has had its code compiled."""
    p, k, w = sizes
    once(*problem(8, p, k, w, 8 * max(2 * p, 20), options.threads), exactly=options.exact)
    before = peak_MB()
    large = problem(blocks, p, k, w, rows, options.threads)
    runs = [once(*large, exactly=False) for _ in range(options.repeat)]
    best = min(runs, key=lambda run: run["both"])
    figures: Figures = {
        "blocks": blocks,
        "local": p,
        "common": k,
        "slots": w,
        "rows": rows,
        **best,
        "before_MB": before,
        "peak_MB": peak_MB(),
    }
    if options.exact:
        figures["exact"] = once(*large, exactly=True)["exact"]
    return figures


def once(engine: Engine, model: Polynomials, point: Point, exactly: bool) -> dict[str, float]:
    """CPU seconds of a linearisation, a step, and, if asked for, exact covariances."""
    lin, linearise = timed(lambda: engine.linearise(model, point, Loss("huber", 3.0)))
    step, seconds = timed(lambda: border_step(engine, lin, 1e-3, 0.0))
    assert step.predicted > 0.0
    told = {"linearise": linearise, "step": seconds, "both": linearise + seconds}
    if exactly:
        told["exact"] = timed(lambda: exact(engine, replace(lin)))[1]
    return told


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What work returns, and the CPU seconds of all threads."""
    begin = time.process_time()
    return work(), time.process_time() - begin
