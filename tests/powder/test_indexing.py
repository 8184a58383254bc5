"""Whole searches: lattice unknown, false lines, early stop, confidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from sfxproc.errors import DataError
from sfxproc.powder.cells import cells_from_x, same_lattice, x_from_cells
from sfxproc.powder.indexing import (
    CHANCE,
    IndexSettings,
    Task,
    beyond_doubt,
    confidences,
    gathered,
    index,
    lines_of,
    search,
    settled,
    waves,
)
from sfxproc.powder.lattices import LATTICES
from sfxproc.powder.ranking import Cell, Lines
from sfxproc.powder.references import lines_of_cell
from sfxproc.powder.search import class_below
from sfxproc.reduction import niggli_cell
from sfxproc.simulate.powder import PowderSettings, simulate_pattern

FEW = ("cP", "cF", "hR", "oP", "mP")


@cache
def simulated(symbol: str, n: int, **changes: float) -> tuple[Lines, np.ndarray]:
    """Lines of a random structure, and its reduced cell."""
    pattern = simulate_pattern(PowderSettings(**changes), symbol, n)
    group = pattern.structure.space_group
    return lines_of(pattern.q2), niggli_cell(pattern.structure.cell, group.centring)


@pytest.mark.parametrize(
    ("symbol", "changes"),
    [
        ("cF", {}),
        ("hR", {"sigma_two_theta_deg": 0.03}),
        ("oP", {}),
        ("mP", {"n_contaminants": 2}),
    ],
)
def test_random_structures_are_indexed(symbol: str, changes: dict[str, float]) -> None:
    lines, true = simulated(symbol, 4, **changes)
    heard: list[Task] = []

    def told(wave: Sequence[Task], best: list[Cell]) -> None:
        heard.extend(wave)
        assert [c.score for c in best] == sorted((c.score for c in best), reverse=True)

    settings = IndexSettings(lattices=FEW, effort=0.3)
    best = index(lines, settings, told)
    assert same_lattice(best[0].primitive, true)
    assert best[0].lattice.symbol == symbol
    assert confidences(best)[0] > 0.95
    everything = [task for wave in waves(settings) for task in wave]
    assert heard == everything[: len(heard)]
    if symbol == "cF":
        assert beyond_doubt(best, lines)
        assert {task.lattice for task in heard} <= {"cP", "cF", "hR", "oP"}


def test_many_even_lines_of_large_cubic_cells_do_not_beat_a_triclinic_cell() -> None:
    lines, true = simulated("aP", 4, sigma_two_theta_deg=0.03)
    best = index(lines, IndexSettings(lattices=("cP", "cI", "aP"), effort=0.3))
    assert same_lattice(best[0].primitive, true)
    assert all(c.score < best[0].score - 2.0 for c in best[1:])


def test_a_multiple_that_seems_more_symmetric_does_not_end_the_search() -> None:
    lines, true = simulated("oF", 38, sigma_two_theta_deg=0.03)
    settings = IndexSettings(lattices=("hP", "oF"))
    looks: list[Cell] = []
    best = index(lines, settings, lambda _, best: looks.append(best[0]))
    assert looks[0].lattice.symbol == "hP"  # it has twice the volume
    assert beyond_doubt(looks[:1], lines)
    assert best[0].lattice.symbol == "oF"
    assert same_lattice(best[0].primitive, true)


def test_the_search_is_settled_after_a_look_at_the_class_below() -> None:
    lines, _ = simulated("cF", 4)
    best = index(lines, IndexSettings(lattices=("cF",)))
    first, rest, lowest = [Task("oP", 0)], [Task("oP", 1)], [Task("aP", 0)]
    assert beyond_doubt(best, lines)
    assert not settled(best, lines, [first, rest])
    assert settled(best, lines, [rest, lowest])
    assert not settled([replace(best[0], score=1.0)], lines, [])
    assert class_below(LATTICES["mC"]) == ("aP",)
    assert class_below(LATTICES["aP"]) == ()


def test_a_flat_triclinic_cell_is_found_from_its_zone() -> None:
    lines, true = simulated("aP", 0)  # axes of 4.8, 14.5 and 23.2 Å
    aP = LATTICES["aP"]
    settings = IndexSettings(lattices=("aP",))
    found = [search(lines, Task("aP", batch), settings)["x"] for batch in (0, 1)]
    volumes, zones = (
        any(same_lattice(cells_from_x(aP, x), true) for x in of_batch) for of_batch in found
    )
    assert zones
    assert not volumes


def test_a_large_tetragonal_cell_of_which_few_lines_are_seen() -> None:
    lattice = LATTICES["tP"]
    x = x_from_cells(lattice, [11.79, 11.79, 23.64, 90, 90, 90])
    q2 = np.unique((lines_of_cell(lattice, x, 0.42)[1] @ x).round(10))
    assert len(q2) > 300
    seen = np.sort(np.random.default_rng(5).choice(q2[:320], 20, replace=False))
    best = index(lines_of(seen), IndexSettings(lattices=("tP", "tI", "hP", "hR", "cP", "oP")))
    assert best[0].lattice.symbol == "tP"
    assert best[0].explained.all()
    np.testing.assert_allclose(best[0].x, x, rtol=1e-5)


def test_the_answer_does_not_depend_on_the_order_of_tasks() -> None:
    lines, _ = simulated("oP", 2)
    settings = IndexSettings(lattices=("cP", "oP"), effort=0.6, early_stop=False)
    answers = []
    for step in (1, -1):
        best: list[Cell] = []
        todo = waves(settings)
        for number, wave in enumerate(todo):
            results = [search(lines, task, settings) for task in wave[::step]]
            best = gathered(lines, results, best, settings, todo[number + 1 :])
        answers.append([(c.lattice.symbol, c.score, c.x.tobytes()) for c in best])
    assert answers[0] == answers[1]
    assert answers[0] == [
        (c.lattice.symbol, c.score, c.x.tobytes()) for c in index(lines, settings)
    ]


def test_lines_at_random_give_no_confidence() -> None:
    rng = np.random.default_rng(12)
    q2 = np.sort(rng.uniform(0.005, 0.1, 25))
    best = index(lines_of(q2), IndexSettings(lattices=("cP", "oP"), effort=0.3))
    assert confidences(best).sum() < 0.5
    assert not beyond_doubt(best, lines_of(q2))


def test_confidences_are_shares_of_all_and_of_chance() -> None:
    lines, _ = simulated("cF", 4)
    cell = index(lines, IndexSettings(lattices=("cF",)))[0]
    cells = [replace(cell, score=score) for score in (2.0, 1.0)]
    weights = np.exp([2.0, 1.0, CHANCE])
    np.testing.assert_allclose(confidences(cells), weights[:2] / weights.sum())
    assert confidences([]).shape == (0,)


def test_volume_bounds_hold_to_the_end() -> None:
    lines, _ = simulated("oP", 4)
    free = index(lines, IndexSettings(lattices=("oP",), effort=0.3))[0].volume
    settings = IndexSettings(lattices=("oP",), effort=0.3, min_volume_A3=1.2 * free)
    assert all(c.volume >= 1.2 * free for c in index(lines, settings))


def test_lines_of() -> None:
    q2 = np.linspace(0.01, 0.3, 70)
    unknown = lines_of(q2)
    assert len(unknown.q2) == 60
    assert not unknown.known
    np.testing.assert_allclose(unknown.sigma[0], 8.7e-5 + 9.2e-6)
    known = lines_of(q2, 0.001 * q2, 20, 0.1)
    assert known.known
    assert known.outliers == 0.1
    np.testing.assert_allclose(known.sigma, 0.001 * q2[:20])
    with pytest.raises(DataError, match="ascending"):
        lines_of(q2[::-1])
