"""Every generator draws cells that are cells."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import KDTree
from scipy.special import digamma, gammaln

from sfxproc.powder.cells import is_valid, random_cells, volumes, x_from_cells
from sfxproc.powder.generators import GENERATORS
from sfxproc.powder.lattices import LATTICES
from sfxproc.powder.optimise import SETTINGS, line_density
from sfxproc.powder.references import references
from sfxproc.reduction import niggli_cell

Q2 = np.cumsum(np.random.default_rng(3).uniform(0.001, 0.006, 20)) + 0.005


@pytest.mark.parametrize("symbol", ["cF", "hR", "oI", "mC", "aP"])
@pytest.mark.parametrize("name", GENERATORS)
def test_cells_are_valid_varied_and_repeatable(name: str, symbol: str) -> None:
    lattice, reference = LATTICES[symbol], references(symbol)
    settings = SETTINGS[lattice.n_parameters]
    one, same, other = (
        GENERATORS[name].draw(reference, Q2, 200, settings, np.random.default_rng(seed))
        for seed in (5, 5, 6)
    )
    assert one.shape == (200, lattice.n_parameters)
    assert is_valid(lattice, one).all()
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert len(np.unique(one.round(12), axis=0)) > 150
    # as many lines as were observed, up to several times as many
    density = line_density(reference.forms, lattice.basis, one)
    fill = volumes(lattice, one) * density * Q2[-1] ** 1.5 / len(Q2)
    assert 0.5 * settings.least_fill < fill.min()
    assert fill.max() < 2.0 * settings.most_fill


@pytest.mark.parametrize("symbol", LATTICES)
def test_spread_is_that_of_the_cells(symbol: str) -> None:
    """By the entropy of Kozachenko and Leonenko, from the distances to the fourth neighbours."""
    lattice, rng, n = LATTICES[symbol], np.random.default_rng(1), 3000
    cells = random_cells(lattice, n, rng)
    if symbol == "aP":  # each lattice of points once
        cells = np.array([niggli_cell(cell) for cell in cells])
    x = x_from_cells(lattice, cells)
    p = lattice.n_parameters
    fill = np.exp(rng.uniform(np.log(0.9), np.log(12.0 if p == 1 else 4.0), n))  # usual ones
    x *= ((volumes(lattice, x) / fill) ** (2 / 3))[:, None]
    distance = KDTree(x).query(x, k=5)[0][:, 4]
    ball = 0.5 * p * np.log(np.pi) - gammaln(0.5 * p + 1.0)
    entropy = digamma(n) - digamma(4) + ball + p * np.log(distance).mean()
    assert np.exp(entropy / p) == pytest.approx(lattice.spread, rel=0.12)
