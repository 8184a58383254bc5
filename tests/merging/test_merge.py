"""From weighted sums to merged intensities."""

from __future__ import annotations

import numpy as np

from sfxproc.data import Reflections, ReflectionSums
from sfxproc.merging.merge import merge


def test_means_and_their_sigmas() -> None:
    """A half set without weight, or next to none of it, has no mean; the whole has one."""
    weight = np.array([[4.0, 1.0, 0.0, 1e-4], [4.0, 3.0, 0.0, 1.0]])
    mean = np.array([[10.0, 2.0, 0.0, 5e5], [20.0, 6.0, 0.0, 7.0]])
    n = weight.shape[1]
    zeros = np.zeros(n)
    table = Reflections(
        np.zeros((n, 3), np.int16),
        np.zeros(n, np.int8),
        zeros,
        np.zeros(n, bool),
        np.ones(n, np.int16),
    )
    sums = ReflectionSums(weight, weight * mean, np.ones((2, n)), zeros, zeros)
    merged = merge(table, sums, np.full(n, 0.25))
    nan = np.nan
    np.testing.assert_allclose(
        merged.half_intensity, [[10, 2, nan, nan], [20, 6, nan, 7]], rtol=1e-15
    )
    np.testing.assert_allclose(
        merged.half_sigma, [[0.5, 1, nan, nan], [0.5, 3**-0.5, nan, 1]], rtol=1e-15
    )
    total = 1.0 + 1e-4
    np.testing.assert_allclose(
        merged.reflections.intensity, [15, 5, nan, (50.0 + 7.0) / total], rtol=1e-15
    )
    sigma = np.sqrt(np.array([0.125, 0.25, nan, 1 / total]) + 0.25)
    np.testing.assert_allclose(merged.reflections.sigma, sigma, rtol=1e-15)
