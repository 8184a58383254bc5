"""Standard settings, comparison of lattices, metric symmetry, multiples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sfxproc.formats.structures import read_structure
from sfxproc.powder.cells import (
    Fit,
    cells_from_x,
    fit_lattice,
    fitting_lattices,
    hermite_forms,
    highest_fit,
    is_valid,
    multiple,
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
from sfxproc.symmetry import (
    cells_from_metric,
    metric_tensors,
    reciprocal_matrix,
    space_group,
)


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


@pytest.mark.parametrize("index", [2, 5, 8])
def test_multiples(index) -> None:
    small = np.array([6.1, 7.3, 8.9, 82.0, 97.0, 105.0])
    forms = hermite_forms(index)
    for form in forms[:: len(forms) // 6]:
        large = cells_from_metric(form.T @ metric_tensors(small) @ form)
        assert multiple(large, small) == index
        assert multiple(small, large) == 1.0 / index
        assert multiple(large, small, most=index - 1) is None
        assert multiple(large, small * [1, 1.03, 1, 1, 1, 1]) is None


def test_what_is_no_multiple() -> None:
    small = np.array([5.0, 7.0, 11.0, 90.0, 90.0, 90.0])
    for other in ([5.0, 7.0, 11.0], [5.1, 7.2, 11.3], [8.0, 8.75, 11.0], [5.0, 7.0, 16.5]):
        assert multiple([*other, 90, 90, 90], small) is None
    assert multiple([10.0, 7.0, 11.0, 90, 90, 90], small) == 2.0


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


# ---- comparison without looking at all bases ------------------------------------------------


def largest_off(cells, target, percent, degrees):
    off = np.abs(cells - target)
    off[..., :3] /= 0.01 * percent * target[..., :3]
    off[..., 3:] /= degrees
    return off.max(axis=-1)


def fit_over_all_bases(lattice, primitive, percent, degrees):
    """`fit_lattice` with a look at every basis near the reduced one."""
    axes = NEAR_BASES @ np.linalg.inv(lattice.primitive)
    metric = np.swapaxes(axes, 1, 2) @ metric_tensors(niggli_cell(primitive)) @ axes
    turns = lattice.rotations.astype(float)
    mean = np.einsum("nij,nkl->ikjl", turns, turns).reshape(9, 9) / len(turns)
    near = (metric.reshape(-1, 9) @ mean).reshape(metric.shape)
    off = largest_off(cells_from_metric(metric), cells_from_metric(near), percent, degrees)
    best = int(np.argmin(off))
    if off[best] > 1.0:
        return None
    cell = standard_cells(lattice, cells_from_metric(near[best]))
    return Fit(lattice, cell, float(off[best]))


def assert_same_fits(primitive, percent, degrees) -> list[Fit]:
    found = fitting_lattices(primitive, percent, degrees)
    every = [fit_over_all_bases(each, primitive, percent, degrees) for each in LATTICES.values()]
    expected = {fit.lattice.symbol: fit for fit in every if fit is not None}
    assert {fit.lattice.symbol for fit in found} == set(expected)
    for fit in found:
        other = expected[fit.lattice.symbol]
        np.testing.assert_allclose(fit.cell, other.cell, rtol=1e-9)
        assert fit.deviation == pytest.approx(other.deviation, rel=1e-6, abs=1e-6)
    return found


def test_no_fit_is_missed(lattice) -> None:
    """Exact cells, such as come near to symmetry, and others."""
    rng = np.random.default_rng(11)
    for cell in cells_of(lattice, 2, 12):
        primitive = niggli_cell(cell, lattice.centring)
        for size in (0.0, 0.005, 0.02):
            changed = primitive * (1.0 + size * rng.uniform(-1.0, 1.0, 6))
            assert_same_fits(changed, 1.5, 1.0)
        assert_same_fits(primitive, 0.01, 3.0)


def test_no_fit_is_missed_at_the_tolerance(lattice) -> None:
    rng = np.random.default_rng(13)
    primitive = niggli_cell(cells_of(lattice, 1, 14)[0], lattice.centring)
    changed = primitive * (1.0 + 0.005 * rng.uniform(-1.0, 1.0, 6))
    for own in assert_same_fits(changed, 1.5, 1.0):
        if own.deviation == 0.0:
            continue
        for factor, there in ((1.0 + 1e-8, True), (1.0 - 1e-8, False)):
            tolerances = 1.5 * own.deviation * factor, 1.0 * own.deviation * factor
            fit = fit_lattice(own.lattice, changed, *tolerances)
            assert (fit is not None) == there
            assert (fit_over_all_bases(own.lattice, changed, *tolerances) is not None) == there


def test_comparison_and_rotations_are_those_of_all_bases(lattice) -> None:
    rng = np.random.default_rng(15)
    for cell in cells_of(lattice, 3, 16):
        primitive = niggli_cell(cell, lattice.centring)
        metric = metric_tensors(primitive)
        bases = np.swapaxes(NEAR_BASES, 1, 2) @ metric @ NEAR_BASES
        for size in (0.0, 0.002, 0.01):
            other = niggli_cell(primitive * (1.0 + size * rng.uniform(-1.0, 1.0, 6)))
            off = largest_off(cells_from_metric(bases), other, 1.0, 1.0).min()
            for factor in (1.0 + 1e-8, 1.0 - 1e-8, 0.5, 2.0):
                tolerance = off * factor + 1e-6 * (off < 1e-6)
                expected = off <= tolerance
                assert same_lattice(primitive, other, tolerance, tolerance) == expected
            changed = metric_tensors(other)
            lengths = np.sqrt(np.diag(changed))
            turned = np.swapaxes(NEAR_BASES, 1, 2) @ changed @ NEAR_BASES
            most = (np.abs(turned - changed) / np.outer(lengths, lengths)).max(axis=(1, 2))
            for percent in (0.02, 0.5, 1.5, 5.0):
                assert n_rotations(other, percent) == 2 * (most < 0.02 * percent).sum()
