"""What a model tells the solver: its blocks, and the rows of its residuals and Jacobian.

The parameters are n_local blocks of p local parameters each and n_shared shared ones. Every
residual belongs to one local block and touches one shared parameter, so that the normal matrix
is an arrow. It may have a border beside: k common parameters, of which a residual touches those of
its pattern. There may be no shared parameters then, and no local ones (p = 0: blocks are only how
rows are dealt out). Nothing here knows what the blocks stand for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from sfxproc.errors import DataError

F8 = NDArray[np.float64]
Array = NDArray[Any]


NONE: F8 = np.empty(0)
"""What a problem without a border has there."""
NONE.flags.writeable = False


class Point(NamedTuple):
    """Values of all parameters: local (n_local, p) of this process, shared (n_shared,), border
    (k,)."""

    local: F8
    shared: F8
    border: F8 = NONE


@dataclass(frozen=True, eq=False)
class Border:
    """The common parameters of a problem, and which of them each row touches.

    names : of the k parameters. columns : (n_patterns, w) int32, the parameters of each pattern,
    −1 for a slot without one. pattern : (n_rows,) int32, of each row of this process. free : (k,)
    bool. prior_centre, prior_weight : (k,), as those of `Layout`.

    Combinations of common and local parameters that leave the model unchanged need not be known:
    the solver finds and holds them.
    """

    names: tuple[str, ...]
    columns: NDArray[np.int32]
    pattern: NDArray[np.int32]
    free: NDArray[np.bool_]
    prior_centre: F8
    prior_weight: F8

    def __len__(self) -> int:
        """k, the number of common parameters."""
        return len(self.names)


@dataclass(frozen=True, eq=False)
class Layout:
    """The structure of a problem, fixed for one solve.

    start : (n_local + 1,) int64, first row of each local block.
    shared : (n_rows,) int32, shared parameter of each row.
    chunk : (n_chunks + 1,) int64, local blocks at which this process's chunks begin. Chunks are
        the unit of threads and of sums; their borders must not depend on the process count.
    parameters : names of the p local parameters.
    gauge : local parameters whose common shift leaves the model unchanged (the shared ones
        making up for it); steps keep their sum over the free blocks of each component at zero.
    component : (n_local,) int32, which connected component a block belongs to; n_components.
    free : (n_local, p) bool; what is not free keeps its value.
    border : common parameters, if there are any.
    prior_centre, prior_weight : (n_local, p); weight = 1/σ² of a Gaussian prior, 0 = none.
    """

    start: Array
    shared: Array
    n_shared: int
    chunk: Array
    parameters: tuple[str, ...]
    gauge: tuple[int, ...]
    free: NDArray[np.bool_]
    prior_centre: F8
    prior_weight: F8
    component: Array
    n_components: int = 1
    border: Border | None = None

    @property
    def n_local(self) -> int:
        """Number of local blocks of this process."""
        return len(self.start) - 1

    @property
    def n_rows(self) -> int:
        """Number of residuals of this process."""
        return int(self.start[-1])


def gauge_rows(
    free: NDArray[np.bool_], component: Array, n_components: int, gauge: tuple[int, ...]
) -> F8:
    """(n_gauge, n_local·p) constraints N x = 0: each sums one gauge column over the free blocks
    of one component; rows without a free block are left out. free : (n_local, p)."""
    n_local, p = free.shape
    rows = np.zeros((n_components, len(gauge), n_local, p))
    for number in range(n_components):
        for n, column in enumerate(gauge):
            rows[number, n, :, column] = free[:, column] & (component == number)
    flat = rows.reshape(n_components * len(gauge), n_local * p)
    return flat[flat.any(axis=1)]


class AnyModel(Protocol):
    """What models have in common, whatever parameters they have."""

    @property
    def layout(self) -> Layout:
        """Structure of the problem."""

    def deviances(self, point: Point, first: int, last: int, d: Array) -> None:
        """Fill deviance residuals only."""

    def refreshed(self, point: Point) -> Self:
        """The model with its error model adapted to this point (itself where that is fixed)."""


class Model(AnyModel, Protocol):
    """A nonlinear model with local and shared parameters."""

    def rows(
        self, point: Point, first: int, last: int, r: Array, d: Array, a: Array, c: Array
    ) -> None:
        """Fill the rows of local blocks first … last−1.

        r : residuals, already divided by their sigmas. d : deviance residuals, what is minimised
        as ½ Σ d²; the same as r unless variances depend on the parameters, and then such that
        the gradient of ½ d² is that of least squares, r ∂r at constant variance; to be left
        alone if empty. a (rows, p) =
        ∂r/∂local and c (rows,) = ∂r/∂shared, at constant variance.
        """

    def retract(self, point: Point, local: F8, shared: F8) -> Point:
        """The point reached by a step."""


class BorderModel(AnyModel, Protocol):
    """A nonlinear model with common parameters too: a model whose layout has a border."""

    def rows(
        self, point: Point, first: int, last: int, r: Array, d: Array, a: Array, c: Array, f: Array
    ) -> None:
        """As that of `Model`, and f (rows, w) = ∂r/∂border for the slots of each row's pattern.

        c is empty where there are no shared parameters. f is zero before.
        """

    def retract(self, point: Point, local: F8, shared: F8, border: F8) -> Point:
        """The point reached by a step."""


ModelT = TypeVar("ModelT", bound=AnyModel)
ModelT_co = TypeVar("ModelT_co", bound=AnyModel, covariant=True)


@dataclass(frozen=True, eq=False)
class Rows:
    """What a model fills for some local blocks, see `Model.rows`; f is empty without a border."""

    r: Array
    d: Array
    a: Array
    c: Array
    f: Array

    @classmethod
    def empty(cls, layout: Layout, n: int, deviances: bool = True) -> Rows:
        """Memory for n rows; without deviances their place is empty."""
        r, a = np.empty(n), np.empty((n, len(layout.parameters)))
        c = np.empty(n if layout.n_shared or layout.border is None else 0)
        f = NONE if layout.border is None else np.zeros((n, layout.border.columns.shape[1]))
        return cls(r, np.empty(n if deviances else 0), a, c, f)

    def fill(self, model: AnyModel, point: Point, first: int, last: int) -> None:
        """Let the model fill them."""
        if model.layout.border is None:
            one = cast(Model, model)
            one.rows(point, first, last, self.r, self.d, self.a, self.c)
        else:
            other = cast(BorderModel, model)
            other.rows(point, first, last, self.r, self.d, self.a, self.c, self.f)


def retracted(model: AnyModel, point: Point, delta: Point) -> Point:
    """The point that a model reaches by a step."""
    if model.layout.border is None:
        return cast(Model, model).retract(point, delta.local, delta.shared)
    return cast(BorderModel, model).retract(point, *delta)


def require_no_border(layout: Layout, what: str) -> None:
    """Raise DataError where there are common parameters, which `what` does not know."""
    if layout.border is not None:
        raise DataError(
            f"{what} cannot be used with common parameters (layout.border): of the solvers "
            '"schur-cg" and "schur-dense" can, and of the covariances the exact ones.'
        )


class Sums(Protocol):
    """How partial results of chunks become totals, with the same bits on any process count."""

    def shared(
        self,
        width: int,
        fill: Callable[[int, F8], None],
        spread: Callable[[Callable[[int], None], int], object],
    ) -> F8:
        """(width,) what fill(chunk, out) adds to a zeroed `out` of that length, summed over the
        chunks of all processes; spread(work, count) calls work for this process's chunks."""

    def joined(self, array: Array, join: Callable[[Array, Array], object]) -> Array:
        """The arrays of all processes joined by join(into, other), on all; overwrites them. The
        result must not depend on the order in which they are joined."""

    def scalars(self, partial: F8) -> F8:
        """Sum (n_chunks, k), a few numbers a chunk, over the chunks of all processes."""

    def agreed(self, value: float) -> float:
        """The first process's value, on all."""

    def told(self, value: Any) -> Any:
        """The first process's value, whatever it is, on all."""

    def gathered(self, rows: Array) -> Array | None:
        """Rows of all processes end to end, on the first one; None elsewhere."""

    def place(self, n: int) -> int:
        """How many the processes before this one have, where this one has n."""


@dataclass(frozen=True)
class Loss:
    """Robust loss: kind 'none', 'huber' or 'cauchy'; residuals beyond `scale` count less."""

    kind: str = "none"
    scale: float = 3.0
