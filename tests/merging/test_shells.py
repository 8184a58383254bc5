"""Resolution shells."""

from __future__ import annotations

import numpy as np
import pytest

from sfxproc.merging.shells import assign, d_of, s2_of, shell_edges


def test_shells_have_equal_volume_and_exact_ends() -> None:
    edges = shell_edges(s2_of(50.0, 1.9), 10)
    assert np.allclose(np.diff(edges**1.5), (edges[-1] ** 1.5 - edges[0] ** 1.5) / 10)
    assert edges[0] == s2_of(50.0)[0]
    assert edges[-1] == s2_of(1.9)[0]


def test_shells_of_a_lattice_hold_equally_many_reflections() -> None:
    h = np.arange(-20, 21)
    hkl = np.stack(np.meshgrid(h, h, h), axis=-1).reshape(-1, 3)
    s2 = np.sum(hkl**2, axis=1) / 4.0
    s2 = s2[(s2 > 0) & (s2 <= 100)]
    count = np.bincount(assign(s2, shell_edges(s2, 8)), minlength=8)
    assert count.sum() == len(s2)
    assert np.allclose(count, len(s2) / 8, rtol=0.06)


def test_assign_keeps_the_limits_and_drops_what_lies_outside() -> None:
    edges = shell_edges(s2_of(10.0, 2.0), 2)
    s2 = np.array([*s2_of(10.1, 10.0, 2.0, 1.99), edges[1], np.nan, 0.25 / (2.0 - 1e-9) ** 2])
    assert assign(s2, edges).tolist() == [-1, 0, 1, -1, 1, -1, 1]


def test_resolution_there_and_back() -> None:
    assert d_of(float(s2_of(1.7)[0])) == pytest.approx(1.7)
    assert s2_of(float("inf"))[0] == 0
    assert d_of(0.0) == float("inf")


def test_shells_of_nothing_are_a_bug() -> None:
    with pytest.raises(ValueError, match="at least one"):
        shell_edges(np.array([]), 10)
    with pytest.raises(ValueError, match="at least one"):
        shell_edges(s2_of(10.0, 2.0), 0)
