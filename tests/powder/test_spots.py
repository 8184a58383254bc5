"""Lines of the powder pattern of spots: where they are, how well known, and what is none."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from sfxproc.data import Floats
from sfxproc.errors import DataError
from sfxproc.formats.spots import read_spots
from sfxproc.powder.rings.centre import beam_centre
from sfxproc.powder.rings.peaks import RingWidth, find_rings, first_width, refined_width
from sfxproc.powder.rings.stills import SpotPeaks, SpotPeakSettings, SpotPowder, powder_of
from sfxproc.simulate.spot_powder import SpotPowderSettings, SpotPowderTruth, simulate_spots
from sfxproc.spots import Spots, q_of
from sfxproc.symmetry import possible, space_group

SETTINGS = SpotPowderSettings(n_stills=500, lattice="oP", seed=1)
DISTANCE_MM, WAVELENGTH_A, PIXEL_MM = 100.0, 1.3, 0.075


@pytest.fixture(scope="module")
def simulated() -> tuple[Spots, SpotPowderTruth, SpotPowder]:
    found, truth = simulate_spots(SETTINGS)
    return found.spots, truth, powder_of(found.spots, SpotPeakSettings())


def spots_at(q: Floats, rng: np.random.Generator, centre_mm: Floats | None = None) -> Spots:
    """Spots at q (n,) in random directions, as if the beam hit the detector at centre_mm."""
    two_theta = 2.0 * np.arcsin(0.5 * WAVELENGTH_A * q)
    radius, phi = DISTANCE_MM * np.tan(two_theta), rng.uniform(0, 2 * np.pi, len(q))
    position = np.column_stack([radius * np.cos(phi), radius * np.sin(phi), 0.0 * q + DISTANCE_MM])
    if centre_mm is not None:
        position[:, :2] += centre_mm
    n = len(q)
    return Spots(
        np.arange(n, dtype=np.int32), position, np.full(n, WAVELENGTH_A), np.ones(n, np.float32)
    )


def recorded_q2(line_q2: Floats, settings: SpotPowderSettings) -> Floats:
    """Where lines are seen if the distance is recorded wrongly."""
    two_theta = 2.0 * np.arcsin(0.5 * settings.wavelength_A * np.sqrt(line_q2))
    seen = np.arctan(np.tan(two_theta) / (1.0 + 0.01 * settings.distance_error_percent))
    return (2.0 * np.sin(0.5 * seen) / settings.wavelength_A) ** 2


def test_q_of_spots() -> None:
    rng = np.random.default_rng(1)
    q = rng.uniform(0.01, 0.7, 50)
    centre = np.array([0.7, -0.3])
    np.testing.assert_allclose(q_of(spots_at(q, rng, centre), centre), q, rtol=1e-12)


def test_the_coordinate_has_unit_width() -> None:
    width, q = RingWidth(3e-4, 2e-3), np.linspace(0.05, 0.6, 9)
    np.testing.assert_allclose(width.q(width.u(q)), q, rtol=1e-12)
    slope = (width.u(q + 1e-7) - width.u(q - 1e-7)) / 2e-7
    np.testing.assert_allclose(slope * width.sigma(q), 1.0, rtol=1e-5)
    flat = RingWidth(3e-4, 0.0)
    np.testing.assert_allclose(flat.q(flat.u(q)), q, rtol=1e-12)


def test_places_have_the_errors_that_they_are_said_to_have() -> None:
    """Rings of 10 to 300 spots on a background, two of them overlapping, many times."""
    place, number = np.array([0.1, 0.15, 0.1514, 0.2]), np.array([60, 100, 300, 40])
    width, pulls = RingWidth(4e-4, 0.0), []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        q = np.concatenate([rng.normal(p, width.a, n) for p, n in zip(place, number, strict=True)])
        q = np.concatenate([q, rng.uniform(0.05, 0.25, 500)])
        rings = find_rings(q, width, 0.05, 0.25, 5.0, 6.0)
        assert len(rings.u) == len(place)
        sigma = np.sqrt(np.diag(rings.covariance)[: len(place)])
        pulls.append((rings.u - width.u(place)) / sigma)
    spread = np.sqrt(np.mean(np.square(pulls), axis=0))
    assert np.all((spread > 0.7) & (spread < 1.4)), spread
    assert np.all(np.abs(np.mean(pulls, axis=0)) < 0.55)


def test_the_width_is_found_from_the_spots() -> None:
    rng, true = np.random.default_rng(3), RingWidth(3e-4, 2e-3)
    place = np.linspace(0.1, 0.4, 25)
    q = np.concatenate([rng.normal(p, true.sigma(p), 300) for p in place])
    width = first_width(q, 0.05, 0.45)
    np.testing.assert_allclose(width.sigma(place), true.sigma(place), rtol=0.3)
    for _ in range(3):
        width = refined_width(find_rings(q, width, 0.05, 0.45, 5.0, 6.0), width)
    np.testing.assert_allclose(width.sigma(place), true.sigma(place), rtol=0.1)


@pytest.mark.parametrize("true_mm", [(0.3, -0.2), (-0.05, 0.4)])
def test_the_centre_is_found(true_mm: tuple[float, float]) -> None:
    rng = np.random.default_rng(5)
    q = np.concatenate([rng.normal(p, 3e-4, 150) for p in np.linspace(0.08, 0.3, 12)])
    spots = spots_at(q, rng, np.array(true_mm))
    found = beam_centre(spots, 0.35, 0.6)
    np.testing.assert_allclose(found, true_mm, atol=0.3 * PIXEL_MM)


def test_no_rings_leave_the_centre_alone() -> None:
    rng = np.random.default_rng(6)
    spots = spots_at(np.sqrt(rng.uniform(0.001, 0.1, 3000)), rng)
    np.testing.assert_array_equal(beam_centre(spots, 0.35, 0.6), [0.0, 0.0])


def test_lines_of_simulated_stills(
    simulated: tuple[Spots, SpotPowderTruth, SpotPowder],
) -> None:
    _, truth, powder = simulated
    centre_mm = PIXEL_MM * np.array(SETTINGS.centre_error_px)
    np.testing.assert_allclose(powder.centre_mm, centre_mm, atol=0.3 * PIXEL_MM)
    true = recorded_q2(truth.line_q2, SETTINGS)
    peaks = powder.peaks.take(slice(0, 20))
    nearest = true[np.abs(peaks.q2[:, None] - true).argmin(axis=1)]
    pull = (peaks.q2 - nearest) / peaks.sigma
    assert len(powder.peaks) == 60
    assert np.all(np.abs(pull) < 3.5), pull
    assert np.median(np.abs(pull)) < 1.0
    assert np.all(np.diff(peaks.q2) > 0)
    alone = peaks.n_rings == 1
    assert np.count_nonzero(alone) >= 17
    width = 2.0 * np.sqrt(peaks.q2) * powder.width.sigma(np.sqrt(peaks.q2))
    assert np.median(peaks.sigma / width) < 0.25
    median = np.abs(peaks.median_q2 - peaks.q2) / peaks.sigma
    assert np.median(median) < 1.0


def test_the_model_counts_all_spots(
    simulated: tuple[Spots, SpotPowderTruth, SpotPowder],
) -> None:
    spots, _, powder = simulated
    q = q_of(spots, powder.centre_mm)
    assert len(powder.edges) == len(powder.counts) + 1
    inside = (q >= powder.edges[0]) & (q < powder.edges[-1])
    np.testing.assert_allclose(powder.counts.sum(), inside.sum(), rtol=1e-3)
    np.testing.assert_allclose(powder.model.sum(), powder.counts.sum(), rtol=0.02)
    assert powder.background.sum() < 0.6 * powder.model.sum()


def peaks_of(spots: Spots, settings: SpotPeakSettings) -> SpotPeaks:
    return powder_of(spots, settings).peaks


def test_lines_too_near_become_one_with_a_larger_error() -> None:
    rng = np.random.default_rng(8)
    place = [*np.linspace(0.1, 0.3, 9), 0.3009]
    q = np.concatenate([rng.normal(p, 3e-4, 400) for p in place])
    near = SpotPeakSettings(q_max=0.32, ring_sigma=3e-4, centre_reach_mm=0.0)
    far = msgspec.structs.replace(near, min_separation=4.0)
    apart, merged = (peaks_of(spots_at(q, rng), settings) for settings in (near, far))
    assert (len(apart), len(merged)) == (10, 9)
    assert merged.n_rings[-1] >= 2
    np.testing.assert_allclose(np.sqrt(merged.q2[-1]), 0.30045, atol=5e-5)
    assert merged.sigma[-1] > 2.0 * 0.3 * 4e-4
    np.testing.assert_allclose(merged.n_spots[-1], 800, rtol=0.05)


def test_two_lines_in_one_ring_are_within_its_error() -> None:
    """Closer than can be told apart: the ring is wider, and sigma reaches either line."""
    rng, sigma, apart = np.random.default_rng(12), 4e-4, 6e-4
    place = np.append(np.linspace(0.1, 0.3, 9), 0.35)
    q = np.concatenate([rng.normal(p, sigma, 500) for p in place])
    q = np.append(q, rng.normal(0.35 + apart, sigma, 500))
    settings = SpotPeakSettings(q_max=0.37, ring_sigma=sigma, centre_reach_mm=0.0)
    peaks = peaks_of(spots_at(q, rng), settings)
    assert len(peaks) == 10
    error = peaks.sigma / (2.0 * np.sqrt(peaks.q2))
    assert np.all(error[:9] < 0.15 * sigma)
    assert 0.4 * apart < error[9] < 1.2 * apart


def test_tails_of_rings_are_no_lines() -> None:
    rng = np.random.default_rng(15)
    q = np.concatenate([p + 3e-4 * rng.standard_t(5, 1000) for p in np.linspace(0.1, 0.34, 13)])
    peaks = peaks_of(spots_at(q, rng), SpotPeakSettings(centre_reach_mm=0.0, q_max=0.36))
    assert len(peaks) == 13


def test_lines_near_others_are_less_certain() -> None:
    rng, sigma = np.random.default_rng(13), 3e-4
    place = np.append(np.linspace(0.1, 0.3, 9), [0.35, 0.35 + 3.5 * sigma])
    q = np.concatenate([rng.normal(p, sigma, 800) for p in place])
    settings = SpotPeakSettings(q_max=0.37, ring_sigma=sigma, centre_reach_mm=0.0)
    peaks = peaks_of(spots_at(q, rng), settings)
    assert len(peaks) == 11
    error = peaks.sigma / (2.0 * np.sqrt(peaks.q2))
    assert np.all(error[9:] > 2.0 * error[:9].max())


def test_excitation_errors_draw_all_rings_inwards() -> None:
    """q′² = (q² − r²)/(1 + r/k): what is added again is that within its error."""
    rng, k, r_rms = np.random.default_rng(14), 1.0 / WAVELENGTH_A, 2.5e-3
    place = np.repeat(np.linspace(0.05, 0.35, 13), 800)
    r = r_rms * rng.normal(size=len(place))
    q = np.sqrt((place**2 - r**2) / (1.0 + r / k)) + 2e-4 * rng.normal(size=len(place))
    peaks = peaks_of(spots_at(q, rng), SpotPeakSettings(centre_reach_mm=0.0, q_max=0.36))
    true = np.unique(place) ** 2
    assert len(peaks) == len(true)
    assert np.all(np.abs(peaks.q2 - true) < 2.0 * peaks.sigma)
    assert abs(np.mean((peaks.q2 - true)[:4])) < 0.6 * r_rms**2


@pytest.mark.parametrize("seed", [9, 12])
def test_spots_anywhere_show_no_lines(seed: int) -> None:
    """Nor where their density ends, at the largest q."""
    rng = np.random.default_rng(seed)
    spots = spots_at(np.sqrt(rng.uniform(0.001, 0.2, 20000)), rng)
    with pytest.raises(DataError, match=r"20,000 spots show [01] lines .* takes 8 at least"):
        peaks_of(spots, SpotPeakSettings())


@pytest.mark.parametrize(
    ("n", "settings", "part"),
    [
        (50, SpotPeakSettings(), "There are 50 spots"),
        (500, SpotPeakSettings(q_min=0.6), "No spots lie beyond peaks.q_min"),
    ],
)
def test_what_cannot_be_done(n: int, settings: SpotPeakSettings, part: str) -> None:
    rng = np.random.default_rng(10)
    with pytest.raises(DataError, match=part):
        peaks_of(spots_at(rng.uniform(0.1, 0.5, n), rng), settings)


def test_lysozyme(shared_data: object) -> None:
    """The first lines of a protein, from 300 stills: not those that it cannot have."""
    found = read_spots(shared_data / "stills" / "LD91_lysozyme_300xtal.refl")  # type: ignore[operator]
    settings = SpotPeakSettings(ring_sigma=2e-4, q_max=0.1)
    peaks = peaks_of(found.spots, settings).take(slice(0, 8))
    group = space_group("P 43 21 2")
    true = 4.0 * possible(group, (79.03, 79.03, 38.16, 90, 90, 90), 8.0, None, False).s2
    off = np.abs(np.sqrt(peaks.q2)[:, None] - np.sqrt(true)).min(axis=1)
    assert np.all(off < 2.5e-4), off
