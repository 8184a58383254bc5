"""Clusters of unit cells: one where there is one, two where there are two."""

from __future__ import annotations

import numpy as np
import pytest

from sfxproc.merging.cell_clusters import MOST_LINKED, UNASSIGNED, cell_clusters
from sfxproc.symmetry import space_group

TETRAGONAL = np.array([79.1, 79.1, 38.2, 90.0, 90.0, 90.0])
TRICLINIC = np.array([50.0, 60.0, 70.0, 80.0, 95.0, 105.0])
CELLS = [("P 43 21 2", TETRAGONAL), ("P 1", TRICLINIC)]
REL, ANGLE_DEG = 0.0015, 0.1


def spread(cell: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Cells (n, 6) from standardised deviations z (n, 6)."""
    return np.concatenate([cell[:3] * (1.0 + REL * z[:, :3]), cell[3:] + ANGLE_DEG * z[:, 3:]], 1)


@pytest.mark.parametrize("kind", ["normal", "heavy tails", "uniform", "skew", "correlated"])
@pytest.mark.parametrize(("name", "cell"), CELLS)
def test_one_peak_is_one_cluster(name: str, cell: np.ndarray, kind: str) -> None:
    for n in (1, 4, 20, 150, 600):
        rng = np.random.default_rng(n)
        z = {
            "normal": rng.normal(size=(n, 6)),
            "heavy tails": rng.standard_t(3, size=(n, 6)),
            "uniform": rng.uniform(-2.0, 2.0, (n, 6)),
            "skew": rng.exponential(size=(n, 6)),
            "correlated": rng.normal(size=(n, 1)) + 0.2 * rng.normal(size=(n, 6)),
        }[kind]
        found = cell_clusters(spread(cell, z), space_group(name))
        assert len(found.size) == 1
        assert found.size[0] >= 0.9 * n or n < 30
        assert found.size[0] == np.count_nonzero(found.label == 0)


@pytest.mark.parametrize("group", [None, *CELLS], ids=["none", "tetragonal", "triclinic"])
def test_two_forms(group: tuple[str, np.ndarray] | None) -> None:
    """One axis 1 % longer in two of five crystals, each length spread by 0.15 %."""
    rng = np.random.default_rng(4)
    cell = TETRAGONAL if group is None else group[1]
    cells = spread(cell, rng.normal(size=(1000, 6)))
    longer = rng.random(1000) < 0.4
    cells[longer, 2] *= 1.01
    found = cell_clusters(cells, None if group is None else space_group(group[0]))
    assert len(found.size) == 2
    assert np.mean(found.label == longer) > 0.995
    assert found.size[0] > found.size[1]
    ratio = found.median[1, 2] / found.median[0, 2]
    assert ratio == pytest.approx(1.01, abs=5e-4)
    np.testing.assert_allclose(found.spread[:, 2] / cell[2], REL, rtol=0.15)
    np.testing.assert_allclose(found.spread[:, 3:], ANGLE_DEG, rtol=0.25)
    if group is CELLS[0]:
        assert found.median[0, 0] == found.median[0, 1]
        np.testing.assert_array_equal(found.median[:, 3:], 90.0)


def test_noise_in_what_symmetry_fixes_does_not_hide_two_forms() -> None:
    rng = np.random.default_rng(6)
    cells = spread(TETRAGONAL, rng.normal(size=(600, 6)))
    cells[:, 3:] = 90.0 + rng.normal(0.0, 3.0, (600, 3))
    cells[:200, 2] *= 1.015
    found = cell_clusters(cells, space_group("P 43 21 2"))
    assert found.size.tolist() == [400, 200]


def test_more_cells_than_are_linked() -> None:
    rng = np.random.default_rng(7)
    n = 4 * MOST_LINKED
    cells = spread(TETRAGONAL, rng.normal(size=(n, 6)))
    form = rng.choice(3, n, p=[0.6, 0.3, 0.1])
    cells[:, 0] *= 1.0 + 0.015 * (form == 1)
    cells[:, 1] *= 1.0 + 0.015 * (form == 1)
    cells[:, 2] *= 1.0 + 0.02 * (form == 2)
    cells[:5] = np.nan
    found = cell_clusters(cells, space_group("P 43 21 2"))
    assert len(found.size) == 3
    assert (found.label[:5] == UNASSIGNED).all()
    assert np.mean(found.label[5:] == form[5:]) > 0.995
    again = cell_clusters(cells, space_group("P 43 21 2"))
    np.testing.assert_array_equal(again.label, found.label)


def test_a_few_strangers_are_in_no_cluster() -> None:
    rng = np.random.default_rng(8)
    cells = spread(TETRAGONAL, rng.normal(size=(400, 6)))
    cells[[7, 8, 9]] = spread(1.05 * TETRAGONAL, rng.normal(size=(3, 6)))
    cells[[7, 8, 9], 3:] = 90.0
    found = cell_clusters(cells, space_group("P 43 21 2"))
    assert np.flatnonzero(found.label == UNASSIGNED).tolist() == [7, 8, 9]
    assert found.size.tolist() == [397]


def test_cells_all_alike() -> None:
    found = cell_clusters(np.tile(TRICLINIC, (50, 1)))
    assert found.size.tolist() == [50]
    np.testing.assert_array_equal(found.median[0], TRICLINIC)
    assert not found.spread.any()


@pytest.mark.parametrize("n", [0, 3])
def test_no_cells(n: int) -> None:
    found = cell_clusters(np.full((n, 6), np.nan), space_group("P 1"))
    assert (found.label == UNASSIGNED).all()
    assert (len(found.label), len(found.size)) == (n, 0)
    assert found.median.shape == found.spread.shape == (0, 6)
