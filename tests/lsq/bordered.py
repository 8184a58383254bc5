"""Random problems with common parameters, and their normal equations written out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from scipy.linalg import null_space

from sfxproc.lsq import Border, Engine, Layout, Loss, Point
from sfxproc.lsq.engine import LOSSES
from sfxproc.parallel.chunks import ChunkSums, plan_chunks
from sfxproc.parallel.comm import Comm, SerialComm
from tests.twins.arrow import blocks_of, rho_and_weight

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class BorderedModel:
    """x = s + 0.02 s², s = a·local + c shared + f·border, of unit variance; all of a, c and f
    given."""

    layout: Layout
    x: Array
    a: Array
    c: Array
    f: Array

    def _sum(self, point: Point, first: int, last: int) -> tuple[slice, Array]:
        layout, border = self.layout, self.layout.border
        assert border is not None
        at = slice(int(layout.start[first]), int(layout.start[last]))
        s = np.sum(self.a[at] * point.local[blocks_of(layout.start, first, last)], axis=1)
        if layout.n_shared:
            s = s + self.c[at] * point.shared[layout.shared[at]]
        columns = border.columns[border.pattern[at]]
        values = np.append(point.border, 0.0)[columns]  # −1 is the last
        return at, s + np.sum(self.f[at] * values, axis=1)

    def rows(
        self, point: Point, first: int, last: int, r: Array, d: Array, a: Array, c: Array, f: Array
    ) -> None:
        at, s = self._sum(point, first, last)
        r[:] = self.x[at] - s - 0.02 * s * s
        if d.size:
            d[:] = np.abs(r)
        slope = -(1.0 + 0.04 * s)[:, None]
        a[:] = slope * self.a[at]
        if self.layout.n_shared:
            c[:] = slope[:, 0] * self.c[at]
        f[:] = slope * self.f[at]

    def deviances(self, point: Point, first: int, last: int, d: Array) -> None:
        at, s = self._sum(point, first, last)
        d[:] = np.abs(self.x[at] - s - 0.02 * s * s)

    def retract(self, point: Point, local: Array, shared: Array, border: Array) -> Point:
        return Point(point.local + local, point.shared + shared, point.border + border)

    def refreshed(self, point: Point) -> Self:
        return self


@dataclass(frozen=True)
class Size:
    """Of a random problem."""

    blocks: int = 30
    p: int = 3
    shared: int = 0
    k: int = 17
    w: int = 5
    each: int = 14
    patterns: int = 12


def bordered(
    size: Size, comm: Comm | None = None, threads: int = 1, seed: int = 1
) -> tuple[Engine, BorderedModel, Point]:
    """This rank's share of a random problem, and a point to begin at."""
    comm = SerialComm() if comm is None else comm
    rng = np.random.default_rng(seed)
    number = rng.integers(size.each // 2, size.each + 1, size.blocks)
    start = np.concatenate([[0], np.cumsum(number)])
    n = int(start[-1])
    columns = np.full((size.patterns, size.w), -1, dtype=np.int32)
    for row in columns:  # a slot unused here and there
        used = min(int(rng.integers(size.w - 1, size.w + 1)), size.k)
        row[rng.permutation(size.w)[:used]] = rng.permutation(size.k)[:used]
    pattern = rng.integers(0, size.patterns, n).astype(np.int32)
    shared = rng.integers(0, max(size.shared, 1), n).astype(np.int32)
    a, f = rng.normal(size=(n, size.p)), rng.normal(size=(n, size.w))
    c = rng.uniform(0.5, 2.0, n)
    truth = Point(
        rng.normal(size=(size.blocks, size.p)),
        rng.normal(size=size.shared),
        rng.normal(size=size.k),
    )
    noise = rng.normal(size=n)
    weights = rng.uniform(0.0, 2.0, (2, size.blocks, size.p))
    chunks = plan_chunks(number, size.shared, comm)
    own = chunks.crystals
    rows = slice(int(start[own.start]), int(start[own.stop]))
    m = own.stop - own.start
    border = Border(
        names=tuple(f"z{i}" for i in range(size.k)),
        columns=columns,
        pattern=pattern[rows],
        free=np.ones(size.k, dtype=bool),
        prior_centre=np.zeros(size.k),
        prior_weight=np.zeros(size.k),
    )
    layout = Layout(
        start=start[own.start : own.stop + 1] - start[own.start],
        shared=shared[rows] if size.shared else np.empty(0, dtype=np.int32),
        n_shared=size.shared,
        chunk=chunks.local_bounds,
        parameters=tuple(f"x{i}" for i in range(size.p)),
        gauge=(),
        free=np.ones((m, size.p), dtype=bool),
        prior_centre=weights[1, own],
        prior_weight=np.zeros((m, size.p)),
        component=np.zeros(m, dtype=np.int32),
        border=border,
    )
    model = BorderedModel(layout, np.zeros(n)[rows], a[rows], c[rows], f[rows])
    own_truth = truth._replace(local=truth.local[own])
    s = model._sum(own_truth, 0, m)[1]
    model = replace(model, x=s + 0.02 * s * s + noise[rows])
    near = Point(0.8 * own_truth.local, 0.8 * own_truth.shared, 0.8 * own_truth.border)
    return Engine(ChunkSums(comm, chunks), threads, np.float64), model, near


# ---- harder ones -------------------------------------------------------------------------------


def plain(model: BorderedModel) -> BorderedModel:
    return model


def with_priors(model: BorderedModel) -> BorderedModel:
    layout, border = model.layout, model.layout.border
    assert border is not None
    rng = np.random.default_rng(3)
    border = replace(
        border,
        prior_centre=rng.normal(size=len(border)),
        prior_weight=rng.uniform(0.0, 5.0, len(border)),
    )
    weight = np.broadcast_to(np.arange(layout.free.shape[1]) + 0.5, layout.free.shape)
    return replace(model, layout=replace(layout, border=border, prior_weight=weight))


def with_fixed(model: BorderedModel) -> BorderedModel:
    """Common parameters, whole blocks and some of other blocks."""
    layout, border = model.layout, model.layout.border
    assert border is not None
    border = replace(border, free=np.arange(len(border)) % 4 != 1)
    free = np.random.default_rng(8).random(layout.free.shape) < 0.7
    free[:2] = False
    return replace(model, layout=replace(layout, border=border, free=free))


def in_two_parts(model: BorderedModel) -> BorderedModel:
    """Blocks with odd numbers touch odd columns and odd shared parameters only."""
    layout, border = model.layout, model.layout.border
    assert border is not None
    odd = np.arange(layout.n_local) % 2
    row = np.repeat(odd, np.diff(layout.start))
    there = border.columns >= 0
    columns = np.concatenate(
        [np.where(there & (border.columns % 2 == i), border.columns, -1) for i in (0, 1)]
    )
    pattern = border.pattern + row * len(border.columns)
    border = replace(border, columns=columns.astype(np.int32), pattern=pattern.astype(np.int32))
    shared = layout.shared
    if layout.n_shared:
        shared = np.minimum(shared // 2 * 2 + row, layout.n_shared - 1).astype(np.int32)
    f = np.where(columns[pattern] >= 0, model.f, 0.0)
    return replace(model, f=f, layout=replace(layout, border=border, shared=shared))


def with_silent_columns(model: BorderedModel) -> BorderedModel:
    """Two common parameters no row touches."""
    layout, border = model.layout, model.layout.border
    assert border is not None
    columns = np.where(np.isin(border.columns, [0, 2]), -1, border.columns).astype(np.int32)
    f = np.where(columns[border.pattern] >= 0, model.f, 0.0)
    return replace(model, f=f, layout=replace(layout, border=replace(border, columns=columns)))


def with_a_column_twice(model: BorderedModel) -> BorderedModel:
    """In the first two slots of every pattern."""
    layout, border = model.layout, model.layout.border
    assert border is not None
    columns = border.columns.copy()
    columns[:, 1] = columns[:, 0]
    return replace(model, layout=replace(layout, border=replace(border, columns=columns)))


CHANGES = [plain, with_priors, with_fixed, in_two_parts, with_silent_columns, with_a_column_twice]


# ---- written out -------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Dense:
    """N d = −gradient over all parameters (local, shared, border), and which take part."""

    N: Array
    gradient: Array
    used: Array

    def step(self, damping: float) -> Array:
        """The damped step."""
        N = self.N + damping * np.diag(np.diag(self.N))
        d = np.zeros(len(N))
        d[self.used] = np.linalg.solve(N[np.ix_(self.used, self.used)], -self.gradient[self.used])
        return d

    def covariance(self, held: Array | None = None) -> Array:
        """The inverse on the subspace held·x = 0, zero where a parameter takes no part."""
        inside = self.N[np.ix_(self.used, self.used)]
        Z = np.eye(len(inside)) if held is None else null_space(held[:, self.used])
        V = np.zeros_like(self.N)
        V[np.ix_(self.used, self.used)] = Z @ np.linalg.inv(Z.T @ inside @ Z) @ Z.T
        return V


def dense(model: BorderedModel, point: Point, loss: Loss) -> Dense:
    """From the model's rows alone, all of them; one process."""
    layout, border = model.layout, model.layout.border
    assert border is not None
    n, p, k = layout.n_local, len(layout.parameters), len(border)
    r, d, c = np.empty((3, layout.n_rows))
    a, f = np.empty((layout.n_rows, p)), np.zeros((layout.n_rows, border.columns.shape[1]))
    model.rows(point, 0, n, r, d, a, c if layout.n_shared else np.empty(0), f)
    J = np.zeros((layout.n_rows, n * p + layout.n_shared + k))
    row = np.arange(layout.n_rows)
    m = blocks_of(layout.start, 0, n)
    for s in range(p):
        J[row, m * p + s] = a[:, s]
    if layout.n_shared:
        J[row, n * p + layout.shared] = c
    for v in range(f.shape[1]):
        h = border.columns[border.pattern, v]
        np.add.at(J, (row[h >= 0], n * p + layout.n_shared + h[h >= 0]), f[h >= 0, v])
    w = rho_and_weight(d, LOSSES[loss.kind], loss.scale)[1]
    zeros = np.zeros(layout.n_shared)
    prior = np.concatenate([layout.prior_weight.ravel(), zeros, border.prior_weight])
    pull = np.concatenate(
        [
            (point.local - layout.prior_centre).ravel(),
            zeros,
            point.border - border.prior_centre,
        ]
    )
    N = (J.T * w) @ J + np.diag(prior)
    free = np.concatenate([layout.free.ravel(), zeros == 0, border.free])
    return Dense(N, J.T @ (w * r) + prior * pull, free & (np.diag(N) > 0))


def flat(point: Any) -> Array:
    """All parameters in the order of `Dense`."""
    return np.concatenate([point.local.ravel(), point.shared, point.border])
