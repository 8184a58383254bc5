"""Problems that several tests solve, and ranks that are only threads."""

from __future__ import annotations

import pickle
import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from sfxproc.lsq import Engine, Layout, Loss, Model, Point
from sfxproc.lsq.engine import LOSSES
from sfxproc.parallel.chunks import ChunkSums, plan_chunks
from sfxproc.parallel.comm import Comm, SerialComm
from tests.twins.arrow import blocks_of, rho_and_weight

Array = NDArray[Any]
T = TypeVar("T")
Mail = queue.SimpleQueue  # what one rank sent to another


# ---- ranks -------------------------------------------------------------------------------------


class PretendComm:
    """One of several ranks that are threads of this process; as strict about shapes as MPI."""

    def __init__(
        self, rank: int, slots: list[Any], meet: threading.Barrier, mail: dict[Any, Mail]
    ) -> None:
        self.rank, self.size = rank, len(slots)
        self._slots, self._meet, self._mail = slots, meet, mail
        self.received = 0  # arrays

    def barrier(self) -> None:
        self._meet.wait()

    def allgather(self, value: Any) -> list[Any]:
        self._slots[self.rank] = value
        self._meet.wait()
        everything = list(self._slots)
        self._meet.wait()
        return everything

    def bcast(self, value: Any) -> Any:
        return self.allgather(value)[0]

    def allgather_rows(self, rows: Array) -> Array:
        parts = self.allgather(rows)
        assert {p.shape[1:] for p in parts} == {rows.shape[1:]}, [p.shape for p in parts]
        assert {p.dtype for p in parts} == {rows.dtype}
        return np.concatenate(parts)

    def gather_arrays(self, array: Array) -> list[Array] | None:
        parts = [part.copy() for part in self.allgather(array)]
        assert {p.dtype for p in parts} == {array.dtype}
        return parts if self.rank == 0 else None

    def bcast_array(self, array: Array) -> Array:
        first = self.allgather(array)[0]
        assert first.shape == array.shape
        assert first.dtype == array.dtype
        copy = first.copy()
        self._meet.wait()  # nobody writes before everybody has read
        array[...] = copy
        return array

    def exchange(self, parts: list[Array]) -> list[Array]:
        return [row[self.rank].copy() for row in self.allgather(parts)]

    def send_array(self, array: Array, dest: int) -> None:
        self._mail["array", self.rank, dest].put(array.copy())

    def receive_array(self, array: Array, source: int) -> Array:
        sent = self._mail["array", source, self.rank].get(timeout=60)
        assert (sent.shape, sent.dtype) == (array.shape, array.dtype)
        assert array.flags.c_contiguous
        self.received += 1
        array[...] = sent
        return array

    def any_true(self, flag: bool) -> bool:
        return any(self.allgather(flag))

    def send_object(self, value: Any, dest: int) -> None:
        self._mail["object", self.rank, dest].put(pickle.dumps(value))

    def receive_object(self, source: int) -> Any:
        return pickle.loads(self._mail["object", source, self.rank].get(timeout=60))

    def probe(self) -> int | None:
        for rank in range(self.size):
            if not self._mail["object", rank, self.rank].empty():
                return rank
        return None

    def abort(self, status: int) -> None:
        self._meet.abort()


def on_ranks(size: int, work: Callable[[Comm], T]) -> list[T]:
    """What `work` returns on each of `size` ranks."""
    if size == 1:
        return [work(SerialComm())]
    slots, meet = [None] * size, threading.Barrier(size, timeout=120)
    mail = {
        (k, a, b): Mail() for k in ("array", "object") for a in range(size) for b in range(size)
    }

    def one(rank: int) -> T:
        try:
            return work(PretendComm(rank, slots, meet, mail))
        except BaseException:
            meet.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(one, rank) for rank in range(size)]
    errors = [e for f in futures if (e := f.exception()) is not None]
    told = [e for e in errors if not isinstance(e, threading.BrokenBarrierError | queue.Empty)]
    if errors:
        raise (told or errors)[0]
    return [f.result() for f in futures]


# ---- a toy: lamps on photographs ---------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class LampModel:
    """x = exp(a_m) u_h + b_m t + c_m t² with noise of known size: photographs m of exposure a and
    a background in t, lamps h of brightness u."""

    layout: Layout
    x: Array
    t: Array
    weight: Array

    def _predicted(self, point: Point, first: int, last: int) -> tuple[slice, Array, Array, Array]:
        at = slice(int(self.layout.start[first]), int(self.layout.start[last]))
        a, b, c = point.local[blocks_of(self.layout.start, first, last)].T
        f = np.exp(a)
        u, t = point.shared[self.layout.shared[at]], self.t[at]
        return at, f, u, f * u + b * t + c * t * t

    def rows(
        self, point: Point, first: int, last: int, r: Array, d: Array, a: Array, c: Array
    ) -> None:
        at, f, u, y = self._predicted(point, first, last)
        w, t = self.weight[at], self.t[at]
        r[:] = (self.x[at] - y) * w
        if d.size:
            d[:] = np.abs(r)
        a[:] = np.stack([-f * u * w, -t * w, -t * t * w], axis=1)
        c[:] = -f * w

    def deviances(self, point: Point, first: int, last: int, d: Array) -> None:
        at, _, _, y = self._predicted(point, first, last)
        d[:] = np.abs((self.x[at] - y) * self.weight[at])

    def retract(self, point: Point, local: Array, shared: Array) -> Point:
        return Point(point.local + local, point.shared + shared)

    def refreshed(self, point: Point) -> Self:
        return self


@dataclass(frozen=True, eq=False)
class LampData:
    """Photographs of lamps: the whole data, and the truth."""

    start: Array
    shared: Array
    x: Array
    t: Array
    truth: Point
    sigma: float


def lamp_data(
    seed: int = 1, photographs: int = 40, lamps: int = 30, each: int = 12, sigma: float = 0.1
) -> LampData:
    rng = np.random.default_rng(seed)
    number = rng.integers(each // 2, each + 1, photographs)
    shared = np.concatenate([np.sort(rng.choice(lamps, n, replace=False)) for n in number])
    start = np.concatenate([[0], np.cumsum(number)])
    local = rng.normal(0.0, 0.3, (photographs, 3))
    local[:, 0] -= local[:, 0].mean()
    truth = Point(local, rng.uniform(1.0, 5.0, lamps))
    t = rng.uniform(-1.0, 1.0, len(shared))
    a, b, c = local[np.repeat(np.arange(photographs), number)].T
    x = np.exp(a) * truth.shared[shared] + b * t + c * t * t + rng.normal(0.0, sigma, len(t))
    return LampData(start, shared.astype(np.int32), x, t, truth, sigma)


def lamp_problem(
    data: LampData, comm: Comm | None = None, threads: int = 1, storage: type = np.float64
) -> tuple[Engine, LampModel, Point]:
    """This rank's share of the photographs, and a start: exposures 0, mean brightnesses."""
    comm = SerialComm() if comm is None else comm
    number, lamps = np.diff(data.start), len(data.truth.shared)
    chunks = plan_chunks(number, lamps, comm)
    own = chunks.crystals
    rows = slice(int(data.start[own.start]), int(data.start[own.stop]))
    n = own.stop - own.start
    layout = Layout(
        start=data.start[own.start : own.stop + 1] - data.start[own.start],
        shared=data.shared[rows],
        n_shared=lamps,
        chunk=chunks.local_bounds,
        parameters=("a", "b", "c"),
        gauge=(0,),
        free=np.ones((n, 3), dtype=bool),
        prior_centre=np.zeros((n, 3)),
        prior_weight=np.zeros((n, 3)),
        component=np.zeros(n, dtype=np.int32),
    )
    weight = np.full(rows.stop - rows.start, 1.0 / data.sigma)
    model = LampModel(layout, data.x[rows], data.t[rows], weight)
    mean = np.bincount(data.shared, data.x, lamps) / np.maximum(np.bincount(data.shared), 1)
    return (
        Engine(ChunkSums(comm, chunks), threads, storage),
        model,
        Point(np.zeros((n, 3)), mean),
    )


# ---- any model, without the solver -------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Written:
    """A linearised problem written out: H d = −gradient over all parameters (local first), which
    of them may move, and the gauge rows N."""

    H: Array
    gradient: Array
    used: Array
    N: Array


def written_out(model: Model, point: Point, loss: Loss) -> Written:
    """H = JᵀWJ + priors from the model's rows alone; one process."""
    layout = model.layout
    n, p = layout.free.shape
    rows = layout.n_rows
    r, d, a, c = np.empty(rows), np.empty(rows), np.empty((rows, p)), np.empty(rows)
    model.rows(point, 0, n, r, d, a, c)
    J = np.zeros((rows, n * p + layout.n_shared))
    m = blocks_of(layout.start, 0, n)
    for k in range(p):
        J[np.arange(rows), m * p + k] = a[:, k]
    J[np.arange(rows), n * p + layout.shared] = c
    w = rho_and_weight(d, LOSSES[loss.kind], loss.scale)[1]
    prior = np.concatenate([layout.prior_weight.ravel(), np.zeros(layout.n_shared)])
    pull = np.concatenate([(point.local - layout.prior_centre).ravel(), np.zeros(layout.n_shared)])
    used = np.concatenate([layout.free.ravel(), (J[:, n * p :] != 0).any(axis=0)])
    N = []
    for k in layout.gauge:
        for component in range(layout.n_components):
            row = np.zeros((n, p))
            row[:, k] = layout.free[:, k] & (layout.component == component)
            N.append(np.concatenate([row.ravel(), np.zeros(layout.n_shared)]))
    return Written((J.T * w) @ J + np.diag(prior), J.T @ (w * r) + prior * pull, used, np.array(N))


def moved(model: Model, point: Point, direction: Array, step: float) -> Point:
    """`point` after a step along a direction of all parameters, as the solver would take it."""
    n, p = point.local.shape
    d = step * direction
    return model.retract(point, d[: n * p].reshape(n, p), d[n * p :])
