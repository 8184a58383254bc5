"""Lists of reference lines: what they hold and whether patterns' lines are in them."""

from __future__ import annotations

import numpy as np
import pytest

from sfxproc.powder.cells import fit_lattice, x_from_cells
from sfxproc.powder.lattices import LATTICES
from sfxproc.powder.references import references
from sfxproc.reduction import niggli_cell
from sfxproc.simulate.powder import PowderSettings, simulate_pattern


@pytest.mark.parametrize("symbol", LATTICES)
def test_list(symbol) -> None:
    found = references(symbol)
    lattice = LATTICES[symbol]
    assert 100 <= len(found.hkl) <= 1000
    assert lattice.allowed(found.hkl).all()
    assert len(np.unique(found.forms, axis=0)) == len(found.forms)
    np.testing.assert_array_equal(lattice.forms(found.hkl), found.forms)
    few = references(symbol, 50)
    assert len(few.hkl) == 50
    assert {tuple(row) for row in few.hkl} <= {tuple(row) for row in found.hkl}


def test_multiplicities() -> None:
    cubic = references("cP")
    count = dict(zip(cubic.forms[:, 0].astype(int), cubic.multiplicity, strict=True))
    assert [count[n] for n in (1, 2, 3, 5, 9, 14)] == [6, 12, 8, 24, 30, 48]  # 9: 300 and 221
    plain = references("oP")
    row = int(np.flatnonzero((plain.hkl == [1, 1, 1]).all(axis=1))[0])
    assert plain.multiplicity[row] == 8
    assert set(references("aP").multiplicity) == {2}


@pytest.mark.parametrize("symbol", LATTICES)
def test_the_first_lines_of_patterns_are_in_the_list(symbol) -> None:
    found, lattice = references(symbol), LATTICES[symbol]
    inside = []
    for number in range(8):
        pattern = simulate_pattern(PowderSettings(seed=11), symbol, number)
        structure = pattern.structure
        primitive = niggli_cell(structure.cell, structure.space_group.centring)
        fit = fit_lattice(lattice, primitive, 0.01, 0.01)
        assert fit is not None
        q2 = np.sort(found.forms @ x_from_cells(lattice, fit.cell))
        line = pattern.true_q2[:20]
        near = np.searchsorted(q2, line * (1 - 1e-7))
        inside.append(q2[np.minimum(near, len(q2) - 1)] <= line * (1 + 1e-7))
    assert np.concatenate(inside).mean() > 0.99
