"""Standard settings, comparison of lattices, metric symmetry, derivative cells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sfxproc.formats.structures import read_structure
from sfxproc.powder.cells import (
    cells_from_x,
    conventional_cells,
    fit_lattice,
    fitting_lattices,
    hermite_forms,
    highest_fit,
    is_valid,
    n_rotations,
    primitive_cells,
    random_cells,
    same_lattice,
    shortest,
    standard_cells,
    volumes,
    x_from_cells,
)
from sfxproc.powder.lattices import LATTICES
from sfxproc.reduction import NEAR_BASES, bravais_symbol, niggli_cell
from sfxproc.symmetry import reciprocal_matrix, space_group


@pytest.fixture(params=LATTICES)
def lattice(request: pytest.FixtureRequest):
    return LATTICES[request.param]


def cells_of(lattice, n, seed):
    cells = random_cells(lattice, n, np.random.default_rng(seed))
    cells[:, :3] *= 10.0
    return cells


def other_basis(cell, rng):
    """The same lattice in a skew basis."""
    matrix = np.eye(3)
    for _ in range(3):
        matrix = matrix @ NEAR_BASES[rng.integers(len(NEAR_BASES))]
    real = np.linalg.inv(reciprocal_matrix(cell)).T @ matrix
    metric = real.T @ real
    lengths = np.sqrt(np.diag(metric))
    cosines = metric[[1, 0, 0], [2, 2, 1]] / lengths[[1, 0, 0]] / lengths[[2, 2, 1]]
    return np.concatenate([lengths, np.degrees(np.arccos(cosines))])


def test_volumes_and_validity(lattice) -> None:
    cells = cells_of(lattice, 5, 1)
    x = x_from_cells(lattice, cells)
    expected = [1.0 / abs(np.linalg.det(reciprocal_matrix(cell))) for cell in cells]
    np.testing.assert_allclose(volumes(lattice, x), expected)
    x[0, 0], x[1, -1] = -x[0, 0], np.nan
    assert is_valid(lattice, x).tolist() == [False, False, True, True, True]
    assert np.isnan(volumes(lattice, x)[:2]).all()


def test_primitive_cells(lattice) -> None:
    cells = cells_of(lattice, 4, 2)
    primitive = primitive_cells(lattice, cells)
    np.testing.assert_allclose(conventional_cells(lattice, primitive), cells, rtol=1e-9)
    for cell, small in zip(cells, primitive, strict=True):
        theirs = niggli_cell(cell, lattice.centring)
        np.testing.assert_allclose(niggli_cell(small), theirs, rtol=1e-6)


def test_rhombohedral_axes() -> None:
    a, c = 4.7521, 12.97
    found = primitive_cells(LATTICES["hR"], [a, a, c, 90.0, 90.0, 120.0])
    length = np.sqrt(a**2 / 3 + c**2 / 9)
    np.testing.assert_allclose(found[:3], length)
    np.testing.assert_allclose(found[3:], np.degrees(2 * np.arcsin(a / (2 * length))))


def test_standard_setting_is_the_same_from_every_basis(lattice) -> None:
    rng = np.random.default_rng(5)
    for cell in cells_of(lattice, 12, 3):
        np.testing.assert_allclose(standard_cells(lattice, cell), cell, rtol=1e-7)
        skew = other_basis(primitive_cells(lattice, cell), rng)
        fit = fit_lattice(lattice, skew, 0.01, 0.01)
        assert fit is not None
        np.testing.assert_allclose(fit.cell, cell, rtol=1e-5)


def test_standard_settings_follow_conventions() -> None:
    a, b, c, alpha, beta, gamma = cells_of(LATTICES["mC"], 50, 7).T
    np.testing.assert_allclose([alpha, gamma], 90.0)
    assert (beta >= 90.0 - 1e-9).all()
    a, b, c = cells_of(LATTICES["oP"], 50, 8).T[:3]
    assert (a <= b).all()
    assert (b <= c).all()


def test_same_lattice_over_noise(lattice) -> None:
    rng = np.random.default_rng(6)
    for cell in cells_of(lattice, 6, 4):
        primitive = primitive_cells(lattice, cell)
        noisy = other_basis(primitive, rng)
        x = x_from_cells(LATTICES["aP"], niggli_cell(noisy))
        x[:3] *= 1.0 + 0.004 * rng.uniform(-1, 1, 3)
        x[3:] += 0.004 * rng.uniform(-1, 1, 3) * x[:3].min()
        noisy = other_basis(cells_from_x(LATTICES["aP"], x), rng)
        assert same_lattice(primitive, noisy)
        larger = primitive * [1.013, 1.013, 1.013, 1, 1, 1]
        assert not same_lattice(primitive, larger)


def test_a_cell_at_a_reduction_boundary_is_the_same() -> None:
    """The Niggli cells of these two differ in type: angles acute, angles obtuse."""
    a, b = [7.0, 9.0, 11.0, 90.05, 100.0, 105.0], [7.0, 9.0, 11.0, 89.95, 100.0, 105.0]
    assert niggli_cell(a)[5] == pytest.approx(105.0)
    assert niggli_cell(b)[5] == pytest.approx(75.0)
    assert same_lattice(a, b)


def test_metric_symmetry(lattice) -> None:
    """The highest symmetry a generic cell of the lattice fits is the lattice itself."""
    for cell in cells_of(lattice, 4, 9):
        fits = fitting_lattices(primitive_cells(lattice, cell), 0.02, 0.02)
        assert fits[0].lattice == lattice
        assert fits[-1].lattice.symbol == "aP"
        np.testing.assert_allclose(fits[0].cell, cell, rtol=1e-5)


def test_structures_fit_the_lattice_of_their_group(shared_data: Path) -> None:
    paths = sorted((shared_data / "structures").glob("*/POSCAR-*"))
    assert len(paths) > 400
    for path in paths[::6]:
        group = space_group(int(path.name.split("-")[1]))
        lattice = LATTICES[bravais_symbol(group)]
        structure = read_structure(path)
        fit = fit_lattice(lattice, primitive_cells(lattice, structure.cell), 0.1, 0.1)
        # a few files hold the primitive cell
        assert fit or fit_lattice(lattice, structure.cell, 0.1, 0.1), path


@pytest.mark.parametrize(("index", "n"), [(2, 7), (3, 13), (4, 35)])
def test_hermite_forms(index, n) -> None:
    forms = hermite_forms(index)
    assert len(forms) == n
    np.testing.assert_allclose(np.linalg.det(forms), index)


def test_bravais_symbols() -> None:
    named = {"C 1 2/c 1": "mC", "I 1 2/a 1": "mC", "A m m 2": "oC", "R -3 m:R": "hR"}
    named |= {"R -3 m:H": "hR", "P 63/m": "hP", "P 3 2 1": "hP", "F d -3 m": "cF", "P -1": "aP"}
    for name, symbol in named.items():
        assert bravais_symbol(space_group(name)) == symbol


def test_highest_fit_is_the_first_of_all(lattice) -> None:
    for cell in cells_of(lattice, 5, 4):
        primitive = primitive_cells(lattice, cell)
        first = fitting_lattices(primitive, 0.1, 0.1)[0]
        found = highest_fit(primitive, 0.1, 0.1)
        assert found.lattice == first.lattice == lattice
        np.testing.assert_allclose(found.cell, first.cell)
        assert n_rotations(primitive, 0.1) == len(lattice.rotations)


def test_the_shortest_vector(lattice) -> None:
    for cell in cells_of(lattice, 5, 5):
        length = shortest(lattice, x_from_cells(lattice, cell))
        assert length == pytest.approx(niggli_cell(primitive_cells(lattice, cell))[0])
