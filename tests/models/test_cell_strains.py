"""Strains of cells within their crystal systems."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from sfxproc.models.cell_strains import deformations, strain_basis, strains_of, symmetrised
from sfxproc.symmetry import cells_from_A, reciprocal_matrix, space_group

SYSTEMS = [
    ("P 21 3", (97.0, 97.0, 97.0, 90.0, 90.0, 90.0), 1),
    ("P 43 21 2", (79.1, 79.1, 38.2, 90.0, 90.0, 90.0), 2),
    ("P 63", (60.0, 60.0, 50.0, 90.0, 90.0, 120.0), 2),
    ("P 31", (60.0, 60.0, 50.0, 90.0, 90.0, 120.0), 2),
    ("R 3 2:R", (60.0, 60.0, 60.0, 75.0, 75.0, 75.0), 2),
    ("P 21 21 21", (40.0, 60.0, 80.0, 90.0, 90.0, 90.0), 3),
    ("P 1 21 1", (40.0, 60.0, 80.0, 90.0, 105.0, 90.0), 4),
    ("P 1", (40.0, 60.0, 80.0, 80.0, 95.0, 105.0), 6),
]
systems = pytest.mark.parametrize(("symbol", "cell", "n"), SYSTEMS, ids=[s for s, *_ in SYSTEMS])

Cell = tuple[float, ...]
Array = np.ndarray


def of(symbol: str, cell: Cell) -> tuple[Array, Array, Array]:
    """Rotations, B and basis."""
    rotations, B = space_group(symbol).rotations, reciprocal_matrix(np.array(cell))
    return rotations, B, strain_basis(rotations, B)


def oriented(B: Array, n: int = 20) -> Array:
    return Rotation.random(n, rng=np.random.default_rng(2)).as_matrix() @ B


def require_symmetry(A: Array, rotations: Array) -> None:
    """The metric is that of every equivalent basis."""
    metric = np.swapaxes(A, 1, 2) @ A
    for W in np.swapaxes(rotations, 1, 2):
        np.testing.assert_allclose(W.T @ metric @ W, metric, rtol=0, atol=1e-15)


@systems
def test_as_many_as_the_crystal_system_has_free_parameters(symbol: str, cell: Cell, n: int) -> None:
    rotations, B, basis = of(symbol, cell)
    assert basis.shape == (n, 3, 3)
    np.testing.assert_allclose(basis, np.swapaxes(basis, 1, 2), atol=1e-15)
    np.testing.assert_allclose(np.einsum("iab,jab->ij", basis, basis), np.eye(n), atol=1e-12)
    for W in np.swapaxes(rotations, 1, 2):
        O = B @ W @ np.linalg.inv(B)
        np.testing.assert_allclose(basis @ O, O @ basis, atol=1e-10)


@systems
def test_deformed_cells_obey_the_symmetry(symbol: str, cell: Cell, n: int) -> None:
    """To the last digits, however large the deformation."""
    rotations, B, basis = of(symbol, cell)
    A = oriented(B)
    e = 0.02 * np.random.default_rng(3).normal(size=(len(A), n))
    deformed = A @ (np.eye(3) + np.tensordot(e, deformations(basis, B), 1))
    require_symmetry(deformed, rotations)
    assert np.abs(cells_from_A(deformed)[:, :3] / np.array(cell)[:3] - 1.0).max() > 0.01


@systems
def test_strains_are_found_again(symbol: str, cell: Cell, n: int) -> None:
    """To first order, whatever the orientation."""
    _, B, basis = of(symbol, cell)
    A, T = oriented(B), deformations(basis, B)
    np.testing.assert_allclose(strains_of(A, basis, B), 0.0, atol=1e-12)
    direction = np.random.default_rng(4).normal(size=(len(A), n))
    for size in (1e-3, 1e-5):
        e = size * direction
        found = strains_of(A @ (np.eye(3) + np.tensordot(e, T, 1)), basis, B)
        assert np.abs(found - e).max() < 20.0 * size**2


@systems
def test_symmetrised(symbol: str, cell: Cell, n: int) -> None:
    rotations, B, _ = of(symbol, cell)
    A = oriented(B)
    np.testing.assert_allclose(symmetrised(A, rotations), A, rtol=0, atol=1e-15)
    rng = np.random.default_rng(5)
    turn = oriented(np.eye(3))
    stretch = 1e-3 * rng.normal(size=(len(A), 3, 3))
    stretch += np.swapaxes(stretch, 1, 2)  # a pure strain: the orientation is as it was
    found = symmetrised(turn @ (np.eye(3) + stretch) @ B, rotations)
    require_symmetry(found, rotations)
    u, _, v = np.linalg.svd(found @ np.linalg.inv(B))
    angle = Rotation.from_matrix(np.swapaxes(turn, 1, 2) @ u @ v).magnitude()
    assert angle.max() < 3e-5  # of second order in a strain of up to 6e-3
    if n == 6:
        np.testing.assert_allclose(found, turn @ (np.eye(3) + stretch) @ B, atol=1e-15)
