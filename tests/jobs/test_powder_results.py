"""Figures and words about the cells that a powder job found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sfxproc.commands.simulate_powder import simulate
from sfxproc.powder.cells import cells_from_x, x_from_cells
from sfxproc.powder.lattices import LATTICES
from sfxproc.powder.ranking import Cell, Lines, assessed
from sfxproc.results.powder import (
    cell_sigmas,
    in_standard_setting,
    m20,
    place_of,
    sentence_of,
    told_cell,
)
from sfxproc.settings.powder import SimulatedPattern


@pytest.fixture
def monoclinic() -> tuple[Cell, Lines]:
    """A cell fitted to its own lines with errors of 10⁻⁵ Å⁻²."""
    lattice = LATTICES["mP"]
    x = x_from_cells(lattice, np.array([7.1, 8.3, 9.7, 90.0, 101.0, 90.0]))
    forms = lattice.forms(
        np.array(
            [
                (1, 0, 0),
                (0, 1, 0),
                (0, 0, 1),
                (1, 1, 0),
                (0, 1, 1),
                (-1, 0, 1),
                (1, 0, 1),
                (-1, 1, 1),
                (1, 1, 1),
                (0, 0, 2),
                (0, 2, 0),
                (2, 0, 0),
                (0, 1, 2),
                (1, 2, 0),
                (-1, 0, 2),
                (0, 2, 1),
                (2, 1, 0),
                (-2, 0, 1),
                (-1, 1, 2),
                (-1, 2, 1),
                (1, 2, 1),
            ]
        )
    )
    q2 = np.sort(forms @ x) + 1e-5 * np.random.default_rng(1).standard_normal(len(forms))
    lines = Lines(q2, np.full(len(q2), 1e-5), True)
    cell = assessed(lattice, x, lines)
    assert cell is not None
    return cell, lines


def test_errors_of_a_cell(monoclinic: tuple[Cell, Lines]) -> None:
    """Against the scatter of cells fitted to lines with other errors."""
    cell, lines = monoclinic
    told = cell_sigmas(cell, lines)
    assert (told[[3, 5]] == 0.0).all()
    rng, forms = np.random.default_rng(2), cell.lattice.forms(cell.hkl)
    noise = cell.scale * lines.sigma * rng.standard_normal((400, len(lines.q2)))
    x = cell.x + noise @ np.linalg.pinv(forms).T
    found = cells_from_x(cell.lattice, x).std(axis=0)
    np.testing.assert_allclose(told[[0, 1, 2, 4]], found[[0, 1, 2, 4]], rtol=0.15)


def test_the_standard_setting_explains_as_much(monoclinic: tuple[Cell, Lines]) -> None:
    cell, lines = monoclinic
    a, b, c, _, beta, _ = cell.conventional
    swapped = assessed(cell.lattice, x_from_cells(cell.lattice, [c, b, a, 90, beta, 90]), lines)
    assert swapped is not None
    turned = in_standard_setting(swapped, lines)
    np.testing.assert_allclose(turned.conventional, cell.conventional, rtol=1e-6)
    assert turned.score == pytest.approx(cell.score, abs=1e-3)
    np.testing.assert_allclose(turned.lattice.forms(turned.hkl) @ turned.x, lines.q2 - turned.delta)


def test_m20_and_words(monoclinic: tuple[Cell, Lines], tmp_path: Path) -> None:
    cell, lines = monoclinic
    delta = np.maximum(np.abs(cell.delta[:20]), cell.scale * lines.sigma[:20])
    expected = lines.q2[19] / (2.0 * delta.mean())
    assert expected / cell.n_calculated <= m20(cell, lines) <= expected / 20
    told = told_cell(cell, lines)
    assert (told["superstructure"], told["n_calculated"]) == (1, cell.n_calculated)
    assert "No cell is better" in sentence_of([], lines, ["mP"], tmp_path)
    assert "mP 7.1" in sentence_of([cell], lines, ["mP"], tmp_path)
    settings = SimulatedPattern(lattice="oP")
    simulate(tmp_path / "a.txt", settings, None, overwrite=False)
    assert place_of(tmp_path / "a.txt", [cell]) == "the true cell is not among them"
