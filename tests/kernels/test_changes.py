"""Parameters that change what a partiality model takes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numba import njit

from sfxproc.kernels.changes import combined, own_axes
from sfxproc.kernels.postrefine import LN_SIZE, partiality_kernel
from sfxproc.partiality import PARTIALITIES, values
from sfxproc.symmetry import reciprocal_matrix
from tests.models.partial_stills import Partials, partials

Array = np.ndarray[Any, Any]


@njit
def bent(values, q, normal, by):  # type: ignore[no-untyped-def]
    """All three numbers, by where the point is and where the sphere cuts it."""
    by[0, 0], by[0, 1] = 1e-3 * q[0], normal[2]
    by[1, 2] = 20.0 * values[1] * q[2]
    return values[0] * by[0, 0], values[0] * by[0, 1], 10.0 * values[1] ** 2 * q[2]


@njit
def grown(values, q, normal, by):  # type: ignore[no-untyped-def]
    """R with |q|²."""
    by[0, 1] = np.dot(q, q)
    return 0.0, values[0] * by[0, 1], 0.0


@pytest.mark.parametrize("name", ["sphere", "eta_deff", "gaussian_gaussian"])
def test_kernel_is_the_formula_and_its_derivatives(name: str) -> None:
    """Of both changes together, against NumPy; every parameter's derivative by differences."""
    wide = {"bandwidth": 0.02} if PARTIALITIES[name].uses_bandwidth else {}
    data = partials(name, n_crystals=12, d_min_A=5.0, **wide)
    g = replace(data.geometry, slope=np.full(data.n, 0.001))
    crystal = data.observations.crystal
    start = np.searchsorted(crystal, np.arange(data.n + 1)).astype(np.int64)
    model = data.partiality

    def kernel(local: Array) -> tuple[Array, Array]:
        P, relative = np.empty(len(crystal)), np.empty((len(crystal), 6))
        partiality_kernel(True)(
            model.profile,
            model.amplitude == "r0/R",
            combined((bent, grown), (2, 1)),
            3,
            (g.hkl, g.A, g.beam, g.axes, g.wavenumber, g.slope, g.bandwidth, g.deformations),
            start,
            0,
            data.n,
            local,
            P,
            relative,
        )
        return P, relative

    rng = np.random.default_rng(3)
    local = np.zeros((data.n, 8))
    local[:, LN_SIZE] = np.log(data.size)
    local[:, 5:] = 0.3 * rng.normal(size=(data.n, 3))
    P, relative = kernel(local)
    np.testing.assert_allclose(P, formula(data, g.slope[0], local), rtol=1e-9, atol=1e-11)
    for k in range(6):
        step = 1e-7 if k < 2 else 1e-6
        ends = []
        for sign in (-1, 1):
            there = local.copy()
            there[:, 2 + k] += sign * step
            ends.append(kernel(there)[0])
        slope = (ends[1] - ends[0]) / (2 * step)
        smooth = (P > 1e-3) & (ends[0] > 0) & (ends[1] > 0)  # away from kinks
        got = relative[smooth, k] * P[smooth]
        np.testing.assert_allclose(got, slope[smooth], rtol=2e-4, atol=3e-6 * np.abs(slope).max())


def formula(data: Partials, m: float, local: Array) -> Array:
    """P of crystals as recorded, with the two changes."""
    g, model = data.geometry, data.partiality
    crystal, out = data.observations.crystal, []
    for n in range(data.n):
        q = g.hkl[crystal == n] @ g.A[n].T
        k, r0 = g.wavenumber[n], np.exp(local[n, LN_SIZE])
        to = q + k * g.beam[n]
        length, size = np.linalg.norm(to, axis=1), np.linalg.norm(q, axis=1)
        # x along a*, z along c, by their definition
        x = g.A[n][:, 0] / np.linalg.norm(g.A[n][:, 0])
        z = np.cross(g.A[n][:, 0], g.A[n][:, 1])
        z *= np.sign(z @ g.A[n][:, 2]) / np.linalg.norm(z)
        one, two, three = local[n, 5:]
        r = length - k + one * 1e-3 * (q @ x)
        R = (r0 + m * size) * np.exp(one * (to @ z) / length + three * size**2)
        w = (
            g.bandwidth[n]
            * k
            * np.abs((k + q @ g.beam[n]) / length - 1)
            * np.exp(10 * two**2 * (q @ z))
        )
        P = values(model, r, R, w)
        out.append(P * r0 / R if model.amplitude == "r0/R" else P)
    return np.concatenate(out)


def test_own_axes_are_those_of_reciprocal_matrices() -> None:
    """In its own axes, A is the upper triangle that `reciprocal_matrix` makes of the cell."""
    B = reciprocal_matrix(np.array([50.0, 60.0, 70.0, 80.0, 95.0, 105.0]))
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    axes = np.empty((3, 3))
    own_axes(turn @ B, axes)
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-14)
    found = axes @ turn @ B
    np.testing.assert_allclose(np.tril(found, -1), 0.0, atol=1e-14)
    np.testing.assert_allclose(found.T @ found, B.T @ B, rtol=1e-12, atol=1e-16)
    assert (np.diag(found) > 0).all()


def test_nothing_changes_where_nothing_is_to() -> None:
    assert combined((), ()) is None
    assert combined((bent,), (2,)) is bent  # in numba's cache, as what is combined is not
