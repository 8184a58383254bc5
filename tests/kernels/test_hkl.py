"""The loops over Miller indices against their NumPy twins."""

from __future__ import annotations

import numpy as np
import pytest

from sfxproc.kernels import hkl as kernels
from tests.twins import reflections

FOURFOLD = np.array(
    [
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0, -1, 0], [1, 0, 0], [0, 0, 1]],
        [[-1, 0, 0], [0, -1, 0], [0, 0, 1]],
        [[0, 1, 0], [-1, 0, 0], [0, 0, 1]],
    ],
    dtype=np.int8,
)


@pytest.fixture
def hkl() -> np.ndarray:
    return np.random.default_rng(0).integers(-300, 300, (500, 3)).astype(np.int16)


def test_s_squared(hkl: np.ndarray) -> None:
    B = np.random.default_rng(1).normal(size=(3, 3)) * 0.02
    out = np.empty(len(hkl))
    kernels.s_squared(hkl, B.T @ B, out)
    np.testing.assert_allclose(out, reflections.s_squared(hkl, B.T @ B))
    np.testing.assert_allclose(out, 0.25 * ((hkl @ B.T) ** 2).sum(axis=1), rtol=1e-9)


def test_friedel_codes(hkl: np.ndarray) -> None:
    hkl[:50, 2] = 0  # centric in point group 4
    flip = np.where(np.arange(len(hkl)) % 3 == 0, -1, 1)[:, None]
    asu = (hkl @ FOURFOLD[1].astype(int) * flip).astype(np.int32)
    out = np.empty(len(hkl), dtype=np.int64)
    kernels.friedel_codes(hkl, asu, FOURFOLD, out)
    assert np.array_equal(out, reflections.friedel_codes(hkl, asu, FOURFOLD))
    assert np.array_equal(out, np.where(hkl[:, 2] == 0, 0, np.where(flip[:, 0] == 1, 1, 2)))
