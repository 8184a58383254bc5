"""Running a model's rows over chunks, in threads, and adding up what comes out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any, TypeVar

import numpy as np

from sfxproc.kernels.arrow import (
    CAUCHY,
    HUBER,
    NO_LOSS,
    arrow_kernels,
    dot_by_chunk,
    sum_by_component,
    sum_rho,
)
from sfxproc.lsq.border.normal import (
    Accumulator,
    BorderBlocks,
    Part,
    border_prior,
    packed_size,
    with_priors,
)
from sfxproc.lsq.problem import F8, NONE, AnyModel, Array, Layout, Loss, Point, Rows, Sums
from sfxproc.lsq.step import Outcome, Step

BATCH_ROWS = 16384  # rows evaluated at once: their Jacobian stays in cache
LOSSES = {"none": NO_LOSS, "huber": HUBER, "cauchy": CAUCHY}

T = TypeVar("T")


@dataclass(eq=False)
class Lent:
    """Memory that its owner lends until it needs it again."""

    _array: Array | None

    @property
    def array(self) -> Array:
        """What it holds. Raises RuntimeError once it was taken back."""
        if self._array is None:
            raise RuntimeError(
                "This linearisation is spent: the engine's next one took the memory of its "
                "couplings. Use the newer one, or another engine."
            )
        return self._array

    def take_back(self) -> None:
        """Let nobody use it any longer."""
        self._array = None


@dataclass(frozen=True, eq=False)
class Linearisation:
    """Normal equations at a point, by block (see `kernels.arrow` for the letters).

    C (n_local, p, p), g (n_local, p), e (n_rows, p): of this process; priors are in C and g.
    D (n_shared,), q (n_shared,): summed over all processes. objective = ½ Σ ρ + ½ priors;
    chi2 = Σ r², without priors. border : the border's blocks, if there is one. e is large: the
    engine lends its memory (couplings) until its next linearisation, and asking for it later raises
    RuntimeError.
    """

    layout: Layout
    C: F8
    g: F8
    couplings: Lent
    D: F8
    q: F8
    objective: float
    chi2: float
    border: BorderBlocks | None = None

    @property
    def e(self) -> Array:
        """(n_rows, p) couplings of the rows."""
        return self.couplings.array

    def with_e(self, e: Array) -> Linearisation:
        """With other couplings, in memory of their own."""
        return replace(self, couplings=Lent(e))

    def no_step(self) -> Step[Point]:
        """The step that is none, because it could not be worked out."""
        border = NONE if self.border is None else np.zeros_like(self.border.q)
        none = Point(np.zeros_like(self.g), np.zeros_like(self.q), border)
        return Step(none, 0.0, outcome=Outcome.INDEFINITE)


@dataclass(eq=False)
class Engine:
    """Evaluates models: which sums to use, how many threads, how e is stored."""

    sums: Sums
    threads: int = 1
    storage: type = np.float32
    _workspace: dict[str, Array] = field(default_factory=dict, repr=False)
    _pool: ThreadPoolExecutor | None = field(default=None, repr=False)
    _product: tuple[Array, float, Array] | None = field(default=None, repr=False)
    _lent: Lent = field(default_factory=lambda: Lent(None), repr=False)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def map(self, work: Callable[[int], T], count: int) -> list[T]:
        """work(0), …, work(count − 1), each by the next thread that is free; results in order."""
        if self.threads == 1 or count < 2:
            return [work(i) for i in range(count)]
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.threads)
        out: list[Any] = [None] * count
        numbers = iter(range(count))  # shared: each number goes to one thread

        def thread(_: int) -> None:
            try:
                for i in numbers:
                    out[i] = work(i)
            finally:
                deque(numbers, 0)  # after an error the others need not go on

        list(self._pool.map(thread, range(min(self.threads, count))))
        return out

    def buffer(self, name: str, shape: tuple[int, ...], dtype: type = np.float64) -> Array:
        """An array kept from call to call, contents undefined."""
        held = self._workspace.get(name)
        if held is None or held.shape != shape or held.dtype != dtype:
            held = self._workspace[name] = np.empty(shape, dtype)
        return held

    def times(self, array: Array, factor: float) -> Array:
        """array · factor, of array's type. The last product is kept here: were it kept by models,
        there would be one for each that is still held somewhere."""
        if factor == 1.0:
            return array
        with self._lock:
            if self._product is None or self._product[0] is not array or self._product[1] != factor:
                self._product = None
                self._product = array, factor, array * array.dtype.type(factor)
            return self._product[2]

    def shared_sums(self, layout: Layout, rows: int, fill: Callable[[int, Array], None]) -> F8:
        """(rows, n_shared) what fill(chunk, out) adds to a zeroed `out` of that shape, summed over
        the chunks of all processes."""
        shape = (rows, layout.n_shared)
        total = self.sums.shared(
            rows * layout.n_shared, lambda c, out: fill(c, out.reshape(shape)), self.map
        )
        return total.reshape(shape)

    def linearise(
        self, model: AnyModel, point: Point, loss: Loss, objective: float | None = None
    ) -> Linearisation:
        """Residuals, Jacobian and normal equations at a point.

        objective : its value there, if known: without a loss it then need not be worked out.
        """
        layout = model.layout
        skip = objective is not None and loss.kind == "none"
        n, p = layout.n_local, len(layout.parameters)
        C, g = np.zeros((n, p, p)), np.zeros((n, p))
        self._lent.take_back()
        border, n_shared = layout.border, layout.n_shared
        k = 0 if border is None else len(border)
        arrow = border is None or n_shared > 0
        bordered = border is not None and (k > 0 or n_shared == 0)
        e = self.buffer("e", (layout.n_rows if arrow else 0, p), self.storage)
        self._lent = Lent(e)
        per_chunk = np.zeros((len(layout.chunk) - 1, 2))
        accumulate = arrow_kernels(p).accumulate

        parts: list[Part | None] = [None] * len(per_chunk)
        G = NONE
        if border is not None and k and n_shared:
            G = np.empty((layout.n_rows, border.columns.shape[1]))

        def fill(c: int, out: Array) -> None:
            D, q, beyond = out[:n_shared], out[n_shared : 2 * n_shared], out[2 * n_shared :]
            common = None
            if border is not None and bordered:
                common = Accumulator(layout, border, (LOSSES[loss.kind], loss.scale), c)
            for first, last in batches(layout, c):
                n_rows = int(layout.start[last] - layout.start[first])
                rows = Rows.empty(layout, n_rows, deviances=not skip)
                rows.fill(model, point, first, last)
                if arrow:
                    sums = accumulate(
                        layout.start,
                        layout.shared,
                        first,
                        last,
                        rows.r,
                        rows.r if skip else rows.d,
                        rows.a,
                        rows.c,
                        LOSSES[loss.kind],
                        loss.scale,
                        C,
                        g,
                        e,
                        D,
                        q,
                    )
                if common is not None:
                    sums = common.add(first, last, rows, C, g, G, beyond)
                per_chunk[c] += sums
            parts[c] = None if common is None else common.part

        width = 2 * n_shared + packed_size(k) + k
        total = self.sums.shared(width, fill, self.map)
        D, q = total[: 2 * n_shared].reshape(2, n_shared)
        rho, chi2 = (float(total) for total in self.sums.scalars(per_chunk))
        pull = point.local - layout.prior_centre
        g += layout.prior_weight * pull
        C[:, range(p), range(p)] += layout.prior_weight
        common, border_pull = None, 0.0
        if border is not None and bordered:
            H, gradient = np.split(total[2 * n_shared :], [packed_size(k)])
            border_pull = with_priors(border, H, gradient, point.border)
            common = BorderBlocks(H, gradient, tuple(p for p in parts if p is not None), G)
        if objective is None:
            objective = 0.5 * (rho + self._prior(layout, pull)) + border_pull
        return Linearisation(layout, C, g, self._lent, D, q, objective, chi2, common)

    def objective(self, model: AnyModel, point: Point, loss: Loss) -> float:
        """½ Σ ρ(d) + ½ priors."""
        layout = model.layout

        def chunk(c: int) -> float:
            rho = 0.0
            for first, last in batches(layout, c):
                d = np.empty(int(layout.start[last] - layout.start[first]))
                model.deviances(point, first, last, d)
                rho += sum_rho(d, LOSSES[loss.kind], loss.scale)
            return rho

        per_chunk = np.array(self.map(chunk, len(layout.chunk) - 1)).reshape(-1, 1)
        prior = self._prior(layout, point.local - layout.prior_centre)
        common = border_prior(layout.border, point.border)
        return 0.5 * (float(self.sums.scalars(per_chunk)[0]) + prior) + common

    def _prior(self, layout: Layout, pull: F8) -> float:
        return float(self.dots(layout, layout.prior_weight * pull, pull).sum())

    def dots(self, layout: Layout, a: F8, b: F8) -> F8:
        """(p,) Σ_m a[m, k]·b[m, k] over all local blocks of all processes."""
        return self.sums.scalars(chunk_dots(layout, a, b))

    def component_sums(self, layout: Layout, a: F8) -> F8:
        """(n_components, p) sums of a over the local blocks of each component."""
        p = a.shape[1]
        partial = np.zeros((len(layout.chunk) - 1, layout.n_components, p))
        sum_by_component(layout.chunk, layout.component, a, partial)
        total = self.sums.scalars(partial.reshape(len(partial), layout.n_components * p))
        return total.reshape(layout.n_components, p)

    def gauge_count(self, layout: Layout) -> int:
        """How many null directions the gauge takes off: one a component with free parameters."""
        held = self.component_sums(layout, layout.free.astype(np.float64)) > 0
        return int(np.count_nonzero(held[:, list(layout.gauge)]))


def chunk_dots(layout: Layout, a: F8, b: F8) -> F8:
    """(n_chunks, p) sums of a·b over the local blocks of each chunk."""
    out = np.empty((len(layout.chunk) - 1, a.shape[1]))
    dot_by_chunk(layout.chunk, a, b, out)
    return out


def batches(layout: Layout, chunk: int) -> list[tuple[int, int]]:
    """Runs of local blocks within a chunk, of about BATCH_ROWS rows each."""
    first, end = int(layout.chunk[chunk]), int(layout.chunk[chunk + 1])
    out = []
    while first < end:
        reach = layout.start[first] + BATCH_ROWS
        last = int(np.searchsorted(layout.start[first : end + 1], reach, side="right")) - 1 + first
        last = min(max(last, first + 1), end)
        out.append((first, last))
        first = last
    return out
