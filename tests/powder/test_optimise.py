"""Patterns are indexed from random cells; duplicates, volumes, settings."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from sfxproc.powder.merit import merits
from sfxproc.powder.optimise import (
    SETTINGS,
    Optimised,
    distinct,
    line_density,
    optimise,
    volume_scaled,
)

INDICES = np.array([v for v in itertools.product(range(-8, 9), repeat=3) if v > (0, 0, 0)])
DIAGONAL = [np.diag(row) for row in np.eye(3)]
HL = np.zeros((3, 3))
HL[0, 2] = HL[2, 0] = 0.5
BASES = {"orthorhombic": np.array(DIAGONAL), "monoclinic": np.array([*DIAGONAL, HL])}
TRUE = {
    "orthorhombic": np.array([0.00292, 0.00662, 0.01100]),
    "monoclinic": np.array([0.00297, 0.01116, 0.00672, -0.00184]),
}


def forms_of(system: str) -> np.ndarray:
    """Lines of the lattice, low indices first."""
    forms = np.unique(np.einsum("ni,pij,nj->np", INDICES, BASES[system], INDICES), axis=0)
    return forms[np.argsort(forms[:, :3].sum(axis=1), kind="stable")][:500]


def shapes(system: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """Random cells, not of any particular volume."""
    axes = np.exp(0.8 * rng.standard_normal((n, 3)))
    if system == "orthorhombic":
        return axes
    return np.column_stack([axes, rng.uniform(-0.8, 0.8, n) * np.sqrt(axes[:, 0] * axes[:, 2])])


def pattern(system: str, noise: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """20 of the first 26 lines, and their errors."""
    rng = np.random.default_rng(8)
    q2 = np.unique((forms_of(system) @ TRUE[system]).round(9))[:26]
    q2 = q2[np.sort(rng.choice(26, 20, replace=False))]
    sigma = 8.7e-5 + 9.2e-4 * q2
    return np.sort(q2 + noise * sigma * rng.standard_normal(20)), sigma


def searched(system: str, n: int, noise: float = 0.0, **changes: object) -> Optimised:
    forms, basis, rng = forms_of(system), BASES[system], np.random.default_rng(4)
    q2, sigma = pattern(system, noise)
    settings = replace(SETTINGS[len(basis)], **changes)
    starts, fresh = (
        volume_scaled(forms, basis, q2, shapes(system, m, rng), settings, rng) for m in (n, 256)
    )
    return optimise(forms, basis, q2, sigma, starts, fresh, settings, seed=11)


def same_cell(system: str, x: np.ndarray, within: float) -> bool:
    """The same volume, and the same lines."""
    basis, forms = BASES[system], forms_of(system)
    volumes = [np.linalg.det(np.tensordot(v, basis, 1)) ** -0.5 for v in (x, TRUE[system])]
    lines = [np.sort(forms @ v)[:40] for v in (x, TRUE[system])]
    return np.allclose(*volumes, rtol=3 * within) and np.allclose(*lines, rtol=within)


@pytest.mark.parametrize("system", BASES)
@pytest.mark.parametrize("accept", ["always", "mala"])
def test_exact_pattern_is_indexed_from_random_cells(system: str, accept: str) -> None:
    found = searched(system, 600, accept=accept)
    assert same_cell(system, found.x[found.information.argmax()], 1e-5)


@pytest.mark.parametrize("system", BASES)
def test_pattern_with_errors_is_indexed_and_ranked_first(system: str) -> None:
    found = searched(system, 600, noise=0.5)
    q2, sigma = pattern(system, noise=0.5)
    figures = merits(forms_of(system), BASES[system], q2, sigma, found.x)
    np.testing.assert_allclose(figures.information, found.information, rtol=1e-9)
    assert same_cell(system, found.x[figures.evidence.argmax()], 6e-3)


def test_few_iterations_find_less() -> None:
    often = [np.sum(searched("monoclinic", 600, iterations=n).information > 40) for n in (5, 60)]
    assert often[1] > 3 * often[0]


def test_volumes_follow_the_prior_and_stay_within_bounds() -> None:
    system = "monoclinic"
    forms, basis, rng = forms_of(system), BASES[system], np.random.default_rng(5)
    q2, _ = pattern(system)
    settings = SETTINGS[4]
    x = volume_scaled(forms, basis, q2, shapes(system, 400, rng), settings, rng)
    volume = np.linalg.det(np.einsum("cp,pij->cij", x, basis)) ** -0.5
    assert volume.max() / volume.min() == pytest.approx(4.0 / 0.9, rel=0.05)
    # the true cell, of which 20 lines out of 26 were observed, is well inside
    true = np.linalg.det(np.tensordot(TRUE[system], basis, 1)) ** -0.5
    assert volume.min() < true < volume.max()
    found = searched(system, 300)
    volume = np.linalg.det(np.einsum("cp,pij->cij", found.x, basis)) ** -0.5
    one = 20 / (line_density(forms, basis, x) * q2[-1] ** 1.5)
    assert volume.min() > 0.55 * one
    assert volume.max() < 6.5 * one


def test_density_of_a_primitive_orthorhombic_lattice() -> None:
    """(4π/3)/8 of the points, and more by those on planes and axes, of lower multiplicity."""
    rng = np.random.default_rng(6)
    K = line_density(forms_of("orthorhombic"), BASES["orthorhombic"], 0.3 + rng.random((50, 3)))
    assert np.pi / 6 < K < 2.5 * np.pi / 6


def test_distinct_keeps_the_better_and_the_different() -> None:
    """Axes in another order make no other lattice."""
    diagonal = BASES["orthorhombic"]
    x = np.array([[1.0, 2, 3], [3.00001, 2, 1], [1.0, 2.1, 3], [1, 2, 3], [1, 2, 4], [2, 1, 3]])
    figure = np.array([-30.0, -30.001, -30.001, -40.0, -20.0, -30.0])
    assert distinct(x, figure, diagonal, 9).tolist() == [4, 0, 2, 3]
    assert distinct(x, figure, diagonal, 2).tolist() == [4, 0]
    assert distinct(x[:0], figure[:0], diagonal, 2).tolist() == []
