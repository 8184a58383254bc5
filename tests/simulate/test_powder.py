"""Calculated powder patterns: intensities, what is observable, errors, random structures."""

from __future__ import annotations

from dataclasses import replace

import gemmi
import msgspec
import numpy as np
import pytest

from sfxproc.errors import ConfigError, DataError
from sfxproc.reduction import bravais_symbol
from sfxproc.simulate.powder import (
    PowderSettings,
    observable,
    pattern_of,
    powder_multiplicities,
    simulate_pattern,
)
from sfxproc.simulate.powder_structures import groups_of, random_structure
from sfxproc.structure import Structure, form_factors, images, squared_structure_factors
from sfxproc.symmetry import possible, s_squared, space_group

SYMBOLS = ("aP", "mP", "mC", "oP", "oC", "oF", "oI", "tP", "tI", "hP", "hR", "cP", "cF", "cI")
SILICON = Structure(
    name="silicon",
    space_group=space_group("F d -3 m:1"),
    cell=np.array([5.431, 5.431, 5.431, 90.0, 90.0, 90.0]),
    elements=("Si",),
    sites=np.zeros((1, 3)),
    occupancies=np.ones(1),
)


def test_silicon() -> None:
    """The textbook pattern: 111 strongest; 222 allowed by the group but without intensity."""
    settings = PowderSettings(two_theta_max_deg=100.0)
    pattern = pattern_of(SILICON, settings, "cF", np.random.default_rng(0))
    squares = np.rint(pattern.q2 * 5.431**2).astype(int)
    assert squares.tolist() == [3, 8, 11, 16, 19, 24, 27]
    assert np.rint(pattern.all_q2 * 5.431**2).astype(int)[:5].tolist() == [3, 8, 11, 12, 16]
    assert len(pattern.all_q2) == 60
    assert np.argmax(pattern.intensity) == 0
    ratio = pattern.intensity[1] / pattern.intensity[0]
    assert 0.5 < ratio < 0.75  # 220 to 111, measured: about 0.6


def test_structure_factors_agree_with_gemmi() -> None:
    structure = random_structure("mC", "a", np.random.default_rng(3))
    group = gemmi.find_spacegroup_by_name(structure.space_group.hm)
    small = gemmi.SmallStructure()
    small.cell, small.spacegroup = gemmi.UnitCell(*structure.cell), group
    for n, (element, site) in enumerate(zip(structure.elements, structure.sites, strict=True)):
        atom = gemmi.SmallStructure.Site()
        atom.label, atom.element = f"{element}{n}", gemmi.Element(element)
        atom.fract = gemmi.Fractional(*site)
        atom.occ = len(images(structure.space_group, site)) / len(group.operations())
        small.add_site(atom)
    small.setup_cell_images()
    hkl = np.array([[2, 0, 0], [1, 1, 1], [-3, 1, 2], [0, 2, 4], [5, 3, -2]])
    calculator = gemmi.StructureFactorCalculatorX(small.cell)
    theirs = [
        abs(calculator.calculate_sf_from_small_structure(small, h.tolist())) ** 2 for h in hkl
    ]
    ours = squared_structure_factors(structure, hkl, s_squared(hkl, structure.cell), 0.0)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-3)


def test_form_factors_begin_with_the_electrons() -> None:
    found = form_factors(["C", "Fe"], np.array([0.0, 0.25]))
    np.testing.assert_allclose(found[:, 0], [6.0, 26.0], atol=0.05)
    assert (found[:, 1] < 0.7 * found[:, 0]).all()


def test_multiplicities_count_every_reflection() -> None:
    for name in ("P 1", "P 1 21/c 1", "P 42 21 2", "R 3:H", "I -4 3 d"):
        group = space_group(name)
        cell = [9.0, 9.0, 9.0, 90.0, 90.0, 90.0]
        cell[5] = 120.0 if name.startswith("R") else 90.0
        table = possible(group, cell, 1.49, None, False)
        found = powder_multiplicities(group, table.centric, table.epsilon)
        everything = gemmi.make_miller_array(
            gemmi.UnitCell(*cell), gemmi.SpaceGroup("P 1"), 1.49, 0.0, True
        )
        absent = gemmi.SpaceGroup(group.hm).operations().systematic_absences(everything)
        assert found.sum() == 2 * (~absent).sum()


def test_observable_lines() -> None:
    """Of two lines near each other one shows; a weak one beside a strong one is none."""
    places = np.array([10.0, 20.0, 20.05, 30.0, 30.08, 40.0])
    intensity = np.array([1.0, 0.6, 0.8, 1.0, 0.05, 1e-4])
    height, seen = observable(places, intensity, PowderSettings())
    assert seen.tolist() == [True, False, True, True, False, False]
    width = 0.1 / 2.3548
    grid = np.arange(0.0, 60.01, 0.02)
    y = (intensity * np.exp(-0.5 * ((grid[:, None] - places) / width) ** 2)).sum(axis=1)
    assert height[0] == pytest.approx(1.0 / np.sqrt((y * y).sum()), rel=1e-3)


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_random_patterns(symbol: str) -> None:
    settings = PowderSettings()
    first = [simulate_pattern(settings, symbol, number) for number in range(3)]
    again = simulate_pattern(settings, symbol, 2)
    np.testing.assert_array_equal(first[2].q2, again.q2)
    for pattern in first:
        structure = pattern.structure
        assert bravais_symbol(structure.space_group) == symbol
        assert 10 <= len(pattern.q2) <= 60
        assert len(pattern.all_q2) == 60
        np.testing.assert_allclose(
            4 * s_squared(pattern.hkl, structure.cell), pattern.true_q2, rtol=1e-9
        )
        np.testing.assert_allclose(pattern.q2, pattern.true_q2, rtol=1e-9)
        listed = np.searchsorted(pattern.all_q2, pattern.q2 * (1 - 1e-8))
        inside = listed < 60
        np.testing.assert_allclose(pattern.all_q2[listed[inside]], pattern.q2[inside], rtol=1e-8)


def test_densities_are_plausible() -> None:
    for number in range(20):
        rng = np.random.default_rng(number)
        structure = random_structure("oP", "a", rng)
        n = sum(len(images(structure.space_group, site)) for site in structure.sites)
        volume = gemmi.UnitCell(*structure.cell).volume
        assert 14.0 < volume / n < 36.0


def test_errors_missing_and_false_lines() -> None:
    exact = simulate_pattern(PowderSettings(), "mP", 1)
    settings = PowderSettings(
        sigma_q2=8.7e-5, sigma_q2_relative=9.2e-4, missing_fraction=0.2, n_contaminants=3
    )
    off = []
    for number in range(10):
        pattern = simulate_pattern(settings, "mP", number)
        false = np.isnan(pattern.true_q2)
        assert (pattern.hkl[false] == 0).all()
        assert false.sum() <= 3
        assert (np.diff(pattern.q2) >= 0).all()
        sigma = 8.7e-5 + 9.2e-4 * pattern.true_q2[~false]
        off.append((pattern.q2 - pattern.true_q2)[~false] / sigma)
    assert np.std(np.concatenate(off)) == pytest.approx(1.0, abs=0.15)
    thinned = simulate_pattern(msgspec.structs.replace(settings, sigma_q2=0.0), "mP", 1)
    shared = np.isin(np.round(exact.true_q2, 9), np.round(thinned.true_q2, 9))
    assert 0.6 < shared[:40].mean() < 0.95


def test_false_lines_among_the_first() -> None:
    for number in range(5):
        exact = simulate_pattern(PowderSettings(), "oP", number)
        settings = PowderSettings(n_contaminants=2, contaminants_within=12)
        pattern = simulate_pattern(settings, "oP", number)
        assert np.isnan(pattern.true_q2[:12]).sum() == 2
        kept = pattern.q2[np.isfinite(pattern.true_q2)]
        assert np.array_equal(kept, exact.q2[: len(kept)])


def test_space_groups_of_lattices() -> None:
    assert sum(len(groups_of(symbol)[0]) for symbol in SYMBOLS) == 230
    groups, share = groups_of("mP")
    assert {group.number: p for group, p in zip(groups, share, strict=True)}[14] > 0.7


def test_mistakes() -> None:
    with pytest.raises(ConfigError, match="no Bravais lattice 'mQ'"):
        simulate_pattern(PowderSettings(), "mQ", 0)
    with pytest.raises(DataError, match="Widen two_theta_max_deg"):
        simulate_pattern(PowderSettings(two_theta_max_deg=2.0), "cP", 0)
    unknown = replace(SILICON, elements=("X",))
    with pytest.raises(DataError, match="does not name all of its elements"):
        pattern_of(unknown, PowderSettings(), "cF", np.random.default_rng(0))
