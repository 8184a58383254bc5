"""Simulated spots: on their rings, as many as asked for, the same for the same seed."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from sfxproc.errors import ConfigError
from sfxproc.simulate.spot_powder import SpotPowderSettings, simulate_spots
from sfxproc.spots import q_of

EXACT = SpotPowderSettings(
    n_stills=60,
    lattice="oP",
    bandwidth=0.0,
    profile_radius=2e-4,
    position_error_px=0.0,
    distance_error_percent=0.0,
    centre_error_px=(0.0, 0.0),
    spurious_per_still=0.0,
)


def changed(**settings: object) -> SpotPowderSettings:
    return msgspec.structs.replace(EXACT, **settings)


def test_exact_spots_lie_on_lines() -> None:
    found, truth = simulate_spots(EXACT)
    q2 = q_of(found.spots) ** 2
    off = np.abs(q2 - truth.line_q2[truth.line])
    # q′² = (q² − r²)/(1 + r/k) with |r| up to 3 R
    assert off.max() <= 1.01 * 3.0 * EXACT.profile_radius * EXACT.wavelength_A * q2.max()
    assert (truth.line >= 0).all()
    assert np.all(np.diff(found.spots.shot) >= 0)
    assert np.all(found.spots.intensity > 0)


def test_bandwidth_widens_rings_in_proportion_to_q() -> None:
    """Where only the spectrum matters Δq/q is that of the wavelength, cut at 3 σ."""
    settings = changed(lattice="cP", bandwidth=2e-3, profile_radius=1e-6, n_stills=400)
    found, truth = simulate_spots(settings)
    q, lines = q_of(found.spots), np.sqrt(truth.line_q2)
    gaps = np.diff(lines, prepend=0.0, append=np.inf)
    alone = (gaps[1:] > 8e-3) & (gaps[:-1] > 8e-3)
    nearest = np.abs(q[:, None] - lines).argmin(axis=1)
    relative = (q / lines[nearest] - 1.0)[alone[nearest]]
    assert len(relative) > 30
    assert 1.0 * 2e-3 < relative.std() < 2.0 * 2e-3
    assert np.abs(relative).max() < 3.1 * 2e-3


def test_recorded_geometry_is_wrong_as_asked() -> None:
    right, wrong = (
        simulate_spots(changed(distance_error_percent=d, centre_error_px=c))[0].spots
        for d, c in ((0.0, (0.0, 0.0)), (1.0, (2.0, -3.0)))
    )
    shift = wrong.position_mm - right.position_mm
    np.testing.assert_allclose(shift, np.tile([0.15, -0.225, 1.0], (len(shift), 1)), atol=1e-9)


def test_numbers_of_spots() -> None:
    settings = SpotPowderSettings(n_stills=150, lattice="aP", seed=2, spots_per_still=12)
    found, truth = simulate_spots(settings)
    n_true = np.count_nonzero(truth.line >= 0) / 150
    n_spurious = np.count_nonzero(truth.line < 0) / 150
    assert 9 < n_true < 15
    assert 2.4 < n_spurious < 3.6
    assert found.n_shots == 150


def test_a_still_depends_on_its_number_alone() -> None:
    settings = SpotPowderSettings(n_stills=30)
    few, many = (
        simulate_spots(msgspec.structs.replace(settings, n_stills=n))[0].spots for n in (10, 30)
    )
    first = many.take(many.shot < 10)
    for name, values in few.columns().items():
        np.testing.assert_array_equal(first.columns()[name], values, err_msg=name)


def test_no_such_lattice() -> None:
    with pytest.raises(ConfigError, match="no Bravais lattice 'xx'"):
        simulate_spots(SpotPowderSettings(lattice="xx"))
