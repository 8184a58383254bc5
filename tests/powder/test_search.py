"""Tasks of the search: what they are, what they find, and that they depend on nothing else."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from sfxproc.powder.cells import cells_from_x, primitive_cells, same_lattice, x_from_cells
from sfxproc.powder.indexing import lines_of
from sfxproc.powder.lattices import LATTICES
from sfxproc.powder.ranking import Lines
from sfxproc.powder.references import lines_of_cell, references
from sfxproc.powder.search import (
    CLASSES,
    IndexSettings,
    Task,
    best_of,
    cells_of,
    search,
    waves,
)

MONOCLINIC = [7.3, 9.1, 11.7, 90.0, 103.0, 90.0]
SETTINGS = IndexSettings()


def pattern(symbol: str, cell: list[float], n: int = 25) -> Lines:
    lattice = LATTICES[symbol]
    x = x_from_cells(lattice, cell)
    q2 = np.unique((lines_of_cell(lattice, x, 0.3)[1] @ x).round(10))[: n * 5 // 4]
    return lines_of(np.sort(np.random.default_rng(4).permutation(q2)[:n]))


def test_waves_hold_each_task_once_and_go_down_in_symmetry_twice() -> None:
    tasks = [task for wave in waves(SETTINGS) for task in wave]
    assert len(set(tasks)) == len(tasks)
    assert {task.lattice for task in tasks} == set(LATTICES)
    parameters = [LATTICES[task.lattice].n_parameters for task in tasks]
    order = [next(k for k, c in enumerate(CLASSES) if t.lattice in c) for t in tasks]
    rest = order.index(3) + order.count(3) // 4  # a quarter of each class first
    assert order[:rest] == sorted(order[:rest])
    assert order[rest:] == sorted(order[rest:])
    assert {task for task in tasks if task.batch == 0} <= set(tasks[:rest])
    assert parameters.count(6) > parameters.count(1)
    twice = waves(IndexSettings(effort=2.0, lattices=("aP", "oI")))
    batches = {s: [t.batch for w in twice for t in w if t.lattice == s] for s in LATTICES}
    assert not batches["mP"]
    assert batches["aP"] == list(range(2 * parameters.count(6)))
    assert all(wave for wave in twice)


def test_steps_that_are_refused_lead_elsewhere() -> None:
    """With "mala" the cell is found too, by other candidates."""
    lines = pattern("mP", MONOCLINIC)
    always, mala = (
        search(lines, Task("mP", 0), IndexSettings(accept=accept)) for accept in ("always", "mala")
    )
    assert same_lattice(cells_from_x(LATTICES["mP"], mala["x"])[0], MONOCLINIC)
    assert mala["x"].tobytes() != always["x"].tobytes()


def test_a_task_finds_the_cell() -> None:
    found = search(pattern("mP", MONOCLINIC), Task("mP", 0), SETTINGS)
    assert list(LATTICES)[int(found["lattice"])] == "mP"
    assert same_lattice(cells_from_x(LATTICES["mP"], found["x"])[0], MONOCLINIC)
    assert (np.diff(found["score"]) <= 0).all()
    assert found["score"][0] > 50


def test_a_task_is_the_same_whatever_was_done_before() -> None:
    lines = pattern("mP", MONOCLINIC)
    tasks = [Task("mP", 1), Task("mP", 0), Task("cF", 0)]
    forward = [search(lines, task, SETTINGS) for task in tasks]
    backward = [search(lines, task, SETTINGS) for task in tasks[::-1]][::-1]
    for one, two in zip(forward, backward, strict=True):
        assert one.keys() == two.keys()
        assert all(one[key].tobytes() == two[key].tobytes() for key in one)
    assert forward[0]["x"].tobytes() != forward[1]["x"].tobytes()
    answers = [
        [(c.score, c.x.tobytes()) for c in cells_of(lines, order, 12)]
        for order in itertools.permutations(forward)
    ]
    assert all(answer == answers[0] for answer in answers)


def test_the_right_cell_is_chosen_among_those_of_more_lines() -> None:
    """Large cells have a line near every observed one."""
    lattice, reference = LATTICES["mP"], references("mP")
    lines = pattern("mP", MONOCLINIC)
    sigma = np.random.default_rng(2).standard_normal(len(lines.q2)) * 0.7 * lines.sigma
    lines = lines_of(np.sort(lines.q2 + sigma))
    x = x_from_cells(lattice, MONOCLINIC)
    rng = np.random.default_rng(1)
    larger = x * rng.uniform(0.3, 0.5, (400, 1)) * rng.uniform(0.9, 1.1, (400, 4))
    few = lines.first(SETTINGS.n_lines)
    found = best_of(reference, np.concatenate([larger, x[None]]), lines, few, SETTINGS)
    np.testing.assert_allclose(found["x"][0], x, rtol=0.02, atol=1e-4)


@pytest.mark.parametrize(("least", "most"), [(2000.0, 0.0), (0.0, 300.0)])
def test_volumes_out_of_bounds_are_not_given(least: float, most: float) -> None:
    settings = IndexSettings(min_volume_A3=least, max_volume_A3=most)
    found = search(pattern("oP", [7.1, 9.4, 12.3, 90, 90, 90]), Task("oP", 0), settings)
    volume = np.prod(cells_from_x(LATTICES["oP"], found["x"])[:, :3], axis=1)
    assert (volume >= least).all()
    assert (volume <= (most or np.inf)).all()


def test_centred_cells_come_with_their_centring() -> None:
    lines = pattern("cF", [13.1, 13.1, 13.1, 90, 90, 90], 12)
    found = cells_of(lines, [search(lines, Task("cF", 0), SETTINGS)], 1)[0]
    true = primitive_cells(LATTICES["cF"], np.array([13.1, 13.1, 13.1, 90, 90, 90]))
    assert same_lattice(found.primitive, true)
