"""What every partiality model must obey, and the values of each."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfxproc.partiality import (
    PARTIALITIES,
    Partiality,
    by_differences,
    derivatives,
    size_at,
    values,
    width_at,
)
from sfxproc.partiality.base import NEGLIGIBLE
from sfxproc.partiality.pseudo_voigt import pseudo_voigt

ADDING = Path(__file__).resolve().parents[2] / "docs" / "adding.md"
R = 0.004
HARD = {"sphere", "unity", "eta_deff"}  # with an edge at r = R
WIDTHS = [share * R for share in (0.0, 0.01, 0.3, 1.9, 2.1, 40.0)]
CASES = [
    pytest.param(model, w, id=f"{name}-{w:g}")
    for name, model in PARTIALITIES.items()
    for w in (WIDTHS if model.uses_bandwidth else WIDTHS[:1])
]


@pytest.fixture(params=sorted(PARTIALITIES))
def model(request: pytest.FixtureRequest) -> Partiality:
    return PARTIALITIES[request.param]


def slope(f: Any, x: np.ndarray, step: float) -> np.ndarray:
    """df/dx to fourth order in the step."""
    near, far = f(x + step) - f(x - step), f(x + 2 * step) - f(x - 2 * step)
    return np.asarray((8 * near - far) / (12 * step))


def test_names(model: Partiality) -> None:
    assert PARTIALITIES[model.name] is model
    assert (model.amplitude == "r0/R") == (model.name == "eta_deff")


@pytest.mark.parametrize(("model", "w"), CASES)
def test_bounds_and_symmetry(model: Partiality, w: float) -> None:
    r = np.linspace(0, 3, 121) * (R + 2 * w)
    p = values(model, r, R, w)
    assert ((p >= 0) & (p <= 1)).all()
    assert p[0] == 1
    assert (np.diff(p) <= 1e-12).all()
    np.testing.assert_array_equal(values(model, -r, R, w), p)
    here, there = derivatives(model, r, R, w), derivatives(model, -r, R, w)
    for one, other, sign in zip(here, there, (-1, 1, 1), strict=True):
        np.testing.assert_array_equal(other, sign * one)


@pytest.mark.parametrize(("model", "w"), CASES)
def test_derivatives_are_those_of_the_value(model: Partiality, w: float) -> None:
    scale = min(w, R) if w > 0 else R
    step = 1e-3 * scale
    r = np.random.default_rng(1).uniform(-1, 1, 200) * (1.2 * R + 6 * w)
    r = np.concatenate([r, [R + 30 * step, R - 30 * step, 30 * step - R, -30 * step - R]])
    edges = np.array([R, abs(R - 5 * w), R + 5 * w])  # xsphere's spectrum ends at 5 w
    r = r[(np.abs(np.abs(r)[:, None] - edges) > 20 * step).all(axis=1)]
    size, width = np.full(len(r), R), np.full(len(r), w)
    by_r, by_R, by_w = derivatives(model, r, R, w)
    expected = [
        slope(lambda x: values(model, x, R, w), r, step),
        slope(lambda x: values(model, r, x, w), size, step),
    ]
    np.testing.assert_allclose([by_r, by_R], expected, rtol=1e-6, atol=1e-9 / scale)
    if w == 0:
        np.testing.assert_array_equal(by_w, 0)
        return
    moved = slope(lambda x: values(model, r, R, x), width, step)
    np.testing.assert_allclose(by_w, moved, rtol=1e-6, atol=1e-9 / scale)
    assert np.abs(by_w).max() > 1


def test_derivatives_at_the_edge(model: Partiality) -> None:
    """One-sided there, from within just inside and from without from the edge on."""
    step = 1e-4 * R
    for at, side in ((R * (1 - 1e-12), -1), (R * (1 + 1e-12), 1)):
        p = values(model, at + side * step * np.arange(3), R)
        expected = -side * (3 * p[0] - 4 * p[1] + p[2]) / (2 * step)
        assert derivatives(model, at, R)[0] == pytest.approx(expected, rel=1e-6, abs=1e-6 / R)
    if model.name in HARD:
        assert derivatives(model, 1.0001 * R, R) == (0, 0, 0)


def test_finite_everywhere(model: Partiality) -> None:
    r = np.array([0.0, 1e-30, R, -R, np.nextafter(R, 1), 1e3 * R, -1.0])
    size = np.array([1e-12, 1e-6, R, 1.0])
    width = np.array([0.0, 1e-300, 1e-14, 1e-12, 1e-3, 0.5 * R, 1.0])
    grid = r[:, None, None], size[:, None], width
    assert np.isfinite(values(model, *grid)).all()
    assert np.isfinite(derivatives(model, *grid)).all()
    assert values(model, *grid).shape == (7, 4, 7)


def test_no_bandwidth_is_the_limit_of_little(model: Partiality) -> None:
    r = np.linspace(-2, 2, 81) * R
    little = values(model, r, R, 1e-7 * R)
    np.testing.assert_allclose(little, values(model, r, R), atol=1e-7)
    much = values(model, r, R, 0.5 * R)
    assert np.array_equal(much, values(model, r, R)) != model.uses_bandwidth
    np.testing.assert_array_equal(derivatives(model, r, R, 0.0)[2], 0)


def test_reach(model: Partiality) -> None:
    for w in np.array([0.0, 1e-3, 0.1, 0.5, 1.0, 3.0, 100.0]) * R:
        end = model.reach(R, w)
        beyond = end * np.linspace(1 + 1e-6, 4, 100)
        assert (values(model, beyond, R, w) < NEGLIGIBLE).all()
        assert values(model, 0.8 * end, R, w) > NEGLIGIBLE
    sizes = np.array([R, 2 * R])
    np.testing.assert_allclose(
        model.reach(sizes, 0.0), [model.reach(R, 0.0), model.reach(2 * R, 0)]
    )


def test_values() -> None:
    r = np.array([0.0, 0.5, -0.5, 1.2]) * R
    expected = {
        "unity": [1, 1, 1, 0],
        "sphere": [1, 0.75, 0.75, 0],
        "eta_deff": [1, 0.75, 0.75, 0],
        "lorentzian": 1 / (1 + 2 * (r / R) ** 2),
        "gaussian": 2.0 ** (-2 * (r / R) ** 2),
        "xsphere": [1, 0.75, 0.75, 0],
        "gaussian_gaussian": 2.0 ** (-2 * (r / R) ** 2),
    }
    for name, p in expected.items():
        np.testing.assert_allclose(values(PARTIALITIES[name], r, R), p, atol=1e-14, err_msg=name)
    assert set(expected) == set(PARTIALITIES) - {"pseudo_voigt"}


@pytest.mark.parametrize("name", sorted(set(PARTIALITIES) - HARD - {"xsphere"}))
def test_soft_models_have_their_half_maximum_at_one_place(name: str) -> None:
    assert values(PARTIALITIES[name], R / np.sqrt(2), R) == pytest.approx(0.5, rel=1e-12)


def test_sphere_and_unity_have_the_bits_of_their_formulae() -> None:
    rng = np.random.default_rng(2)
    r, size = rng.uniform(-1.3, 1.3, 5000) * R, R * rng.uniform(0.9, 1.1, 5000)
    ball = np.maximum(1.0 - (r / size) ** 2, 0.0)
    np.testing.assert_array_equal(values(PARTIALITIES["sphere"], r, size), ball)
    full = np.where(np.abs(r) <= size, 1.0, 0.0)
    np.testing.assert_array_equal(values(PARTIALITIES["unity"], r, size), full)


def test_pseudo_voigt_has_any_mixture() -> None:
    r = np.linspace(-3, 3, 50) * R
    for nu, name in ((0.0, "lorentzian"), (1.0, "gaussian")):
        mixed, pure = pseudo_voigt(nu), PARTIALITIES[name]
        np.testing.assert_allclose(values(mixed, r, R), values(pure, r, R), atol=1e-15)
        assert mixed.reach(R, 0.0) == pytest.approx(pure.reach(R, 0.0), rel=1e-9)
    half = pseudo_voigt(0.5)
    area = np.sqrt(np.pi * np.log(2))  # as prime mixes, for a full width of √2 R
    gauss, lorentz = 2.0 ** (-2 * (r / R) ** 2), 1 / (1 + 2 * (r / R) ** 2)
    np.testing.assert_allclose(values(half, r, R), (area * gauss + lorentz) / (area + 1))
    np.testing.assert_array_equal(values(half, r, R), values(PARTIALITIES["pseudo_voigt"], r, R))


@pytest.mark.parametrize("name", ["lorentzian", "xsphere", "gaussian_gaussian"])
def test_differences_stand_in_for_derivatives(name: str) -> None:
    from numba import njit

    profile: Any = PARTIALITIES[name].profile

    @njit
    def value(r, R, w):  # type: ignore[no-untyped-def]
        return profile(r, R, w)[0]

    same = Partiality(name, by_differences(value), PARTIALITIES[name].reach, True)
    r = np.linspace(-2.03, 2.03, 41) * R
    for w in (0.0, 0.4 * R):
        if w == 0 and name == "xsphere":
            r = r[np.abs(np.abs(r) - R) > 1e-3 * R]
        np.testing.assert_array_equal(values(same, r, R, w), values(PARTIALITIES[name], r, R, w))
        for found, exact in zip(
            derivatives(same, r, R, w), derivatives(PARTIALITIES[name], r, R, w), strict=True
        ):
            np.testing.assert_allclose(found, exact, rtol=1e-6, atol=1e-8 / R)
    assert np.isfinite(derivatives(same, [0.0, 1.0], 1e-20)).all()


def test_size_and_width_are_the_laws_of_the_geometry() -> None:
    assert size_at(0.003, 0.002, 0.5) == 0.004
    k, bandwidth = 1 / 1.3, 2e-3
    rng = np.random.default_rng(3)
    q = rng.normal(size=(20, 3)) * 0.2
    step = 1e-5 * k

    def r_h(wavenumber: float) -> np.ndarray:
        s1 = q + np.array([0.0, 0.0, wavenumber])
        return np.asarray(np.linalg.norm(s1, axis=1) - wavenumber)

    expected = bandwidth * k * np.abs(r_h(k + step) - r_h(k - step)) / (2 * step)
    q2 = (q**2).sum(axis=1)
    found = width_at(bandwidth, k, q2, q[:, 2])
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12)
    assert width_at(0.0, k, q2[0], q[0, 2]) == 0


def test_the_example_of_the_documentation() -> None:
    section = ADDING.read_text(encoding="utf-8").split("## A partiality model")[1].split("\n## ")[0]
    code = textwrap.dedent("\n".join(re.findall(r"^(    .*|)$", section, re.M)))
    names: dict[str, Any] = {}
    exec(compile(code, "adding.md", "exec"), names)
    cone = names["PARTIALITY"]
    assert cone.name == "cone"
    np.testing.assert_allclose(values(cone, [0.0, 0.5 * R, -2 * R], R), [1, 0.5, 0])
    by_r, by_R, _ = derivatives(cone, 0.5 * R, R)
    np.testing.assert_allclose([by_r * R, by_R * R], [-1, 0.5], rtol=1e-8)


def test_the_cache_of_compiled_code_is_used(tmp_path: Path) -> None:
    """A second process finds all that the first one compiled and adds nothing."""
    code = (
        "from sfxproc.partiality import PARTIALITIES, values\n"
        "for name in ('sphere', 'pseudo_voigt'): values(PARTIALITIES[name], 0.0, 1.0)"
    )
    told = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    kept = []
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code], env=told, check=True, timeout=120)
        kept.append({(p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*.nb?")})
    assert len(kept[0]) > 4
    assert kept[1] == kept[0]
