"""Loops over the lines and the bases of one cell against plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from sfxproc.kernels import powder_cells as kernels

BASIS = {
    1: [np.eye(3)],
    2: [[[1, 0.5, 0], [0.5, 1, 0], [0, 0, 0]], np.diag([0, 0, 1])],
    3: [np.diag([1, 0, 0]), np.diag([0, 1, 0]), np.diag([0, 0, 1])],
    6: [
        *(np.diag(row) for row in np.eye(3)),
        [[0, 0.5, 0], [0.5, 0, 0], [0, 0, 0]],
        [[0, 0, 0.5], [0, 0, 0], [0.5, 0, 0]],
        [[0, 0, 0], [0, 0, 0.5], [0, 0.5, 0]],
    ],
}
CELL = {
    1: [0.0041],
    2: [0.0041, 0.0027],
    3: [0.0041, 0.0027, 0.0063],
    6: [0.0041, 0.0027, 0.0063, 0.0007, 0.0013, -0.0009],
}
CENTRING = {  # six times the primitive axes
    "P": 6 * np.eye(3, dtype=int),
    "C": np.array([[3, 3, 0], [-3, 3, 0], [0, 0, 6]]).T,
    "I": np.array([[-3, 3, 3], [3, -3, 3], [3, 3, -3]]),
    "R": np.array([[4, -2, -2], [2, 2, -4], [2, 2, 2]]),
}
MIX = np.random.default_rng(1).integers(0, 2**63, 6).astype(np.uint64) * 2 + 1
Q2 = 0.3


def basis_of(p: int) -> np.ndarray:
    return np.array(BASIS[p], dtype=float)


def cells(p: int, n: int, spread: float = 0.1) -> np.ndarray:
    rng = np.random.default_rng([p, n])
    return np.array(CELL[p]) * np.exp(spread * rng.standard_normal((n, p)))


def within(basis, primitive, x, q, most):
    """Twin of `lines_within`: hkl, forms, packed forms and counts, by key."""
    G = np.tensordot(x, basis, 1)
    bound = np.minimum(np.floor(q * np.sqrt(np.diag(np.linalg.inv(G)))).astype(int), most)
    axes = [np.arange(0 if axis == 0 else -m, m + 1) for axis, m in enumerate(bound)]
    hkl = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    hkl = hkl[((hkl @ primitive) % 6 == 0).all(axis=1) & (hkl != 0).any(axis=1)]
    hkl = hkl[forms_of(basis, hkl) @ x <= q * q]
    hkl = hkl[np.argsort(hkl.sum(axis=1), kind="stable")]
    forms = forms_of(basis, hkl)
    keys = (forms.astype(np.int64).astype(np.uint64) * MIX[: len(x)]).sum(axis=1)
    unique, line = np.unique(keys, return_inverse=True)
    last = np.zeros(len(unique), dtype=np.int64)
    np.maximum.at(last, line, np.arange(len(keys)))
    count = np.bincount(line, np.where(hkl[:, 0] == 0, 1.0, 2.0))
    return hkl[last], forms[last], unique, count


def forms_of(basis, hkl):
    return np.round(np.einsum("ni,pij,nj->np", hkl.astype(float), basis, hkl.astype(float)))


def fits(metric, axes, turns, length, angle):
    """What `nearly_symmetric` must not miss: lengths and angles compared themselves."""
    own = np.swapaxes(axes, 1, 2) @ metric @ axes
    mean = (own.reshape(-1, 9) @ turns).reshape(-1, 3, 3)
    off = []
    for G in (own, mean):
        size = np.sqrt(np.einsum("nii->ni", G))
        cosines = (G / size[:, :, None] / size[:, None, :])[:, [0, 0, 1], [1, 2, 2]]
        off.append((size, np.arccos(cosines.clip(-1, 1))))
    lengths = np.abs(off[0][0] / off[1][0] - 1.0).max(axis=1)
    angles = np.abs(off[0][1] - off[1][1]).max(axis=1)
    return (lengths <= length) & (angles <= angle)


@pytest.mark.parametrize("p", BASIS)
def test_metrics(p: int) -> None:
    basis, x = basis_of(p), cells(p, 40, 0.5)
    x[::5] *= -1.0
    x[7, 0], x[8, 0] = np.nan, np.inf
    found, metric = np.empty(len(x)), np.empty((3, 3))
    kernels.determinants(basis, x, found)
    vectors = np.random.default_rng(2).integers(-2, 3, (50, 3)).astype(float)
    vectors = vectors[vectors.any(axis=1)]
    n = 0
    for row, det in zip(x, found, strict=True):
        G = np.tensordot(np.nan_to_num(row, posinf=0.0), basis, 1)
        good = np.isfinite(row).all() and np.linalg.eigvalsh(G)[0] > 0
        assert (det > 0) == good
        assert np.isnan(kernels.shortest(basis, row, vectors)) == (not good)
        if good:
            n += 1
            inverse = np.linalg.inv(G)
            assert kernels.direct_metric(basis, row, metric) == det
            np.testing.assert_allclose(det, np.linalg.det(G), rtol=1e-11)
            np.testing.assert_allclose(metric, inverse, rtol=1e-11, atol=1e-11 * inverse.max())
            least = np.sqrt(np.einsum("ni,ij,nj->n", vectors, inverse, vectors).min())
            np.testing.assert_allclose(kernels.shortest(basis, row, vectors), least, rtol=1e-11)
    assert n > 10


@pytest.mark.parametrize("p", BASIS)
@pytest.mark.parametrize("centring", CENTRING)
def test_lines_within(p: int, centring: str) -> None:
    basis, primitive = basis_of(p), CENTRING[centring]
    for x in cells(p, 6):
        for q2, most in ((0.5 * x.max(), 40), (0.07, 40), (Q2, 40), (Q2, 3)):
            q = q2**0.5
            hkl, form, key, count = kernels.lines_within(basis, primitive, x, q, most, MIX[:p])
            order = np.argsort(key)
            found = hkl[order], form[order], key[order], count[order]
            for a, b in zip(found, within(basis, primitive, x, q, most), strict=True):
                np.testing.assert_array_equal(a, b)


def test_no_cell_has_no_lines() -> None:
    hkl, *_ = kernels.lines_within(basis_of(1), CENTRING["P"], np.array([-1.0]), 1.0, 40, MIX[:1])
    assert len(hkl) == 0


@pytest.mark.parametrize("length", [0.001, 0.02])
@pytest.mark.parametrize("angle", [0.001, 0.03])
def test_nearly_symmetric_misses_none_and_tells_most(length: float, angle: float) -> None:
    """Of axes that are tetragonal but for about the tolerances."""
    rng = np.random.default_rng(7)
    quarter = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    half = np.diag([1.0, -1.0, -1.0])
    powers = [np.linalg.matrix_power(quarter, i) for i in range(4)]
    R = np.array([g @ h for g in powers for h in (np.eye(3), half)])
    turns = np.einsum("nij,nkl->ikjl", R, R).reshape(9, 9) / len(R)
    strain = rng.uniform(-3.0, 3.0, (3000, 3, 3)) * np.where(np.eye(3), length, 0.3 * angle)
    axes = np.diag([6.0, 6.0, 9.0]) + 6.0 * strain
    found = np.empty(len(axes), np.bool_)
    kernels.nearly_symmetric(np.eye(3), axes, turns, length, angle, found)
    expected = fits(np.eye(3), axes, turns, length, angle)
    assert found[expected].all()
    assert 0 < expected.sum() <= found.sum() < 2900
