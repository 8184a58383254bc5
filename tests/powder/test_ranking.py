"""Cells weighed against each other: errors, false lines, derivative and ambiguous lattices."""

from __future__ import annotations

import numpy as np
import pytest

from sfxproc.data import Floats
from sfxproc.powder.cells import same_lattice, x_from_cells
from sfxproc.powder.indexing import lines_of
from sfxproc.powder.lattices import LATTICES
from sfxproc.powder.ranking import (
    Cell,
    Lines,
    assessed,
    derivatives,
    distinct,
    log_prior,
    ranked,
    relatives,
    same_lines,
    same_points,
)
from sfxproc.powder.references import lines_of_cell

ORTHORHOMBIC = [7.1, 9.4, 13.3, 90, 90, 90]  # c off √3 a, with which it is nearly hexagonal
TETRAGONAL = [7.1, 7.1, 13.3, 90, 90, 90]


def pattern(symbol: str, cell: list[float], n: int = 22, noise: float = 0.0) -> Lines:
    """n of the first lines of a cell, a fifth left out."""
    lattice, rng = LATTICES[symbol], np.random.default_rng(4)
    x = x_from_cells(lattice, cell)
    q2 = np.unique((lines_of_cell(lattice, x, 0.3)[1] @ x).round(10))[: n * 5 // 4]
    q2 = np.sort(rng.permutation(q2)[:n])
    return lines_of(np.sort(q2 + noise * lines_of(q2).sigma * rng.standard_normal(n)))


def with_false_lines(lines: Lines) -> tuple[Lines, Floats]:
    """Two more in the widest gaps, and those by themselves."""
    gaps = np.argsort(-np.diff(lines.q2))[:2]
    false = 0.62 * lines.q2[gaps] + 0.38 * lines.q2[gaps + 1]
    return lines_of(np.sort(np.append(lines.q2, false))), false


def weighed(symbol: str, cell: list[float], lines: Lines) -> Cell:
    found = assessed(LATTICES[symbol], x_from_cells(LATTICES[symbol], cell), lines)
    assert found is not None
    return found


def test_refinement_finds_the_cell_and_its_errors() -> None:
    lines = pattern("oP", ORTHORHOMBIC, noise=1.0)
    start = [v * f for v, f in zip(ORTHORHOMBIC, [1.001, 0.9993, 1.0007, 1, 1, 1], strict=True)]
    found = weighed("oP", start, lines)
    true = x_from_cells(LATTICES["oP"], ORTHORHOMBIC)
    assert (np.abs(found.x - true) < 4 * found.sigma_x).all()
    assert (found.sigma_x < 3e-3 * true).all()
    assert 0.5 <= found.scale <= 2.0
    np.testing.assert_allclose(
        LATTICES["oP"].forms(found.hkl) @ found.x + found.delta, lines.q2, rtol=1e-12
    )


def test_the_scale_of_unknown_errors_is_told_by_the_lines() -> None:
    exact = weighed("oP", ORTHORHOMBIC, pattern("oP", ORTHORHOMBIC))
    tenth = weighed("oP", ORTHORHOMBIC, pattern("oP", ORTHORHOMBIC, noise=0.1))
    assert exact.scale < 0.01
    assert 0.05 < tenth.scale < 0.2
    assert exact.score > tenth.score + 30


@pytest.mark.parametrize(("n_off", "believed"), [(4, True), (9, False)])
def test_some_exact_lines_among_many_others_prove_nothing(n_off: int, believed: bool) -> None:
    exact = pattern("oP", ORTHORHOMBIC, n=26).q2
    off = np.random.default_rng(2).choice(26, n_off, replace=False)
    q2 = exact.copy()
    q2[off] += 0.6 * lines_of(exact).sigma[off] * np.where(off % 2 == 0, 1, -1)
    found = weighed("oP", ORTHORHOMBIC, lines_of(np.sort(q2)))
    assert (found.scale < 2.0**-7) == believed


def test_known_errors_are_believed() -> None:
    lines = pattern("oP", ORTHORHOMBIC)
    assert weighed("oP", ORTHORHOMBIC, lines_of(lines.q2, lines.sigma)).scale == 0.5


def test_false_lines_are_named_and_cost_little() -> None:
    lines = pattern("oP", ORTHORHOMBIC)
    both, false = with_false_lines(lines)
    found = weighed("oP", ORTHORHOMBIC, both)
    assert set(both.q2[~found.explained]) == set(false)
    clean = weighed("oP", ORTHORHOMBIC, lines)
    assert clean.score - 12 < found.score < clean.score


@pytest.mark.parametrize("noise", [0.0, 0.5])
@pytest.mark.parametrize(
    ("symbol", "cell"), [("oP", ORTHORHOMBIC), ("tP", TETRAGONAL), ("mC", [13, 7, 9, 90, 103, 90])]
)
def test_the_cell_is_above_its_derivatives_and_lower_lattices(
    symbol: str, cell: list[float], noise: float
) -> None:
    lines = pattern(symbol, cell, noise=noise)
    true = weighed(symbol, cell, lines)
    found = ranked([true, *relatives(true, lines), *derivatives(true, lines)], lines, 20)
    assert same_points(found[0], true)
    assert found[0].lattice.symbol == symbol
    low = weighed("aP", true.primitive.tolist(), lines)
    assert low.score < true.score - 3


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_wrong_multiple_leads_to_the_cell(factor: float) -> None:
    """A third of the lines of a halved axis is not explained; a doubled one explains all."""
    lines = pattern("oP", ORTHORHOMBIC)
    wrong = weighed("oP", [*ORTHORHOMBIC[:2], factor * ORTHORHOMBIC[2], 90, 90, 90], lines)
    found = ranked([wrong], lines, 20)
    assert same_lattice(found[0].primitive, ORTHORHOMBIC)
    assert found[0].lattice.symbol == "oP"


@pytest.mark.parametrize(
    ("symbol", "cell", "wrong", "larger"),
    [
        ("hR", [17.6, 17.6, 18.6, 90, 90, 120], "hP", [17.6, 17.6, 18.6, 90, 90, 120]),
        ("cP", [14.2, 14.2, 14.2, 90, 90, 90], "cF", [28.4, 28.4, 28.4, 90, 90, 90]),
        ("tP", TETRAGONAL, "tP", [7.1 * 2**0.5, 7.1 * 2**0.5, 13.3, 90, 90, 90]),
    ],
)
def test_a_symmetric_multiple_leads_to_the_cell_beside_false_lines(
    symbol: str, cell: list[float], wrong: str, larger: list[float]
) -> None:
    lines, _ = with_false_lines(pattern(symbol, cell))
    found = ranked([weighed(wrong, larger, lines)], lines, 20)
    assert found[0].lattice.symbol == symbol
    np.testing.assert_allclose(found[0].conventional, cell, rtol=1e-6)


def test_a_nearly_tetragonal_cell_is_told_by_exact_lines_only() -> None:
    cell = [7.100, 7.106, 13.3, 90, 90, 90]
    exact = pattern("oP", cell)
    assert ranked([weighed("oP", cell, exact)], exact, 5)[0].lattice.symbol == "oP"
    rough = pattern("oP", cell, noise=1.0)
    either = ranked([weighed("oP", cell, rough)], rough, 5)[0]
    assert {either.lattice.symbol, *either.alternatives} >= {"oP", "tP"}
    for noise in (0.0, 0.3, 1.0):
        lines = pattern("tP", [7.1, 7.1, 13.3, 90, 90, 90], noise=noise)
        near = weighed("oP", [7.1, 7.106, 13.3, 90, 90, 90], lines)
        assert ranked([near], lines, 5)[0].lattice.symbol == "tP"


def test_one_lattice_of_points_is_listed_once() -> None:
    lines = pattern("oP", ORTHORHOMBIC)
    turned = [ORTHORHOMBIC[k] for k in (2, 0, 1, 3, 4, 5)]
    cells = [weighed("oP", ORTHORHOMBIC, lines), weighed("oP", turned, lines)]
    cells.append(weighed("aP", ORTHORHOMBIC, lines))
    assert [c.lattice.symbol for c in distinct(cells, 5)] == ["oP"]


def test_lattices_of_the_same_lines_are_named() -> None:
    """h² + hk + k² and h² + 3k² represent the same numbers: a hexagonal lattice and an
    orthorhombic one of half the volume have the same lines (Mighell & Santoro, J. Appl. Cryst. 8
    (1975) 372)."""
    lines = pattern("hP", [8.3, 8.3, 11.9, 90, 90, 120])
    hexagonal = weighed("hP", [8.3, 8.3, 11.9, 90, 90, 120], lines)
    halves = weighed("oP", [4.15, 4.15 * 3**0.5, 11.9, 90, 90, 90], lines)
    assert not same_points(hexagonal, halves)
    assert same_lines(hexagonal, halves, lines)
    found = ranked([hexagonal], lines, 10)
    assert found[0].lattice.symbol == "hP"
    assert "oP" in found[0].alternatives
    others = ranked([weighed("tP", TETRAGONAL, pattern("tP", TETRAGONAL))], lines, 10)
    assert all("hP" not in c.alternatives for c in others[:1])


def test_hopeless_cells_are_left_out() -> None:
    lines = pattern("oP", ORTHORHOMBIC)
    lattice = LATTICES["oP"]
    assert assessed(lattice, np.array([0.02, -0.01, 0.01]), lines) is None
    assert assessed(lattice, x_from_cells(lattice, [300, 300, 300, 90, 90, 90]), lines) is None
    assert assessed(lattice, np.array([5.0, 6.0, 7.0]), lines) is None


def test_very_short_vectors_are_rare() -> None:
    """Beryllium may repeat at 2.286 Å, hardly anything at 2.1 Å."""
    hP = LATTICES["hP"]
    usual, beryllium, short = (
        log_prior(hP, x_from_cells(hP, [a, a, 90.0 / a**2, 90, 90, 120])) for a in (2.6, 2.286, 2.1)
    )
    assert usual - 2.0 < beryllium < usual
    assert short < usual - 3.0


def test_the_rhombohedral_cell_in_its_own_axes() -> None:
    cosine = np.cos(np.radians(71.0))
    a, c = 6.2 * np.sqrt(2.0 - 2.0 * cosine), 6.2 * np.sqrt(3.0 + 6.0 * cosine)
    cell = [a, a, c, 90.0, 90.0, 120.0]
    found = weighed("hR", cell, pattern("hR", cell, 15))
    np.testing.assert_allclose(found.primitive, [6.2, 6.2, 6.2, 71, 71, 71], rtol=1e-6)
