"""The loops over crystals in several settings against their NumPy twins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from sfxproc.kernels import ambiguity as kernels

SHRINKAGE = 3.0


@dataclass(frozen=True, eq=False)
class Made:
    """Crystals of unequal size, one of them empty, in three settings of 25 reflections."""

    start: np.ndarray
    row: np.ndarray
    z: np.ndarray
    setting: np.ndarray
    total: np.ndarray
    number: np.ndarray


@pytest.fixture
def made() -> Made:
    rng = np.random.default_rng(3)
    start = np.cumsum([0, 12, 0, 7, 20, 15])
    row = rng.integers(0, 25, (start[-1], 3))
    z = rng.uniform(-1, 1, start[-1])
    setting = np.array([0, 1, 2, 0, 1])
    total, number = merged(start, row, z, setting, 25)
    return Made(start, row, z, setting, total, number)


def merged(
    start: np.ndarray, row: np.ndarray, z: np.ndarray, setting: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray]:
    h = row[np.arange(len(row)), np.repeat(setting, np.diff(start))]
    return np.bincount(h, z, n), np.bincount(h, minlength=n).astype(float)


def others(x: Made, crystal: int, setting: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean and number of each reflection without one crystal, by adding up all others."""
    keep = np.repeat(np.arange(len(setting)) != crystal, np.diff(x.start))
    start = np.append(
        0, np.cumsum(np.where(np.arange(len(setting)) != crystal, np.diff(x.start), 0))
    )
    total, number = merged(start, x.row[keep], x.z[keep], setting, 25)
    return total / (number + SHRINKAGE), number


def test_settle(made: Made) -> None:
    """One sweep; what is kept up on the way is the merge of where the crystals end."""
    setting, objective = made.setting.copy(), 0.0
    for c in range(len(setting)):
        rows = slice(made.start[c], made.start[c + 1])
        mean, _ = others(made, c, setting)
        score = made.z[rows] @ mean[made.row[rows]]
        if score.max() > score[setting[c]]:
            setting[c] = np.argmax(score)
        objective += score.max()
    found, total, number = made.setting.copy(), made.total.copy(), made.number.copy()
    moved, value = kernels.settle(made.start, made.row, made.z, SHRINKAGE, found, total, number)
    np.testing.assert_array_equal(found, setting)
    assert moved == np.count_nonzero(setting != made.setting) > 0
    assert value == pytest.approx(objective, rel=1e-12)
    sums = merged(made.start, made.row, made.z, setting, 25)
    np.testing.assert_allclose(total, sums[0], atol=1e-12)
    np.testing.assert_array_equal(number, sums[1])


def twin(
    x: Made, c: int, row: np.ndarray, mean: np.ndarray, number: np.ndarray
) -> tuple[int, tuple[float, float], float]:
    """Setting, correlations and margin of one crystal."""
    z = x.z[x.start[c] : x.start[c + 1]]
    known = (row >= 0) & (number[row] > 0)
    m = np.where(known, mean[row], 0.0)
    score = z @ m
    best = int(np.argmax(score))
    norm = np.sqrt(np.sum(np.where(known, z[:, None] ** 2, 0.0), axis=0) * np.sum(m**2, axis=0))
    cc = np.divide(score, norm, out=np.zeros(3), where=norm > 0)
    square = np.sqrt(np.sum((z[:, None] * (m[:, [best]] - m)) ** 2, axis=0))
    off = np.divide(score[best] - score, square, out=np.zeros(3), where=square > 0)
    off[best] = np.inf
    next_best = int(np.argmin(off))
    return best, (cc[best], cc[next_best]), off[next_best]


@pytest.mark.parametrize("inside", [True, False])
def test_agreements(made: Made, inside: bool) -> None:
    """Crystals in the merge, and others, of which the merge does not know all reflections."""
    row = made.row if inside else np.where(made.row % 4 == 0, -1, made.row)
    own = made.setting if inside else np.full(5, -1)
    setting, cc, margin = np.empty(5, np.int8), np.empty((5, 2)), np.empty(5)
    total, number = made.total.copy(), made.number.copy()
    number[7] = 0.0 if not inside else number[7]
    kernels.agreements(made.start, row, made.z, SHRINKAGE, own, total, number, setting, cc, margin)
    for c in range(5):
        means = others(made, c, own) if inside else (total / (number + SHRINKAGE), number)
        expected = twin(made, c, row[made.start[c] : made.start[c + 1]], *means)
        assert setting[c] == expected[0]
        np.testing.assert_allclose(cc[c], expected[1], atol=1e-12)
        assert margin[c] == pytest.approx(expected[2], rel=1e-10)
    assert (setting[1], margin[1]) == (0, 0.0)


def test_group_ranks() -> None:
    """Groups of about one resolution, of one crystal; fewer than two groups' worth are one."""
    rng = np.random.default_rng(5)
    start, s2, values = np.array([0, 25, 25, 32]), rng.random(32), rng.normal(size=32)
    values[3] = values[4]
    crystal = np.repeat([0, 2], [25, 7])
    order = np.lexsort((s2, crystal))
    expected = np.empty(32)
    for group in (order[:12], order[12:25], order[25:]):
        rank = np.argsort(np.argsort(values[group], kind="stable"), kind="stable")
        expected[group] = (2 * rank + 1) / len(group) - 1
    z = values.copy()
    kernels.group_ranks(start, order, 12, z)
    np.testing.assert_allclose(z, expected, atol=1e-15)
