"""Symmetry against gemmi's answers for single reflections, over every setting it knows."""

from __future__ import annotations

import gemmi
import numpy as np
import pytest

from sfxproc import symmetry
from sfxproc.data import packed_hkl
from sfxproc.errors import ConfigError

SETTINGS = sorted({entry.xhm() for entry in gemmi.spacegroup_table()})
SAMPLE = [
    "P 1",
    "P -1",
    "P 1 21 1",
    "P 1 1 21",
    "P 21 1 1",
    "C 1 2 1",
    "I 1 2 1",
    "P 1 21/c 1",
    "P 21 21 21",
    "C 2 2 21",
    "F d d d:2",
    "P 43 21 2",
    "I 41/a m d:1",
    "P -4 2 m",
    "P 31 2 1",
    "P 31 1 2",
    "R 3:H",
    "R 3:R",
    "R -3 c:H",
    "R 3 2:R",
    "P 63/m m c",
    "P 21 3",
    "I a -3 d",
]
CELLS = {
    "triclinic": [31, 37, 41, 82, 95, 103],
    "orthorhombic": [31, 37, 41, 90, 90, 90],
    "tetragonal": [31, 31, 41, 90, 90, 90],
    "hexagonal": [31, 31, 41, 90, 90, 120],
    "trigonal": [31, 31, 41, 90, 90, 120],
    "cubic": [31, 31, 31, 90, 90, 90],
}


def box(n: int) -> np.ndarray:
    r = np.arange(-n, n + 1)
    hkl = np.stack(np.meshgrid(r, r, r, indexing="ij"), axis=-1).reshape(-1, 3)
    return hkl[np.any(hkl != 0, axis=1)].astype(np.int16)


def cell_of(sg: symmetry.SpaceGroup) -> np.ndarray:
    if sg.hm.endswith(":R"):
        return np.array([31, 31, 31, 75, 75, 75.0])
    return symmetry.symmetrised_cell(sg, CELLS.get(sg.crystal_system, CELLS["triclinic"]))


def test_every_setting_is_found_by_its_symbol() -> None:
    for name in SETTINGS:
        sg = symmetry.space_group(name)
        entry = gemmi.find_spacegroup_by_name(name)
        assert (sg.hm, sg.number, sg.point_group) == (name, entry.number, entry.point_group_hm())
        assert len(sg.rotations) == len(entry.operations().sym_ops)


def test_numbers_and_spellings() -> None:
    names = [symmetry.space_group(n).number for n in range(1, 231)]
    assert names == list(range(1, 231))
    for spelling in ("P 43 21 2", "P43212", "p 43 21 2", "P4(3)2(1)2", "96"):
        assert symmetry.space_group(spelling) == symmetry.space_group(96)
    assert symmetry.space_group("R 3:R").hm == "R 3:R"
    assert symmetry.space_group("P21/c").number == 14


@pytest.mark.parametrize("name", ["P 43 22 1", "P43221", "nonsense!", "", 231, True])
def test_unknown_space_group(name: str | int) -> None:
    with pytest.raises(ConfigError, match="there is no space group") as caught:
        symmetry.space_group(name)
    if name == "P43221":
        assert "P 43 21 2" in str(caught.value)


@pytest.mark.parametrize("anomalous", [False, True])
def test_keys_agree_with_gemmi_in_every_setting(anomalous: bool) -> None:
    rng = np.random.default_rng(1)
    hkl = box(4)
    for name in SETTINGS:
        sg = symmetry.space_group(name)
        rows = hkl[rng.choice(len(hkl), 40, replace=False)]
        entry = gemmi.find_spacegroup_by_name(name)
        asu, operations = gemmi.ReciprocalAsu(entry), entry.operations()
        expected = []
        for h in rows.tolist():
            equivalent, isym = asu.to_asu(h, operations)
            code = 0
            if anomalous and not operations.is_reflection_centric(h):
                code = 1 if isym % 2 == 1 else 2
            expected.append(int(packed_hkl(np.array(equivalent))) << 2 | code)
        assert symmetry.unique_keys(sg, rows, anomalous).tolist() == expected, name


@pytest.mark.parametrize("name", SAMPLE)
def test_keys_are_the_orbits_of_the_group(name: str) -> None:
    """Independent of gemmi's asymmetric unit: equal keys exactly where a rotation relates."""
    sg = symmetry.space_group(name)
    hkl = box(3)
    key = symmetry.unique_keys(sg, hkl, True)
    orbits = np.einsum("ni,mij->nmj", hkl.astype(np.int64), sg.rotations.astype(np.int64))
    smallest = packed_hkl(orbits).min(axis=1)
    assert len(np.unique(key)) == len(np.unique(smallest))
    assert len(np.unique(np.stack([key, smallest]), axis=1).T) == len(np.unique(key))
    centric = symmetry.reflections(sg, cell_of(sg), key).centric
    assert np.array_equal(symmetry.unique_keys(sg, -hkl, True) == key, centric)
    merged = symmetry.unique_keys(sg, hkl, False)
    assert np.array_equal(merged, symmetry.unique_keys(sg, -hkl, False))
    assert np.array_equal(merged >> 2, key >> 2)


@pytest.mark.parametrize("name", SAMPLE)
def test_absences_centric_epsilon(name: str) -> None:
    sg = symmetry.space_group(name)
    operations = gemmi.find_spacegroup_by_name(name).operations()
    hkl = box(2)
    keys = np.unique(symmetry.unique_keys(sg, hkl, False))
    table = symmetry.reflections(sg, cell_of(sg), keys)
    rows = table.hkl.tolist()
    assert symmetry.absent(sg, table.hkl).tolist() == [
        operations.is_systematically_absent(h) for h in rows
    ]
    assert table.centric.tolist() == [operations.is_reflection_centric(h) for h in rows]
    assert table.epsilon.tolist() == [operations.epsilon_factor_without_centering(h) for h in rows]


def test_reflections_reads_keys_back() -> None:
    sg = symmetry.space_group("P 21 21 21")
    hkl = np.array([[0, 3, 4], [5, 6, 7], [5, 6, 7], [500, 1, 2]], dtype=np.int16)
    hkl[2] *= -1
    keys = np.sort(symmetry.unique_keys(sg, hkl, True))
    table = symmetry.reflections(sg, [30, 40, 50, 90, 90, 90], keys)
    assert table.hkl.tolist() == [[0, 3, 4], [5, 6, 7], [5, 6, 7], [500, 1, 2]]
    assert table.friedel.tolist() == [0, 1, -1, 1]
    expected = 0.25 * ((table.hkl / np.array([30.0, 40.0, 50.0])) ** 2).sum(axis=1)
    np.testing.assert_allclose(table.s2, expected)


@pytest.mark.parametrize("name", SAMPLE)
def test_possible_reflections(name: str) -> None:
    sg = symmetry.space_group(name)
    cell = cell_of(sg)
    hkl = box(7)
    d = 0.5 / np.sqrt(symmetry.s_squared(hkl, cell))
    wanted = hkl[(d >= 6.013) & (d <= 20.017) & ~symmetry.absent(sg, hkl)]
    for anomalous in (False, True):
        table = symmetry.possible(sg, cell, 6.013, 20.017, anomalous)
        keys = np.unique(symmetry.unique_keys(sg, wanted, anomalous))
        expected = symmetry.reflections(sg, cell, keys)
        assert np.array_equal(table.hkl, expected.hkl)
        assert np.array_equal(table.friedel, expected.friedel)
    without_limit = symmetry.possible(sg, cell, 6.013, None, False)
    assert len(without_limit) > len(symmetry.possible(sg, cell, 6.013, 9.0, False))


def test_s_squared_and_reciprocal_matrix_agree_with_gemmi() -> None:
    cell = [31.0, 37, 41, 82, 95, 103]
    unit_cell = gemmi.UnitCell(*cell)
    hkl = box(3)
    expected = [unit_cell.calculate_1_d2(h) / 4 for h in hkl.tolist()]
    np.testing.assert_allclose(symmetry.s_squared(hkl, cell), expected, rtol=1e-12)
    fractionalisation = np.array(unit_cell.frac.mat.tolist())
    np.testing.assert_allclose(symmetry.reciprocal_matrix(cell), fractionalisation.T, atol=1e-15)


def test_cells_from_rotated_matrices() -> None:
    rng = np.random.default_rng(2)
    cells = np.array([[31.0, 37, 41, 82, 95, 103], [79, 79, 38, 90, 90, 90]])
    rotation, _ = np.linalg.qr(rng.normal(size=(2, 3, 3)))
    A = rotation @ np.array([symmetry.reciprocal_matrix(c) for c in cells])
    np.testing.assert_allclose(symmetry.cells_from_A(A), cells, rtol=1e-12)
    A[0] = np.nan
    assert np.isnan(symmetry.cells_from_A(A)[0]).all()


def test_median_cell_obeys_the_group() -> None:
    cells = np.array([[79.2, 79.0, 38.1, 90.1, 89.9, 90.0]] * 3 + [[np.nan] * 6])
    a, b, c, *angles = symmetry.median_cell(symmetry.space_group(96), cells)
    assert a == b == pytest.approx(79.1, abs=1e-3)
    assert c == pytest.approx(38.1)
    assert angles == [90, 90, 90]
    free = symmetry.median_cell(symmetry.space_group(1), cells)
    np.testing.assert_allclose(free, cells[0])
    unique_c = symmetry.symmetrised_cell(
        symmetry.space_group("P 1 1 21"), [30, 40, 50, 90.5, 89.5, 104]
    )
    assert unique_c[3:].tolist() == pytest.approx([90, 90, 104], abs=1e-3)


def test_cell_fits() -> None:
    cells = np.array(
        [[79, 79, 38, 90, 90, 90], [84, 79, 38, 90, 90, 90], [79, 79, 38, 90, 90, 94], [np.nan] * 6]
    )
    fits = symmetry.cell_fits(cells, [79, 79, 38, 90, 90, 90], 5.0, 3.0)
    assert fits.tolist() == [True, False, False, False]


@pytest.mark.parametrize("name", SAMPLE)
def test_a_cell_made_for_the_group_is_accepted(name: str) -> None:
    sg = symmetry.space_group(name)
    symmetry.require_cell(sg, cell_of(sg))


@pytest.mark.parametrize(
    ("name", "cell", "text"),
    [
        ("P 43 21 2", [79, 38, 79, 90, 90, 90], "requires a = b. .*in the order a, c, b"),
        ("P 21 21 21", [30, 40, 50, 90, 95, 90], "requires β = 90°"),
        ("P 1 21 1", [30, 40, 50, 90, 90, 105], "requires γ = 90°. .*order a, c, b"),
        ("P 21 3", [96, 96, 99, 90, 90, 90], "requires b = c, a = c"),
        ("P 61 2 2", [96, 96, 99, 90, 90, 90], "requires γ = 120°"),
        ("R 3", [31, 31, 31, 75, 75, 75], 'rhombohedral one: set space_group = "R 3:R"'),
        ("R 3:R", [31, 31, 70, 90, 90, 120], 'hexagonal one: set space_group = "R 3:H"'),
        ("P 1", [31, 31, 70, 90, -90, 120], "six positive numbers"),
        ("P 1", [31, 31, 70, 150, 60, 60], "no cell has the angles"),
    ],
)
def test_a_cell_that_contradicts_the_group(name: str, cell: list[float], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        symmetry.require_cell(symmetry.space_group(name), cell)


# ---- indexing ambiguities --------------------------------------------------------------------

AMBIGUOUS = [
    ("P 43", (79, 79, 38, 90, 90, 90), ["k,h,-l"]),
    ("I 4", (79, 79, 38, 90, 90, 90), ["k,h,-l"]),
    ("P 21 3", (97, 97, 97, 90, 90, 90), ["k,h,-l"]),
    ("P m -3", (97, 97, 97, 90, 90, 90), ["k,h,-l"]),
    ("P 6", (60, 60, 90, 90, 90, 120), ["k,h,-l"]),
    ("P 31", (60, 60, 90, 90, 90, 120), ["k,h,-l", "-h,-k,l", "-k,-h,-l"]),
    ("P 32 2 1", (60, 60, 90, 90, 90, 120), ["-h,-k,l"]),
    ("P 31 1 2", (60, 60, 90, 90, 90, 120), ["k,h,-l"]),
    ("R 3:H", (60, 60, 90, 90, 90, 120), ["k,h,-l"]),
    ("R 3:R", (60, 60, 60, 80, 80, 80), ["-l,-k,-h"]),
    ("P 43 21 2", (79, 79, 38, 90, 90, 90), []),
    ("P 43 21 2", (79, 79, 79.4, 90, 90, 90), ["l,-k,h", "-h,l,k"]),
    ("P m m 2", (50, 60, 70, 90, 90, 90), []),  # 2 along a is of the Laue group
    ("P 2 2 2", (50, 50.4, 90, 90, 90, 90), ["k,h,-l"]),
    ("P 2 2 2", (50, 52, 90, 90, 90, 90), []),
    ("P 1 21 1", (50, 60, 70, 90, 90.3, 90), ["h,-k,-l"]),
    ("P 1 21 1", (50, 60, 70, 90, 93, 90), []),
    ("C 2 2 21", (50, 86.6, 90, 90, 90, 90), ["h/2+k/2,3/2*h-k/2,-l", "h/2-k/2,-3/2*h-k/2,-l"]),
]


@pytest.mark.parametrize(("name", "cell", "triplets"), AMBIGUOUS)
def test_twin_operators(name: str, cell: tuple[float, ...], triplets: list[str]) -> None:
    """Known operators; each keeps d to within the obliquity and makes no reflection equivalent."""
    sg = symmetry.space_group(name)
    found = symmetry.twin_operators(sg, cell, 1.0)
    assert [o.triplet for o in found] == triplets
    hkl = box(4)
    if sg.centring in "CI":
        hkl = hkl[(hkl[:, 0] + hkl[:, 1] + (sg.centring == "I") * hkl[:, 2]) % 2 == 0]
    s2, key = symmetry.s_squared(hkl, cell), symmetry.unique_keys(sg, hkl, False)
    for operator in found:
        moved = symmetry.reindexed_hkl(hkl, operator)
        assert moved.dtype == hkl.dtype
        assert np.linalg.det(operator.matrix) == pytest.approx(1)
        np.testing.assert_allclose(moved, hkl @ operator.matrix, atol=1e-12)
        np.testing.assert_allclose(symmetry.s_squared(moved, cell), s2, rtol=0.04)
        written = gemmi.Op(operator.triplet)
        inside = [h.tolist() for h in hkl[:50]]
        assert [written.apply_to_hkl(h) for h in inside] == moved[:50].tolist()
        assert np.mean(symmetry.unique_keys(sg, moved, False) != key) > 0.3


@pytest.mark.parametrize(("name", "cell", "triplets"), AMBIGUOUS)
def test_settings_are_a_full_set(name: str, cell: tuple[float, ...], triplets: list[str]) -> None:
    """Settings and rotations of the Laue group make up the group of the lattice."""
    sg = symmetry.space_group(name)
    matrices = [np.eye(3), *(o.matrix for o in symmetry.twin_operators(sg, cell, 1.0))]
    proper = {tuple(np.ravel(r * round(np.linalg.det(r)))) for r in sg.rotations.astype(float)}
    everything = {
        tuple(np.ravel(np.round(m @ np.reshape(r, (3, 3)), 6) + 0.0))
        for m in matrices
        for r in proper
    }
    assert len(everything) == len(matrices) * len(proper)
    products = {
        tuple(np.ravel(np.round(np.reshape(a, (3, 3)) @ np.reshape(b, (3, 3)), 6) + 0.0))
        for a in everything
        for b in everything
    }
    assert products == everything


def test_relative_settings() -> None:
    """What brings setting t to 0 brings s where the table says; axes that move cannot."""
    for name, cell, _ in AMBIGUOUS:
        sg = symmetry.space_group(name)
        operators = symmetry.twin_operators(sg, cell, 1.0)
        table = symmetry.relative_settings(sg, operators)
        matrices = [np.eye(3), *(o.matrix for o in operators)]
        hkl = 12 * box(1)
        keys = [symmetry.unique_keys(sg, np.rint(hkl @ m).astype(int), False) for m in matrices]
        np.testing.assert_array_equal(table[:, 0], range(len(matrices)))
        for t in range(len(matrices)):
            back = np.linalg.inv(matrices[t])
            for s in range(len(matrices)):
                if table[s, t] >= 0:
                    moved = np.rint(hkl @ matrices[s] @ back).astype(int)
                    same = symmetry.unique_keys(sg, moved, False)
                    np.testing.assert_array_equal(same, keys[table[s, t]])
        if name == "P 43 21 2" and len(operators):
            np.testing.assert_array_equal(table[:, 1:], -1)
        if name == "P 31":
            assert sorted(table[0]) == [0, 1, 2, 3]


def test_reindexing_keeps_reciprocal_vectors() -> None:
    rng = np.random.default_rng(2)
    cell = np.array([50.0, 50.4, 90.0, 90.0, 90.0, 90.0])
    (operator,) = symmetry.twin_operators(symmetry.space_group("P 2 2 2"), cell, 1.0)
    A = np.linalg.qr(rng.normal(size=(3, 3)))[0] @ symmetry.reciprocal_matrix(cell)
    everyone = np.stack([A, np.full((3, 3), np.nan)])
    moved, cells = symmetry.reindexed_cells(everyone, np.stack([cell, cell]), operator)
    hkl = box(3)
    q = symmetry.reindexed_hkl(hkl, operator) @ moved[0].T
    np.testing.assert_allclose(q, hkl @ A.T, atol=1e-14)
    np.testing.assert_allclose(cells, [[50.4, 50, 90, 90, 90, 90]] * 2, rtol=1e-12)
    np.testing.assert_allclose(symmetry.cells_from_A(moved[:1]), cells[:1], rtol=1e-12)
    assert np.isnan(moved[1]).all()
