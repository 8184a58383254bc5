"""Which setting of a merged set agrees with another one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sfxproc.data import ReferenceSet
from sfxproc.merging.other_settings import SAME, settings_of
from sfxproc.symmetry import possible, space_group

HEXAGONAL = (60.0, 60.0, 80.0, 90.0, 90.0, 120.0)
ORTHORHOMBIC = (40.0, 50.0, 66.0, 90.0, 90.0, 90.0)


def merged(group: str, cell: tuple[float, ...], seed: int = 1) -> ReferenceSet:
    """Wilson intensities to 5 Å."""
    table = possible(space_group(group), cell, 5.0, None, anomalous=False)
    intensity = np.random.default_rng(seed).exponential(100.0, len(table))
    table = replace(table, intensity=intensity, sigma=np.ones(len(table)))
    return ReferenceSet("a.mtz", group, np.array(cell), table)


def turned(data: ReferenceSet, matrix: list[list[int]], cell: tuple[float, ...]) -> ReferenceSet:
    hkl = (data.reflections.hkl @ np.array(matrix)).astype(np.int16)
    return replace(data, cell=np.array(cell), reflections=replace(data.reflections, hkl=hkl))


def test_the_setting_of_the_file_is_kept() -> None:
    data = merged("P 63", HEXAGONAL)
    first, *others = settings_of(data, data, space_group("P 63"))
    assert first.operator is SAME
    assert first.cc == 1.0
    assert [s.operator.triplet for s in others] == ["k,h,-l"]
    assert abs(others[0].cc) < 0.5  # reflections of the planes hh l and hk0 stay


def test_a_merohedral_setting_is_found() -> None:
    data = merged("P 63", HEXAGONAL)
    other = turned(data, [[0, 1, 0], [1, 0, 0], [0, 0, -1]], HEXAGONAL)
    first = settings_of(data, other, space_group("P 63"))[0]
    assert (first.operator.triplet, first.cc) == ("k,h,-l", 1.0)
    assert first.n == len(data.reflections)


@pytest.mark.parametrize(
    ("matrix", "order"),
    [
        ([[0, 1, 0], [0, 0, 1], [1, 0, 0]], (2, 0, 1)),  # h' = l, k' = h, l' = k
        ([[0, 1, 0], [1, 0, 0], [0, 0, -1]], (1, 0, 2)),
    ],
)
def test_axes_in_another_order_are_told_by_the_cell(
    matrix: list[list[int]], order: tuple[int, ...]
) -> None:
    data = merged("P 21 21 21", ORTHORHOMBIC)
    cell = (*(ORTHORHOMBIC[i] for i in order), 90.0, 90.0, 90.0)
    other = turned(data, matrix, cell)
    found = settings_of(data, other, space_group("P 21 21 21"))
    assert len(found) == 1
    assert found[0].cc == 1.0
    np.testing.assert_allclose(found[0].data.cell, ORTHORHOMBIC, rtol=1e-9)


def test_the_face_that_is_centred_stays() -> None:
    data = merged("C 2 2 21", ORTHORHOMBIC)
    other = turned(data, [[0, 1, 0], [0, 0, 1], [1, 0, 0]], (66.0, 40.0, 50.0, 90.0, 90.0, 90.0))
    assert settings_of(data, other, space_group("C 2 2 21")) == ()


def test_other_cells_have_no_setting() -> None:
    data = merged("P 63", HEXAGONAL)
    larger = replace(data, cell=np.array([64.0, 64.0, 80.0, 90, 90, 120]))
    assert settings_of(data, larger, space_group("P 63")) == ()


def test_unrelated_sets_stay_as_they_are() -> None:
    data, other = merged("P 63", HEXAGONAL), merged("P 63", HEXAGONAL, seed=2)
    assert settings_of(data, other, space_group("P 63"))[0].operator is SAME
