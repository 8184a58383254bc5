"""Combinations with common parameters that the data do not determine: found, named and held."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sfxproc.lsq import LevenbergMarquardt, Loss, Point
from sfxproc.lsq.border.gauge import echelon, named
from sfxproc.lsq.border.solve import border_step, gauges
from sfxproc.lsq.covariance import exact
from sfxproc.lsq.engine import Engine
from tests.lsq.bordered import BorderedModel, Size, bordered, dense, flat
from tests.problems import on_ranks

TILES = 6
SIZE = Size(blocks=25, p=1, k=TILES + 1, w=2, patterns=TILES)


def tiles(
    size: Size = SIZE, comm: Any = None, parts: int = 1
) -> tuple[Engine, BorderedModel, Point]:
    """x = a_m + b_tile + c t (+ u_h) + 0.02 (…)²; block m touches tiles of the same number mod
    parts."""
    engine, model, start = bordered(size, comm)
    layout, border = model.layout, model.layout.border
    assert border is not None
    columns = np.stack([np.arange(TILES), np.full(TILES, TILES)], axis=1).astype(np.int32)
    first = engine.sums.place(layout.n_local)
    block = np.repeat(first + np.arange(layout.n_local), np.diff(layout.start))
    pattern = (border.pattern // parts * parts + block % parts).astype(np.int32)
    border = replace(
        border,
        names=(*(f"b[{i}]" for i in range(TILES)), "c"),
        columns=columns,
        pattern=pattern,
    )
    f = np.stack([np.ones(len(model.x)), model.f[:, 1]], axis=1)
    model = replace(
        model,
        layout=replace(layout, border=border, parameters=("offset",)[: size.p]),
        a=np.ones_like(model.a),
        c=np.ones_like(model.c),
        f=f,
    )
    s = model._sum(start, 0, layout.n_local)[1]
    noise = np.random.default_rng(5).normal(size=10_000)[layout.start[-1] :][: len(s)]
    return engine, replace(model, x=s + 0.02 * s * s + noise), start


def test_what_moves_together_is_named() -> None:
    engine, model, start = tiles()
    result = LevenbergMarquardt().solve(engine, model, start)
    assert result.converged
    assert result.gauge == (
        "Nothing that is measured changes if these move together: b[0], b[1], b[2] and 3 more by "
        "+1; offset of all blocks by -1. This combination is held.",
    )
    assert result.as_dict()["gauge"] == list(result.gauge)
    assert result.n_parameters == model.layout.n_local + TILES + 1 - 1


def test_a_gauge_is_held() -> None:
    """Σ H_jj δ_j = 0 over the tiles, whether the damping is large or none; the rest is the dense
    step."""
    engine, model, start = tiles()
    lin = engine.linearise(model, start, Loss())
    assert lin.border is not None
    weight = lin.border.diagonal[:TILES]
    twin = dense(model, start, Loss())
    for damping in (0.0, 1e-13, 1e-3):
        step = border_step(engine, lin, damping, 0.0)
        b = step.delta.border[:TILES]
        if damping < 1e-6:
            assert abs(weight @ b) < 1e-9 * (weight @ np.abs(b))
        N = twin.N + damping * np.diag(np.diag(twin.N))
        d = flat(step.delta)
        assert np.abs(N @ d + twin.gradient).max() < 1e-8 * np.abs(twin.gradient).max()
        assert step.predicted == pytest.approx(-twin.gradient @ d - 0.5 * d @ twin.N @ d, rel=1e-8)


def test_covariances_are_those_with_the_gauge_held() -> None:
    engine, model, start = tiles()
    lin = engine.linearise(model, start, Loss())
    assert lin.border is not None
    held = np.zeros((1, model.layout.n_local + TILES + 1))
    held[0, -TILES - 1 : -1] = lin.border.diagonal[:TILES]
    V = dense(model, start, Loss()).covariance(held)
    found = exact(engine, lin)
    np.testing.assert_allclose(found.border, V[-TILES - 1 :, -TILES - 1 :], rtol=1e-8, atol=1e-12)
    n = model.layout.n_local
    np.testing.assert_allclose(found.local[:, 0, 0], np.diag(V)[:n], rtol=1e-8)


def test_each_part_that_hangs_together_has_a_gauge_of_its_own() -> None:
    engine, model, start = tiles(parts=2)
    result = LevenbergMarquardt().solve(engine, model, start)
    assert result.converged
    assert len(result.gauge) == 2
    for sentence, own in zip(result.gauge, ("b[0], b[2], b[4]", "b[1], b[3], b[5]"), strict=True):
        assert f": {own} by +1; offset of blocks by -" in sentence


def test_a_prior_or_a_fixed_parameter_takes_it_away() -> None:
    engine, model, start = tiles()
    layout, border = model.layout, model.layout.border
    assert border is not None
    weight, free = np.zeros(len(border)), np.ones(len(border), dtype=bool)
    weight[2], free[3] = 1.0, False
    for other in (replace(border, prior_weight=weight), replace(border, free=free)):
        result = LevenbergMarquardt().solve(
            engine, replace(model, layout=replace(layout, border=other)), start
        )
        assert result.converged
        assert result.gauge == ()


def test_shared_parameters_may_be_part_of_it() -> None:
    engine, model, start = tiles(replace(SIZE, p=0, shared=9))
    result = LevenbergMarquardt().solve(engine, model, start)
    assert result.converged
    assert result.gauge == (
        "Nothing that is measured changes if these move together: b[0], b[1], b[2] and 3 more by "
        "+1; all shared parameters by -1. This combination is held.",
    )
    lin = engine.linearise(result.model, result.point, Loss())
    assert lin.border is not None
    held = np.zeros((1, 9 + TILES + 1))
    held[0, 9:-1] = lin.border.diagonal[:TILES]
    V = np.diag(dense(model, result.point, Loss()).covariance(held))
    found = exact(engine, lin)
    np.testing.assert_allclose(1.0 / lin.D + found.from_local, V[:9], rtol=1e-8)
    np.testing.assert_allclose(np.diag(found.border), V[9:], rtol=1e-8)


def test_ranks_name_it_alike() -> None:
    def work(comm: Any) -> tuple[str, ...]:
        engine, model, start = tiles(comm=comm)
        return gauges(engine, engine.linearise(model, start, Loss()))

    (serial,) = on_ranks(1, work)
    assert len(serial) == 1
    for found in on_ranks(3, work):
        assert found == serial


def test_a_basis_is_brought_to_few_parameters() -> None:
    """Whatever mixture of the combinations is given."""
    wanted = np.array([[1.0, 1.0, 0.0, 0.0, 0.5], [0.0, 0.0, 1.0, -1.0, 0.0]])
    mixed = np.array([[2.0, 1.0], [-1.0, 3.0]]) @ wanted
    np.testing.assert_allclose(np.abs(echelon(mixed.T).T), np.abs(wanted), atol=1e-12)
    assert echelon(np.zeros((5, 0))).shape == (5, 0)


def test_words_leave_out_what_hardly_moves() -> None:
    moves = np.array([1.0, 1.0, -0.5, 1e-9, 0.0])
    names = ("x", "y", "z", "v", "w")
    assert named(names, moves, np.ones(5)) == ["x, y by +1", "z by -0.5"]
