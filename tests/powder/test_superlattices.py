"""Larger cells for the lines that a cell leaves out."""

from __future__ import annotations

import numpy as np
import pytest

from sfxproc.data import Floats, Ints
from sfxproc.powder.cells import (
    hermite_forms,
    is_whole,
    reciprocal_metric,
    same_lattice,
    x_from_cells,
)
from sfxproc.powder.indexing import lines_of
from sfxproc.powder.lattices import LATTICES
from sfxproc.powder.ranking import assessed, ranked
from sfxproc.powder.references import lines_of_cell
from sfxproc.powder.superlattices import INDICES, REACH, TRIED, promising, superlattices
from sfxproc.symmetry import cells_from_metric

WHOLE = np.stack(np.meshgrid(*[np.arange(-12, 13)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
CELLS = {
    "aP": [6.1, 7.3, 8.9, 82, 97, 105],
    "mC": [13.1, 7.2, 9.4, 90, 103, 90],
    "oF": [11.0, 14.2, 17.9, 90, 90, 90],
    "tP": [7.1, 7.1, 5.3, 90, 90, 90],
    "hP": [5.2, 5.2, 7.7, 90, 90, 120],
    "cI": [8.3, 8.3, 8.3, 90, 90, 90],
}


def reciprocal(symbol: str) -> Floats:
    """G* of the primitive axes of one of CELLS."""
    lattice = LATTICES[symbol]
    back = np.linalg.inv(lattice.primitive)
    metric = reciprocal_metric(lattice, x_from_cells(lattice, CELLS[symbol]))
    return np.asarray(back @ metric @ back.T)


def lines_of_larger(metric: Floats, form: Ints, q2_max: float) -> tuple[Floats, Floats]:
    """q² of the larger lattice up to q2_max: lines of the lattice itself, and all others."""
    lattice = LATTICES["aP"]
    x = x_from_cells(lattice, cells_from_metric(form.T @ np.linalg.inv(metric) @ form))
    hkl, forms = lines_of_cell(lattice, x, q2_max)
    own = is_whole(hkl @ np.linalg.inv(form))
    return np.unique((forms[own] @ x).round(10)), np.unique((forms[~own] @ x).round(10))


@pytest.mark.parametrize("index", INDICES)
@pytest.mark.parametrize("symbol", LATTICES)
def test_every_superlattice_is_there_once(symbol: str, index: int) -> None:
    """Those that symmetry makes alike number as many as there are rotations that do not leave one
    alone."""
    found = superlattices(symbol, index)
    orbits = len(LATTICES[symbol].rotations) / found.alike
    assert orbits.sum() == len(hermite_forms(index))
    assert (np.rint(np.linalg.det(found.forms)) == index).all()


@pytest.mark.parametrize("index", [2, 4, 7])
@pytest.mark.parametrize("symbol", CELLS)
def test_classes_have_the_lines_that_the_lattice_has_not(symbol: str, index: int) -> None:
    metric, of = reciprocal(symbol), superlattices(symbol, index)
    q2_max = 3.1 * float(np.diag(metric).min())
    for row in range(0, len(of.forms), max(1, len(of.forms) // 6)):
        r = of.classes[of.has[row]]
        h = (WHOLE[:, None] + r).reshape(-1, 3)
        q2 = np.einsum("ni,ij,nj->n", h, metric, h)
        _, expected = lines_of_larger(metric, of.forms[row], q2_max)
        found = np.unique(q2[q2 < q2_max].round(10))
        for one, two in ((found, expected), (expected, found)):
            assert np.abs(one[:, None] - two).min(axis=1).max() < 1e-8


@pytest.mark.parametrize("index", INDICES)
@pytest.mark.parametrize("symbol", CELLS)
def test_the_superlattice_of_two_lines_is_promising(symbol: str, index: int) -> None:
    """It need not be the only one that has both."""
    metric, of = reciprocal(symbol), superlattices(symbol, index)
    rng = np.random.default_rng(index)
    for form in of.forms[rng.integers(len(of.forms), size=3)]:
        own, other = lines_of_larger(metric, form, 12.0 * float(np.diag(metric).min()))
        apart = other[np.abs(own[:, None] - other).min(axis=0) > 1e-4]
        q2 = np.sort(rng.choice(apart, 2, replace=False))
        found = promising(symbol, metric, q2, np.full(2, 1e-7))
        assert 1 <= len(found) <= TRIED
        assert np.linalg.det(found[0]) < index + 0.5
        has = lines_of_larger(metric, found[0], q2[-1] + 1e-3)[1]
        assert np.abs(has[:, None] - q2).min(axis=0).max() < REACH * 1e-7 + 1e-9


def test_nothing_is_promising_without_lines_or_where_chance_has_them_all() -> None:
    metric = reciprocal("aP")
    assert promising("aP", metric, np.zeros(0), np.zeros(0)) == []
    assert promising("aP", metric, np.array([0.3, 0.31]), np.array([0.01, 0.01])) == []


@pytest.mark.parametrize(
    ("symbol", "index", "noise"), [("tP", 5, 0.01), ("hP", 7, 0.01), ("mC", 6, 0.0), ("aP", 7, 0.0)]
)
def test_three_weak_lines_lead_to_the_larger_cell(symbol: str, index: int, noise: float) -> None:
    lattice, metric = LATTICES[symbol], reciprocal(symbol)
    of = superlattices(symbol, index)
    form = of.forms[np.argmax(of.alike)]
    x = x_from_cells(lattice, CELLS[symbol])
    own = np.unique((lines_of_cell(lattice, x, 0.6)[1] @ x).round(10))[:30]
    _, other = lines_of_larger(metric, form, float(own[-1]))
    apart = other[np.abs(own[:, None] - other).min(axis=0) > 5e-4]
    rng = np.random.default_rng(3)
    q2 = np.sort(np.append(own, rng.choice(apart, 3, replace=False)))
    lines = lines_of(np.sort(q2 + noise * lines_of(q2).sigma * rng.standard_normal(len(q2))))
    small = assessed(lattice, x, lines)
    assert small is not None
    assert np.count_nonzero(~small.explained) == 3
    true = cells_from_metric(form.T @ np.linalg.inv(metric) @ form)
    best = ranked([small], lines, 10)[0]
    assert same_lattice(best.primitive, true)
    assert best.superstructure == index
