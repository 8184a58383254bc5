"""Linearisation and objective, and the sums they are made of."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from sfxproc.lsq import Engine, Loss, Point
from sfxproc.lsq.engine import BATCH_ROWS, LOSSES, batches
from sfxproc.parallel.chunks import Chunks, ChunkSums
from sfxproc.parallel.comm import SerialComm
from tests.problems import LampModel, lamp_data, lamp_problem, moved, on_ranks, written_out

EVERY_LOSS = [Loss(kind, 1.5) for kind in LOSSES]


def with_priors(model: LampModel) -> LampModel:
    rng = np.random.default_rng(7)
    centre, weight = rng.normal(size=(2, *model.layout.free.shape))
    layout = replace(model.layout, prior_centre=centre, prior_weight=weight**2)
    return replace(model, layout=layout)


@pytest.mark.parametrize("loss", EVERY_LOSS, ids=lambda loss: loss.kind)
def test_gradient_is_the_slope_of_the_objective_along_the_solvers_own_update(loss: Loss) -> None:
    engine, model, start = lamp_problem(lamp_data())
    model = with_priors(model)
    lin = engine.linearise(model, start, loss)
    gradient = np.concatenate([lin.g.ravel(), lin.q])
    rng = np.random.default_rng(3)
    for _ in range(5):
        direction = rng.normal(size=len(gradient))
        ends = [
            engine.objective(model, moved(model, start, direction, h), loss) for h in (-1e-5, 1e-5)
        ]
        slope = (ends[1] - ends[0]) / 2e-5
        assert slope == pytest.approx(gradient @ direction, rel=1e-6)


@pytest.mark.parametrize("loss", EVERY_LOSS, ids=lambda loss: loss.kind)
def test_linearise_and_objective_agree(loss: Loss) -> None:
    engine, model, start = lamp_problem(lamp_data())
    model = with_priors(model)
    lin = engine.linearise(model, start, loss)
    assert engine.objective(model, start, loss) == lin.objective
    known = engine.linearise(model, start, loss, 5.0)
    assert known.objective == 5.0
    assert known.chi2 == lin.chi2
    np.testing.assert_array_equal(known.g, lin.g)
    np.testing.assert_array_equal(known.D, lin.D)


def test_objective_of_least_squares_is_half_chi2_and_priors() -> None:
    engine, model, start = lamp_problem(lamp_data())
    model = with_priors(model)
    lin = engine.linearise(model, start, Loss())
    r = np.empty(model.layout.n_rows)
    model.deviances(start, 0, model.layout.n_local, r)
    prior = (model.layout.prior_weight * (start.local - model.layout.prior_centre) ** 2).sum()
    assert lin.chi2 == pytest.approx((r**2).sum(), rel=1e-12)
    assert lin.objective == pytest.approx(0.5 * (r**2).sum() + 0.5 * prior, rel=1e-12)


def test_batches_cover_each_chunk_once() -> None:
    rng = np.random.default_rng(1)
    number = rng.integers(0, BATCH_ROWS // 3, 60)
    number[[4, 5, 40]] = 3 * BATCH_ROWS, 0, BATCH_ROWS + 1  # larger than a batch
    _, model, _ = lamp_problem(lamp_data())
    start = np.concatenate([[0], np.cumsum(number)])
    layout = replace(
        model.layout,
        start=start,
        chunk=np.array([0, 0, 4, 5, 41, 60]),
        shared=np.zeros(start[-1], dtype=np.int8),
    )
    for c in range(5):
        runs = batches(layout, c)
        blocks = [m for first, last in runs for m in range(first, last)]
        assert blocks == list(range(layout.chunk[c], layout.chunk[c + 1]))
        for first, last in runs:
            assert start[last] - start[first] <= BATCH_ROWS or last == first + 1


def test_many_batches_give_what_one_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, model, start = lamp_problem(lamp_data())
    w = written_out(model, start, Loss("huber", 1.5))
    monkeypatch.setattr("sfxproc.lsq.engine.BATCH_ROWS", 7)
    assert len(batches(model.layout, 0)) > 1
    lin = engine.linearise(model, start, Loss("huber", 1.5))
    np.testing.assert_allclose(np.concatenate([lin.g.ravel(), lin.q]), w.gradient, atol=1e-8)


def test_sums_over_components() -> None:
    """One gauge a component; blocks of none, and components without free parameters."""
    data = lamp_data()

    def work(comm: object) -> tuple[np.ndarray, int]:
        engine, model, _ = lamp_problem(data, comm)  # type: ignore[arg-type]
        assert isinstance(engine.sums, ChunkSums)
        number = engine.sums.chunks.crystals.start + np.arange(model.layout.n_local)
        component = np.where(number < 3, -1, number % 3).astype(np.int32)
        free = model.layout.free & (component != 1)[:, None]
        layout = replace(model.layout, component=component, n_components=3, free=free)
        values = np.stack([number, number**2, 1.0 + 0.0 * number], axis=1)
        return engine.component_sums(layout, values), engine.gauge_count(layout)

    ((serial, count),) = on_ranks(1, work)
    number = np.arange(3, 40)
    for part in range(3):
        own = number[number % 3 == part]
        np.testing.assert_allclose(serial[part], [own.sum(), (own**2).sum(), len(own)])
    assert count == 2
    for got, n in on_ranks(4, work):
        np.testing.assert_array_equal(got, serial)
        assert n == 2


@pytest.mark.parametrize("threads", [1, 3])
def test_map_keeps_the_order_and_passes_errors_on(threads: int) -> None:
    engine = Engine(ChunkSums(SerialComm(), Chunks(np.arange(9), 0, 8)), threads)
    assert engine.map(lambda i: i * i, 20) == [i * i for i in range(20)]
    assert engine.map(lambda i: i, 0) == []
    seen: list[int] = []

    def fails_at_3(i: int) -> None:
        seen.append(i)
        if i == 3:
            raise ZeroDivisionError
        time.sleep(0.01)

    with pytest.raises(ZeroDivisionError):
        engine.map(fails_at_3, 1000)
    assert len(seen) < 1000  # the others do not go on


def test_map_gives_each_number_to_one_thread() -> None:
    engine = Engine(ChunkSums(SerialComm(), Chunks(np.arange(9), 0, 8)), threads=4)
    seen: list[int] = []
    engine.map(seen.append, 20_000)
    assert sorted(seen) == list(range(20_000))


def test_a_problem_without_rows() -> None:
    engine, model, _ = lamp_problem(lamp_data())
    layout = replace(
        model.layout,
        start=np.zeros(3, dtype=np.int64),
        shared=np.empty(0, dtype=np.int32),
        chunk=np.array([0, 1, 2, 2, 2, 2, 2, 2, 2]),
        free=np.ones((2, 3), dtype=bool),
        prior_centre=np.zeros((2, 3)),
        prior_weight=np.ones((2, 3)),
        component=np.full(2, -1, dtype=np.int32),
    )
    point = Point(np.ones((2, 3)), np.ones(layout.n_shared))
    empty = replace(model, layout=layout, x=model.x[:0], t=model.t[:0], weight=model.weight[:0])
    lin = engine.linearise(empty, point, Loss())
    assert (lin.objective, lin.chi2) == (3.0, 0.0)
    assert not lin.D.any()
