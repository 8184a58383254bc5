"""Cells most of whose lines are those of a smaller cell."""

from __future__ import annotations

import numpy as np
import pytest

from sfxproc.powder.cells import hermite_forms, x_from_cells
from sfxproc.powder.indexing import lines_of
from sfxproc.powder.lattices import LATTICES
from sfxproc.powder.ranking import Cell, Lines, assessed, ranked, same_points
from sfxproc.powder.references import lines_of_cell
from sfxproc.powder.superstructures import (
    INDICES,
    SHARES,
    likely_sublattices,
    ratios_of_two,
    sublattices,
)

HKL = np.stack(np.meshgrid(*[np.arange(-8, 9)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)


@pytest.mark.parametrize("symbol", LATTICES)
def test_sublattices_are_closed_distinct_and_of_their_index(symbol: str) -> None:
    lattice = LATTICES[symbol]
    hkl = HKL[lattice.allowed(HKL)]
    members = sublattices(symbol).members(hkl)
    for turn in lattice.rotations.astype(np.int64):
        np.testing.assert_array_equal(sublattices(symbol).members(hkl @ turn), members)
    assert len(np.unique(members, axis=0)) == len(members)
    few = np.random.default_rng(1).choice(len(hkl), (2, 500))
    both = members[:, few[0]] & members[:, few[1]]
    sums = sublattices(symbol).members(hkl[few[0]] + hkl[few[1]])
    assert (sums | ~both).all()
    probability = np.exp(sublattices(symbol).log_prior)
    assert probability.sum() <= 0.2 + 1e-12


def test_sublattices_that_are_known() -> None:
    h, k, l = HKL.T
    known = {
        "cP": [(h + k + l) % 2, (h + k) % 2 + (k + l) % 2, h % 2 + k % 2 + l % 2],
        "hP": [l % 2, (h - k) % 3, l % 3, h % 2 + k % 2, l % 4],
    }
    for symbol, rests in known.items():
        found = sublattices(symbol).members(HKL)
        for rest in rests:
            assert (found == (rest == 0)).all(axis=1).any()
    assert len(sublattices("cP").test) == 3
    assert len(sublattices("aP").test) == sum(len(hermite_forms(m)) for m in INDICES)


@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_lines_anywhere_are_not_explained(scale: float) -> None:
    """⟨r⟩ = 1 for each share, as of `merit.ratios`."""
    lattice, rng = LATTICES["oP"], np.random.default_rng(3)
    x = x_from_cells(lattice, [7.1, 9.4, 12.3, 90, 90, 90])
    hkl, forms = lines_of_cell(lattice, x, 0.32)
    calculated, member = forms @ x, hkl[:, 2] % 2 == 0
    places = np.sort(0.3 * rng.random((4000, 12)) ** (2 / 3), axis=1)
    sigma = np.full((1, 12), scale * 3e-4)
    places[:, -1] = 0.3
    r = np.array([ratios_of_two(calculated, member, q2, sigma)[:, :-1] for q2 in places])
    assert r.shape == (4000, len(SHARES), 11)
    np.testing.assert_allclose(r.mean(axis=(0, 2)), 1.0, atol=0.08)


def test_a_sublattice_needs_lines_off_it_but_few() -> None:
    hkl, _ = lines_of_cell(LATTICES["tP"], x_from_cells(LATTICES["tP"], TETRAGONAL), 0.3)
    inside = np.ones(len(hkl), dtype=bool)
    even = np.flatnonzero(hkl[:, 2] % 2 == 0)
    odd = np.flatnonzero(hkl[:, 2] % 2 == 1)
    found = list(likely_sublattices("tP", hkl, inside, np.append(even[:20], odd[3])))
    np.testing.assert_array_equal(found[0].member, hkl[:, 2] % 2 == 0)
    assert found[0].of_index == 2
    assert found[0].log_prior == pytest.approx(
        np.log(0.2 / (2 * 3 * sum(1 / m for m in (2, 3, 4, 5, 6, 7, 8))))
    )
    assert not list(likely_sublattices("tP", hkl, inside, np.arange(40)))
    assert not list(likely_sublattices("tP", hkl, inside, even[:0]))
    for other in likely_sublattices("tP", hkl, inside, even[:20]):
        assert not other.member[even[:20]].all()


TETRAGONAL = [7.1, 7.1, 24.6, 90, 90, 90]
HALF = [7.1, 7.1, 12.3, 90, 90, 90]


def lines_with(n: int, off: list[int], foreign: float = 0.0, digits: int = 9) -> Lines:
    """The first n lines of HALF, those numbered `off` of the other ones of TETRAGONAL, and one
    that is foreign; rounded."""
    lattice = LATTICES["tP"]
    x = x_from_cells(lattice, TETRAGONAL)
    hkl, forms = lines_of_cell(lattice, x, 0.5)
    q2, odd = forms @ x, hkl[:, 2] % 2 == 1
    some = np.concatenate([q2[~odd][:n], q2[odd][off], [foreign] if foreign else []])
    return lines_of(np.unique(some.round(digits)))


def weighed(symbol: str, cell: list[float], lines: Lines) -> Cell:
    found = assessed(LATTICES[symbol], x_from_cells(LATTICES[symbol], cell), lines)
    assert found is not None
    return found


def test_one_weak_line_may_be_foreign_unless_exact() -> None:
    gained = []
    for digits in (9, 5, 4):
        lines = lines_with(24, [4], digits=digits)
        gained.append(weighed("tP", TETRAGONAL, lines).score - weighed("tP", HALF, lines).score)
    assert gained[0] > 3.0
    assert np.abs(gained[1:]).max() < 3.0


@pytest.mark.parametrize("off", [[2, 9], [1, 4, 8]])
def test_few_weak_lines_tell_the_larger_cell(off: list[int]) -> None:
    lines = lines_with(24, off)
    large, small = weighed("tP", TETRAGONAL, lines), weighed("tP", HALF, lines)
    assert np.count_nonzero(~small.explained) == len(off)
    assert large.explained.all()
    assert large.score > small.score + 3.0
    assert (large.superstructure, small.superstructure) == (2, 1)
    found = ranked([small], lines, 10)
    assert same_points(found[0], large)
    assert found[0].lattice.symbol == "tP"


def test_no_or_a_foreign_line_do_not() -> None:
    for lines in (lines_with(24, []), lines_with(24, [], foreign=0.11111)):
        small = weighed("tP", HALF, lines)
        assert same_points(ranked([small], lines, 10)[0], small)
        assert weighed("tP", TETRAGONAL, lines).score < small.score - 5.0


def test_a_cell_of_higher_symmetry_and_few_of_its_lines() -> None:
    """A tetragonal cell of a quarter of the volume has all lines, too."""
    lattice, a = LATTICES["cP"], 16.2
    even = [4, 8, 12, 16, 20, 24, 32, 36, 40, 44, 48, 52, 56]  # h² + k² + l²
    odd = [13, 25, 45]  # 320, 430, 542
    lines = lines_of(np.sort(np.array(even + odd) / a**2))
    quarter = weighed("tP", [a / 2, a / 2, a, 90, 90, 90], lines)
    assert quarter.explained.all()
    found = ranked([quarter], lines, 10)
    assert found[0].lattice.symbol == lattice.symbol
    assert found[0].conventional[0] == pytest.approx(a, rel=1e-5)
