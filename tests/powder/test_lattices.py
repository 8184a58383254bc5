"""The table of Bravais lattices against gemmi's cells and groups."""

from __future__ import annotations

import gemmi
import numpy as np
import pytest

from sfxproc.powder.cells import cells_from_x, random_cells, x_from_cells
from sfxproc.powder.lattices import LATTICES

PARAMETERS = {"aP": 6, "mP": 4, "mC": 4, "oP": 3, "oC": 3, "oF": 3, "oI": 3}


@pytest.fixture(params=LATTICES)
def lattice(request: pytest.FixtureRequest):
    return LATTICES[request.param]


def hkl_sample(rng, n=60):
    return rng.integers(-7, 8, (n, 3))


def test_forms_give_q2(lattice) -> None:
    rng = np.random.default_rng(3)
    cells = random_cells(lattice, 20, rng)
    cells[:, :3] *= 9.0
    hkl = hkl_sample(rng)
    x = x_from_cells(lattice, cells)
    assert x.shape == (20, lattice.n_parameters)
    np.testing.assert_allclose(cells_from_x(lattice, x), cells, rtol=1e-12)
    for cell, row in zip(cells, x, strict=True):
        theirs = gemmi.UnitCell(*cell).calculate_1_d2_array(hkl.astype(np.int32))
        np.testing.assert_allclose(lattice.forms(hkl) @ row, theirs, rtol=1e-11)


def test_parameters(lattice) -> None:
    cubic = 1 if lattice.system == "cubic" else 2
    assert lattice.n_parameters == PARAMETERS.get(lattice.symbol, cubic)


def test_seven_systems_and_priors() -> None:
    assert len(LATTICES) == 14
    assert len({lattice.system for lattice in LATTICES.values()}) == 7
    assert sum(lattice.prior for lattice in LATTICES.values()) == pytest.approx(1.0)
    assert max(LATTICES.values(), key=lambda lattice: lattice.prior).symbol == "mP"


def test_known_forms() -> None:
    hkl = np.array([[1, 2, 3]])
    assert LATTICES["aP"].forms(hkl).tolist() == [[1, 4, 9, 2, 3, 6]]
    assert LATTICES["mC"].forms(hkl).tolist() == [[1, 4, 9, 3]]
    assert LATTICES["tI"].forms(hkl).tolist() == [[5, 9]]
    assert LATTICES["hR"].forms(hkl).tolist() == [[7, 9]]
    assert LATTICES["cF"].forms(hkl).tolist() == [[14]]


def test_centring_is_that_of_the_group(lattice) -> None:
    """The holohedral groups extinguish by centring alone."""
    hkl = hkl_sample(np.random.default_rng(4), 300)
    group = gemmi.find_spacegroup_by_name(lattice.holohedry.hm)
    absent = group.operations().systematic_absences(hkl.astype(np.int32))
    np.testing.assert_array_equal(lattice.allowed(hkl), ~absent)
    assert lattice.allowed(hkl).mean() == pytest.approx(1 / lattice.points_per_cell, abs=0.09)
