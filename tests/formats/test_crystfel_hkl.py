"""CrystFEL reflection lists."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sfxproc.data import Reflections
from sfxproc.formats.crystfel_hkl import read_hkl, symbol, write_hkl
from sfxproc.symmetry import space_group


def merged() -> Reflections:
    n = 4
    return Reflections(
        hkl=np.array([[1, 2, 3], [1, 2, 3], [0, 0, 12], [10, 0, 0]], dtype=np.int16),
        friedel=np.array([1, -1, 0, 0], dtype=np.int8),
        s2=np.full(n, 0.01),
        centric=np.zeros(n, dtype=bool),
        epsilon=np.ones(n, dtype=np.int16),
        intensity=np.array([1234.567, -0.5, np.nan, 1e6]),
        sigma=np.array([12.345, 1.0, np.nan, 3.0]),
        n_observations=np.array([10, 1, 0, 12345], dtype=np.int32),
    )


def test_a_reflection_list_to_the_letter(tmp_path: Path) -> None:
    write_hkl(tmp_path / "m.hkl", merged(), "422")
    assert (tmp_path / "m.hkl").read_text() == (
        "CrystFEL reflection list version 2.0\n"
        "Symmetry: 422\n"
        "   h    k    l          I    phase   sigma(I)   nmeas\n"
        "   1    2    3    1234.57        -      12.35      10\n"
        "  -1   -2   -3      -0.50        -       1.00       1\n"
        "  10    0    0 1000000.00        -       3.00   12345\n"
        "End of reflections\n"
    )
    hkl, intensity, sigma, n = read_hkl(tmp_path / "m.hkl")
    assert hkl.tolist() == [[1, 2, 3], [-1, -2, -3], [10, 0, 0]]
    assert intensity.tolist() == [1234.57, -0.5, 1e6]
    assert sigma.tolist() == [12.35, 1.0, 3.0]
    assert n.tolist() == [10, 1, 12345]


def test_unmerged_reflections_are_a_mistake_of_the_caller(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not merged"):
        write_hkl(tmp_path / "m.hkl", replace(merged(), intensity=None), "422")


@pytest.mark.parametrize(
    ("name", "merged", "apart"),
    [
        ("P 43 21 2", "4/mmm", "422"),
        ("P 1 21 1", "2/m_uab", "2_uab"),
        ("P 1 1 2", "2/m_uac", "2_uac"),
        ("C 1 2/m 1", "2/m_uab", "2/m_uab"),
        ("P 1 m 1", "2/m_uab", "m_uab"),
        ("P 31 2 1", "-3m1_H", "321_H"),
        ("P 3 1 2", "-31m_H", "312_H"),
        ("R 3 2", "-3m1_H", "321_H"),
        ("R 3 2:R", "-3m_R", "32_R"),
        ("P 63", "6/m", "6"),
    ],
)
def test_the_point_group_is_named_as_crystfel_names_it(name: str, merged: str, apart: str) -> None:
    assert symbol(space_group(name), friedel_merged=True) == merged
    assert symbol(space_group(name), friedel_merged=False) == apart


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e9])
def test_two_decimals_are_made_to_do(size: float, tmp_path: Path) -> None:
    reflections = Reflections(
        hkl=np.array([[1, 2, 3], [2, 0, 0], [3, 1, 0]], dtype=np.int16),
        friedel=np.zeros(3, np.int8),
        s2=np.array([0.01, 0.02, 0.03]),
        centric=np.zeros(3, bool),
        epsilon=np.ones(3, np.int16),
        intensity=size * np.array([812.5, 31.25, -2.5]),
        sigma=size * np.array([10.0, 5.0, 2.5]),
        n_observations=np.array([5, 6, 7], dtype=np.int32),
    )
    write_hkl(tmp_path / "a.hkl", reflections, "4/mmm")
    _, intensity, sigma, _ = read_hkl(tmp_path / "a.hkl")
    factor = intensity[0] / (size * 812.5)
    assert np.log10(factor) == pytest.approx(round(np.log10(factor)), abs=1e-9)
    np.testing.assert_allclose(intensity, factor * size * np.array([812.5, 31.25, -2.5]), rtol=4e-3)
    np.testing.assert_allclose(sigma, factor * size * np.array([10.0, 5.0, 2.5]), rtol=4e-3)
    lines = (tmp_path / "a.hkl").read_text().splitlines()[3:-1]
    assert {len(line) for line in lines} == {len(lines[0])}
