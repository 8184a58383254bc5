"""Averages of blocks, each in a gauge of its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sfxproc.lsq import Point
from sfxproc.models.scale import shifted
from sfxproc.models.scale_average import Averaging, BlockSolution, gauge_between

N, H = 60, 200
S2 = np.linspace(0.001, 0.07, H)


def truth() -> Point:
    rng = np.random.default_rng(4)
    return Point(rng.normal(size=(N, 2)) * [0.4, 5.0], rng.gamma(1.0, 100.0, H) + 20.0)


def block(
    point: Point,
    first: int,
    last: int,
    shift: tuple[float, float],
    sigma: float = 0.0,
    seed: int = 0,
) -> BlockSolution:
    """Part of the truth in another gauge, with noise of relative size sigma."""
    rng = np.random.default_rng(seed)
    sets = np.zeros(last - first, dtype=np.int32), np.zeros(H, dtype=np.int32)
    noisy = point.shared * (1.0 + sigma * rng.normal(size=H))
    moved = shifted(Point(point.local[first:last], noisy), np.array([shift]), *sets, S2)
    D = 1.0 / np.maximum(sigma * moved.shared, 1e-3 * moved.shared) ** 2
    return BlockSolution(moved.local, np.ones((last - first, 2)), moved.shared, D, *sets)


def averaged(*blocks: tuple[int, BlockSolution], reference: Point | None = None) -> Averaging:
    D = None if reference is None else np.full(H, 1e4)
    averaging = Averaging(np.zeros((N, 2)), S2, reference, D)
    for first, solution in blocks:
        averaging.add(first, solution)
    return averaging


def test_gauge_between() -> None:
    point = truth()
    moved = block(point, 0, N, (0.7, -3.0))
    found = gauge_between(moved.shared, point.shared, moved.D, np.ones(H), S2)
    np.testing.assert_allclose(found, [-0.7, 3.0], rtol=1e-9)


def test_too_little_to_tell_the_gauge() -> None:
    point = truth()
    moved = block(point, 0, N, (0.7, 0.0))
    few, none = np.zeros(H), np.zeros(H)
    few[:5] = 1.0
    found = gauge_between(moved.shared, point.shared, moved.D * few, np.ones(H), S2)
    np.testing.assert_allclose(found, [-0.7, 0.0], atol=1e-9)
    assert not gauge_between(moved.shared, point.shared, moved.D * none, np.ones(H), S2).any()


def test_without_b_factors_only_ln_G_is_aligned() -> None:
    point = truth()
    moved = block(point, 0, N, (0.7, -3.0))
    found = gauge_between(moved.shared, point.shared, moved.D, np.ones(H), S2, b_factor=False)
    assert found[1] == 0.0
    assert found[0] != 0.0


def test_blocks_are_aligned_before_they_are_averaged() -> None:
    """Exactly so where they agree; what is averaged is in the gauge of the first."""
    point = truth()
    gauges = [(0.0, 0.0), (0.5, 4.0), (-1.0, -2.0)]
    parts = [(20 * i, block(point, 20 * i, min(20 * i + 30, N), g)) for i, g in enumerate(gauges)]
    averaging = averaged(*parts)
    found = averaging.point()
    np.testing.assert_allclose(found.local, point.local, atol=1e-8)
    np.testing.assert_allclose(found.shared, point.shared, rtol=1e-9)
    assert averaging.disagreement() < 1e-4


def test_a_reference_sets_the_gauge() -> None:
    point = truth()
    found = averaged((0, block(point, 0, N, (0.5, 4.0))), reference=point).point()
    np.testing.assert_allclose(found.local, point.local, atol=1e-8)


def test_information_is_the_weight() -> None:
    point = truth()
    good, poor = block(point, 0, N, (0, 0), 0.01, 1), block(point, 0, N, (0, 0), 0.2, 2)
    both = averaged((0, good), (0, poor))
    np.testing.assert_allclose(both.information(), good.D + poor.D, rtol=0.1)
    error = [np.std(p.shared / point.shared - 1.0) for p in (good, poor, both.point())]
    assert error[2] < 1.1 * error[0] < error[1]
    assert both.disagreement() == pytest.approx(np.sqrt(0.5), rel=0.2)


def test_a_set_apart_keeps_its_gauge() -> None:
    """Crystals that share nothing with those there are averaged as they are."""
    point = truth()
    first, second = block(point, 0, 30, (0, 0)), block(point, 30, N, (0.5, 0.0))
    here = np.arange(H) < H // 2
    apart = [
        BlockSolution(
            b.local,
            b.information,
            b.shared,
            np.where(inside, b.D, 0.0),
            b.of_crystal,
            np.where(inside, 0, -1),
        )
        for b, inside in ((first, here), (second, ~here))
    ]
    found = averaged((0, apart[0]), (30, apart[1])).point()
    np.testing.assert_allclose(found.local[:30], point.local[:30], atol=1e-12)
    elsewhere = point.local[30:] + np.array([0.5, 0.0])
    np.testing.assert_allclose(found.local[30:], elsewhere, atol=1e-12)


def test_other_parameters_are_those_of_the_last_block() -> None:
    """And what crystals begin with where there is no block."""
    point = truth()
    more = np.random.default_rng(1).normal(size=(3, N, 2))
    averaging = Averaging(np.hstack([np.zeros((N, 2)), more[2]]), S2)
    for number, (first, last) in enumerate(((0, 30), (15, 45))):
        one = block(point, first, last, (0.3, 0.0) if number else (0.0, 0.0))
        local = np.hstack([one.local, more[number, first:last]])
        averaging.add(first, replace(one, local=local, information=np.ones(local.shape)))
    local = averaging.point().local
    np.testing.assert_allclose(local[:45, :2], point.local[:45], atol=1e-9)
    np.testing.assert_array_equal(local[:15, 2:], more[0, :15])
    np.testing.assert_array_equal(local[15:45, 2:], more[1, 15:45])
    np.testing.assert_array_equal(local[45:, 2:], more[2, 45:])


def test_what_no_block_tells_is_zero() -> None:
    point = truth()
    found = averaged((0, block(point, 0, 30, (0, 0)))).point()
    assert not found.local[30:].any()
