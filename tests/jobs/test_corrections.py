"""Corrections for polarisation and the Lorentz factor."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from sfxproc.data import Correction, Crystals, Observations, Stills
from sfxproc.errors import ConfigError, DataError
from sfxproc.intake.corrections import corrected
from sfxproc.models.polarisation import directions, polarisation
from sfxproc.settings.sections import Corrections
from sfxproc.simulate.stills import StillsSettings, simulate_stills

UP = np.array([0.0, 1.0, 0.0])


def at(two_theta: float, azimuth: float) -> tuple[np.ndarray, np.ndarray]:
    """Beam along z and one reflection; the azimuth is counted from x."""
    s1 = [
        np.sin(two_theta) * np.cos(azimuth),
        np.sin(two_theta) * np.sin(azimuth),
        np.cos(two_theta),
    ]
    return np.array([[0.0, 0.0, 1.0]]), np.array([s1])


@pytest.mark.parametrize("two_theta", [0.1, 0.7, 1.3])
def test_horizontal_beam_dims_reflections_to_the_side(two_theta: float) -> None:
    """The electric vector is along x: nothing is lost upwards, cos² 2θ is left sideways."""
    up = polarisation(*at(two_theta, np.pi / 2), 1.0, UP)
    side = polarisation(*at(two_theta, 0.0), 1.0, UP)
    np.testing.assert_allclose(up, 1.0)
    np.testing.assert_allclose(side, np.cos(two_theta) ** 2)
    np.testing.assert_allclose(polarisation(*at(two_theta, 0.0), 0.0, UP), 1.0)


@pytest.mark.parametrize("azimuth", [0.0, 0.4, 2.0])
def test_half_is_unpolarised(azimuth: float) -> None:
    np.testing.assert_allclose(
        polarisation(*at(0.8, azimuth), 0.5, UP), 0.5 * (1.0 + np.cos(0.8) ** 2)
    )


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.99, 1.0])
def test_as_kabsch_writes_it(fraction: float) -> None:
    """(1 − 2f) (1 − (n·ŝ1)²) + f (1 + cos² 2θ), for any frame."""
    rng = np.random.default_rng(1)
    s0, s1, normal = rng.normal(size=(3, 50, 3))
    s0, s1 = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (s0, s1))
    for i in range(50):
        n = normal[i] - (normal[i] @ s0[i]) * s0[i]
        n /= np.linalg.norm(n)
        cosine = s0[i] @ s1[i]
        expected = (1 - 2 * fraction) * (1 - (n @ s1[i]) ** 2) + fraction * (1 + cosine**2)
        found = polarisation(s0[i : i + 1], s1[i : i + 1], fraction, 3.0 * normal[i])
        np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.fixture(scope="module")
def stills() -> Stills:
    """As a detector would have counted them: not corrected for anything."""
    made = simulate_stills(StillsSettings(n_crystals=5, d_min_A=2.0, seed=2)).stills
    return replace(made, corrected=frozenset())


def test_directions_meet_the_spots(stills: Stills) -> None:
    """s1 from A, indices and wavelength points to where the detector recorded the reflection."""
    table, panel = stills.observations, stills.detector
    assert panel is not None
    assert table.x_px is not None
    assert table.y_px is not None
    _, s1 = directions(stills.crystals, table)
    position = np.column_stack([table.x_px, table.y_px]) * panel.pixel_mm[0]
    spot = panel.origin_mm + position @ np.stack([panel.fast[0], panel.slow[0]])
    spot /= np.linalg.norm(spot, axis=1, keepdims=True)
    np.testing.assert_allclose(s1, spot, atol=1e-6)


def test_what_becomes_of_the_observations(stills: Stills) -> None:
    settings = Corrections(polarisation_fraction=1.0, lorentz="stills")
    found, table = corrected(stills, settings), stills.observations
    _, s1 = directions(stills.crystals, table)
    sine = np.linalg.norm(s1[:, :2], axis=1)  # the beam is along z
    factor = (1.0 - s1[:, 0] ** 2) / sine
    new = found.observations
    assert factor.min() < 0.7 * factor.max()
    np.testing.assert_allclose(new.intensity, table.intensity / factor, rtol=1e-6)
    np.testing.assert_allclose(new.variance, table.variance / factor**2, rtol=1e-6)
    assert (new.intensity.dtype, new.variance.dtype) == (np.float32, np.float32)
    np.testing.assert_array_equal(new.hkl, table.hkl)
    assert found.notes == (
        *stills.notes,
        "intensities were corrected for polarisation (fraction 1, normal 0 1 0) and the Lorentz "
        "factor of stills",
    )
    only = corrected(stills, Corrections(lorentz="stills")).observations
    np.testing.assert_allclose(only.intensity, table.intensity * sine, rtol=1e-6)


def test_off_by_default(stills: Stills) -> None:
    assert corrected(stills, Corrections()) is stills
    assert msgspec.convert({}, Corrections) == Corrections()


@pytest.mark.parametrize("missing", ["A", "wavelength_A"])
def test_a_crystal_without_geometry(missing: str, stills: Stills) -> None:
    column = np.array(getattr(stills.crystals, missing))
    column[2] = np.nan
    crystals: Crystals = replace(stills.crystals, **{missing: column})
    without = replace(stills, crystals=crystals)
    with pytest.raises(DataError, match=r"1 of 5 crystals, for example 'simulated//000002', have"):
        corrected(without, Corrections(polarisation_fraction=1.0))
    table = stills.observations
    others: Observations = table.take(np.asarray(table.crystal != 2))
    corrected(replace(without, observations=others), Corrections(polarisation_fraction=1.0))


@pytest.mark.parametrize("normal", [(0.0, 0.0, 2.0), (0.0, 0.0, 0.0)])
def test_a_normal_of_no_plane(normal: Any, stills: Stills) -> None:
    settings = Corrections(polarisation_fraction=1.0, polarisation_normal=normal)
    with pytest.raises(ConfigError, match=r"corrections\.polarisation_normal = .* \[0, 1, 0\]"):
        corrected(stills, settings)


def test_streams_and_lists_agree_on_what_is_horizontal(stills: Stills, tmp_path: Any) -> None:
    """Both frames have x horizontal, although their beams point in opposite directions."""
    from sfxproc.formats import crystfel, dials
    from sfxproc.formats.base import Request

    turned = np.diag([-1.0, 1.0, -1.0])  # half a turn about the vertical
    crystals = replace(
        stills.crystals, A=turned @ stills.crystals.A, beam=stills.crystals.beam @ turned
    )
    dials.write(tmp_path / "a.expt", replace(stills, crystals=crystals, detector=None))
    crystfel.FORMAT.write(tmp_path / "a.stream", stills)
    settings = Corrections(polarisation_fraction=0.99)
    expected = corrected(stills, settings).observations
    for fmt, name in ((dials.FORMAT, "a.expt"), (crystfel.FORMAT, "a.stream")):
        again = corrected(fmt.read(tmp_path / name, Request(name)), settings).observations
        np.testing.assert_allclose(again.intensity, expected.intensity, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("lorentz", ["none", "stills"])
def test_nothing_is_corrected_for_twice(lorentz: str, stills: Stills) -> None:
    """What a file says it is corrected for stays, and it is said."""
    settings = Corrections(polarisation_fraction=1.0, lorentz=lorentz)  # type: ignore[arg-type]
    once = corrected(stills, settings)
    assert Correction.POLARISATION in once.corrected
    again = corrected(once, settings)
    np.testing.assert_array_equal(again.observations.intensity, once.observations.intensity)
    np.testing.assert_array_equal(again.observations.variance, once.observations.variance)
    assert again.corrected == once.corrected
    assert "left as it is" in again.notes[-1]
