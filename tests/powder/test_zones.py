"""Zones: their planes, their lines, and the cells made of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from sfxproc.data import Floats
from sfxproc.powder.cells import (
    cells_from_x,
    is_valid,
    random_cells,
    same_lattice,
    volumes,
    x_from_cells,
)
from sfxproc.powder.generators import from_volumes, from_zones
from sfxproc.powder.indexing import lines_of
from sfxproc.powder.lattices import LATTICES, Lattice
from sfxproc.powder.optimise import SETTINGS
from sfxproc.powder.references import lines_of_cell, references
from sfxproc.powder.search import IndexSettings, Task, search
from sfxproc.powder.zones import PLANES, Kind, distances, layer_above, reduced, zone_cells

HK = np.array(list(itertools.product(range(-4, 5), repeat=2)))


def flat_cell(symbol: str) -> Floats:
    """x (p,) of a cell with one short axis."""
    angles = {"a": [83.0, 97.0, 104.0], "m": [90.0, 102.0, 90.0], "o": [90.0, 90.0, 90.0]}
    axes = [15.2, 4.1, 19.7] if symbol[0] == "m" else [4.1, 15.2, 19.7]
    scale = LATTICES[symbol].points_per_cell ** (1 / 3)
    lengths = [scale * axis for axis in axes]
    return np.asarray(x_from_cells(LATTICES[symbol], [*lengths, *angles[symbol[0]]]))


def flat_list(symbol: str, false: int = 0) -> Floats:
    """24 of its lines, every fifth left out, and false ones among them."""
    lattice, x = LATTICES[symbol], flat_cell(symbol)
    q2 = np.sort(lines_of_cell(lattice, x, 0.25)[1] @ x)
    q2 = q2[np.arange(len(q2)) % 5 != 2][:24]
    others = np.random.default_rng(8).uniform(q2[0], q2[15], false)
    return np.unique(np.concatenate([q2, others]))


def starts(symbol: str) -> Floats:
    """Random cells x (500, p) of half to twice the volume of the flat one."""
    lattice, rng = LATTICES[symbol], np.random.default_rng(6)
    x = x_from_cells(lattice, random_cells(lattice, 500, rng))
    wanted = volumes(lattice, flat_cell(symbol)) * np.exp2(rng.uniform(-1.0, 1.0, 500))
    return np.asarray(x * ((volumes(lattice, x) / wanted) ** (2 / 3))[:, None])


def candidates(symbol: str, q2: Floats, seed: int = 1) -> Floats:
    return zone_cells(LATTICES[symbol], q2, starts(symbol), np.random.default_rng(seed))


def low_lines(lattice: Lattice, x: Floats, plane: tuple[int, int]) -> Floats:
    """The first 5 lines (n, 5) in a plane of axes of cells (n, p), equivalent ones each."""
    hkl = np.zeros((len(HK), 3), dtype=np.int64)
    hkl[:, plane] = HK
    hkl = hkl[lattice.allowed(hkl) & (HK != 0).any(axis=1)]
    return np.sort(x @ lattice.forms(hkl).T, axis=1)[:, ::2][:, :5]


def share_with_zone(symbol: str, x: Floats) -> float:
    """Of the cells x that have the true cell's dominant zone on two of their axes."""
    lattice = LATTICES[symbol]
    true = flat_cell(symbol)[None]
    planes = list(itertools.combinations(range(3), 2))
    dominant = (0, 2) if symbol[0] == "m" else (1, 2)
    wanted = low_lines(lattice, true, dominant)
    off = [np.abs(low_lines(lattice, x, plane) / wanted - 1.0).max(axis=1) for plane in planes]
    return float((np.min(off, axis=0) < 0.01).mean())


@pytest.mark.parametrize("symbol", PLANES)
def test_planes_are_those_of_the_lattice(symbol: str) -> None:
    lattice = LATTICES[symbol]
    for plane in PLANES[symbol]:
        i, j, k = plane.axes
        hkl = np.zeros((len(HK), 3), dtype=np.int64)
        hkl[:, [i, j]] = HK
        if plane.kind == "centred":
            inside = HK.sum(axis=1) % 2 == 0
        else:
            inside = (HK % plane.multiples[:2] == 0).all(axis=1)
        np.testing.assert_array_equal(lattice.allowed(hkl), inside)
        first = next(l for l in (1, 2) if lattice.allowed(np.eye(3, dtype=int)[[k]] * l)[0])
        assert plane.multiples[2] == first
        # q² knows a product of two axes where the zone is oblique or the third axis leans
        coupled = {(a, b) for a, b in ((i, j), (i, k), (j, k)) if lattice.basis[:, a, b].any()}
        said = {(i, j)} if plane.kind == "oblique" else set()
        said |= {(axis, k) for axis, lean in zip((i, j), plane.lean, strict=True) if lean}
        assert said == coupled
        layer = layer_above(symbol, plane)
        assert lattice.allowed(layer).all()
        assert set(layer[:, k]) <= set(range(1, first + 1))
        assert (np.abs(layer[:, [i, j]]).sum(axis=1) == 0).any()


@pytest.mark.parametrize("false", [0, 2])
@pytest.mark.parametrize("symbol", PLANES)
def test_dominant_zones_are_drawn(symbol: str, false: int) -> None:
    q2 = flat_list(symbol, false)
    x = candidates(symbol, q2)
    assert is_valid(LATTICES[symbol], x).all()
    assert share_with_zone(symbol, x) > 0.5
    assert share_with_zone(symbol, starts(symbol)) < 0.02


@pytest.mark.parametrize("symbol", ["oP", "oC", "oI", "oF"])
def test_third_axes_are_solved_from_lines(symbol: str) -> None:
    x, true = candidates(symbol, flat_list(symbol)), flat_cell(symbol)
    right = (np.abs(np.sort(x, axis=1) / np.sort(true) - 1.0) < 1e-6).all(axis=1)
    assert right.mean() > 0.01


def test_a_search_from_zones_finds_a_flat_cell() -> None:
    lattice = LATTICES["mP"]
    settings = IndexSettings(generators=("zones",), n_lines=12)
    found = search(lines_of(flat_list("mP")), Task("mP", 0), settings)
    true = cells_from_x(lattice, flat_cell("mP"))
    assert any(same_lattice(cells_from_x(lattice, x), true) for x in found["x"])


@pytest.mark.parametrize("symbol", ["cF", "hR"])
def test_lattices_without_planes_get_random_shapes(symbol: str) -> None:
    reference, settings = references(symbol), SETTINGS[LATTICES[symbol].n_parameters]
    one, two = (
        generate(reference, flat_list("oP"), 200, settings, np.random.default_rng(1))
        for generate in (from_volumes, from_zones)
    )
    assert np.array_equal(one, two)


@pytest.mark.parametrize("symbol", PLANES)
def test_short_and_hopeless_lists_do_no_harm(symbol: str) -> None:
    for q2 in (np.array([0.01, 0.013]), np.geomspace(1e-5, 1.0, 9)):
        x = candidates(symbol, q2)
        assert is_valid(LATTICES[symbol], x).all()


@pytest.mark.parametrize("symbol", PLANES)
def test_cells_keep_to_the_range_of_volumes(symbol: str) -> None:
    volume = volumes(LATTICES[symbol], candidates(symbol, flat_list(symbol)))
    given = volumes(LATTICES[symbol], starts(symbol))
    assert volume.min() >= given.min() * (1 - 1e-6)
    assert volume.max() <= given.max() * (1 + 1e-6)


def test_the_same_seed_draws_the_same() -> None:
    q2 = flat_list("mC")
    one, same, other = (candidates("mC", q2, seed) for seed in (1, 1, 2))
    assert one.tobytes() == same.tobytes()
    assert not np.array_equal(one, other)


def test_reduction_keeps_the_zone() -> None:
    rng = np.random.default_rng(3)
    A, B = rng.uniform(0.01, 0.1, (2, 300))
    R = 1.9 * np.sqrt(A * B) * rng.uniform(-1.0, 1.0, 300)
    before, after = np.stack([A, B, R], axis=1), reduced(np.stack([A, B, R], axis=1))
    assert (np.abs(after[:, 2]) <= after[:, 0] * (1 + 1e-9)).all()
    assert (after[:, 0] <= after[:, 1]).all()
    h, k = HK.T
    lines = [np.sort(z @ np.array([h * h, k * k, h * k]), axis=1)[:, 1:6] for z in (before, after)]
    np.testing.assert_allclose(lines[0], lines[1])


@pytest.mark.parametrize("kind", ["oblique", "rectangular", "centred"])
def test_distances_are_those_to_the_nearest_line(kind: Kind) -> None:
    q2 = np.sort(np.random.default_rng(4).uniform(0.01, 0.06, 15))
    zone = np.array([[0.011, 0.017, 0.006], [0.02, 0.031, 0.013], [0.05, 0.2, 0.01]])
    if kind != "oblique":
        zone[:, 2] = 0.0
    off, count = distances(kind, zone, q2)
    hk = HK if kind != "centred" else HK[HK.sum(axis=1) % 2 == 0]
    h, k = hk.T
    for (A, B, R), row, n in zip(zone, off, count, strict=True):
        lines = np.unique((h * h * A + k * k * B + h * k * R).round(12))
        assert n == ((lines > 0.0) & (lines <= q2[-1])).sum()
        lines = np.minimum(lines, 1.1 * q2[-1])  # as far as lines are looked for
        np.testing.assert_allclose(row, np.abs(lines - q2[:, None]).min(axis=1), atol=1e-10)
