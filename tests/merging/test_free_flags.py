"""Free-R flags: as many as they should be, tied to indices, shared by twins, inherited."""

from __future__ import annotations

import gemmi
import numpy as np
import pytest

from sfxproc.merging.free_flags import N_FLAGS, free_flags, holohedry
from sfxproc.symmetry import possible, space_group

CELLS = {
    "P 43 21 2": (79.1, 79.1, 38.2, 90, 90, 90),
    "P 43": (79.1, 79.1, 38.2, 90, 90, 90),
    "P 63": (90.0, 90.0, 60.0, 90, 90, 120),
    "P 1 21 1": (50.0, 60.0, 70.0, 90, 101, 90),
    "I 2 3": (110.0, 110.0, 110.0, 90, 90, 90),
}


@pytest.mark.parametrize("name", CELLS)
def test_every_flag_is_a_twentieth(name: str) -> None:
    hkl = possible(space_group(name), CELLS[name], 2.0, None, False).hkl
    flags = free_flags(hkl, space_group(name))
    share = np.bincount(flags, minlength=N_FLAGS) / len(flags)
    assert len(share) == 20
    # flags are drawn for orbits of up to four reflections
    assert np.all(np.abs(share - 0.05) < 5 * np.sqrt(0.05 * 0.95 / (len(flags) / 4)))
    assert share[0] == pytest.approx(0.05, abs=0.01)


def test_free_set_is_five_percent_of_the_many() -> None:
    hkl = possible(space_group("P 43 21 2"), CELLS["P 43 21 2"], 1.2, None, False).hkl
    assert np.mean(free_flags(hkl, space_group("P 43 21 2")) == 0) == pytest.approx(0.05, abs=0.003)


def test_a_flag_depends_on_indices_and_seed_alone() -> None:
    sg = space_group("P 43 21 2")
    hkl = possible(sg, CELLS["P 43 21 2"], 2.5, None, False).hkl
    flags = free_flags(hkl, sg)
    some = np.random.default_rng(1).permutation(len(hkl))[:300]
    np.testing.assert_array_equal(free_flags(hkl[some], sg), flags[some])
    other = free_flags(hkl, sg, seed=1)
    assert np.mean(other == flags) == pytest.approx(0.05, abs=0.02)
    # for good: another release must not change the flags of a project
    assert free_flags(np.array([[1, 0, 4], [3, 2, 1], [0, 0, 12]]), sg).tolist() == [14, 8, 4]


def test_twins_and_all_equivalents_share_a_flag() -> None:
    """The twin law k h −l of P 43, and the symmetry of the higher group."""
    low, high = space_group("P 43"), space_group("P 43 21 2")
    hkl = possible(low, CELLS["P 43"], 3.0, None, False).hkl
    flags = free_flags(hkl, low)
    for matrix in ([[0, 1, 0], [1, 0, 0], [0, 0, -1]], [[-1, 0, 0], [0, -1, 0], [0, 0, -1]]):
        np.testing.assert_array_equal(free_flags(hkl @ np.array(matrix), low), flags)
    np.testing.assert_array_equal(free_flags(hkl, high), flags)
    for rotation in low.rotations:
        np.testing.assert_array_equal(free_flags(hkl @ rotation, low), flags)


def test_holohedries_of_all_settings() -> None:
    """Orders, and the rotations of the group among them, for every setting there is."""
    orders = {
        "triclinic": 2,
        "monoclinic": 4,
        "orthorhombic": 8,
        "tetragonal": 16,
        "trigonal": 24,
        "hexagonal": 24,
        "cubic": 48,
    }
    names = {g.crystal_system_str(): [] for g in gemmi.spacegroup_table()}
    for g in gemmi.spacegroup_table():
        names[g.crystal_system_str()].append(g.xhm())
    for system, of in names.items():
        for name in {*of[:3], *of[-2:], *(n for n in of if n.endswith(":R"))}:
            sg = space_group(name)
            group = holohedry(sg)
            assert len(group) == (12 if name.endswith(":R") else orders[system]), name
            keys = {r.tobytes() for r in group}
            assert all(r.tobytes() in keys for r in sg.rotations), name
