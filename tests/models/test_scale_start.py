"""Setting up the scaling of stills: variances, gain, overlaps, start values."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sfxproc.data import Reason
from sfxproc.lsq import LevenbergMarquardt, Loss
from sfxproc.models.scale import LN_G, B
from sfxproc.parallel.chunks import Chunks
from tests.models.stills import StillData, scaling_of, still_data


@pytest.mark.parametrize("gain", [0.5, 1.0, 2.0, 20.0])
def test_gain_is_recovered(gain: float) -> None:
    """From strong observations, within 1 %."""
    _, problem = scaling_of(still_data(100, 500, 60, gain=gain))
    assert problem.model.errors.gain == pytest.approx(gain, rel=0.01)


def test_gain_that_is_given_is_used() -> None:
    _, problem = scaling_of(still_data(30, 60, 25), gain=3.0)
    assert problem.model.errors.gain == 3.0


def test_gain_is_one_where_the_data_do_not_tell() -> None:
    """No observation of the weak ones is strong; of the others the slope is negative."""
    data = still_data(30, 60, 25)
    o = data.observations
    weak = replace(o, intensity=o.intensity * np.float32(0.01))
    falling = replace(o, variance=(100.0 / (1.0 + np.maximum(o.intensity, 0))).astype(np.float32))
    for changed in (weak, falling):
        _, problem = scaling_of(replace(data, observations=changed))
        assert problem.model.errors.gain == 1.0


def test_background_is_what_is_left_of_the_variance() -> None:
    data = still_data(50, 100, 40, background=30.0, ring=10.0)
    _, problem = scaling_of(data, gain=1.0)
    o, b = data.observations, problem.model.background
    assert b.dtype == np.float32
    # σ² − I = b̂ (1 + 1/ring), wherever there were counts
    assert np.median(b) == pytest.approx(33.0, rel=0.03)
    assert np.all(b > 0)
    assert np.all(b >= 0.001 * o.variance)


def test_start_values_are_near_the_truth() -> None:
    """ln G takes up what B makes of the mean intensity."""
    data = still_data(100, 400, 150, scatter=0.05)
    _, problem = scaling_of(data)
    local = problem.start.local
    assert not local[:, B].any()
    assert local[:, LN_G].mean() == pytest.approx(0.0, abs=1e-12)
    middle = data.ln_G - 2.0 * data.B_A2 * data.reflections.s2.mean()
    assert np.corrcoef(local[:, LN_G], middle)[0, 1] > 0.95
    assert np.corrcoef(problem.start.shared, data.I)[0, 1] > 0.98


def test_partiality_is_used_for_the_start() -> None:
    data = still_data(100, 400, 150, partial=True)
    _, problem = scaling_of(data)
    assert np.corrcoef(problem.start.shared, data.I)[0, 1] > 0.97
    assert np.median(problem.start.shared / data.I) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("partial", [False, True])
def test_start_values_do_not_depend_on_the_chunks(partial: bool) -> None:
    data = still_data(40, 100, 30, partial=partial)
    starts = []
    for bounds in (range(0, 41, 5), [0, 0, 1, 3, 3, 20, 21, 39, 40]):
        chunks = Chunks(np.array(list(bounds)), 0, 8)
        _, problem = scaling_of(data, chunks=chunks)
        starts.append(problem)
    for name in ("local", "shared"):
        np.testing.assert_allclose(
            getattr(starts[0].start, name), getattr(starts[1].start, name), rtol=1e-10, atol=1e-12
        )
    np.testing.assert_array_equal(starts[0].n_overlaps, starts[1].n_overlaps)
    assert starts[0].model.errors.gain == pytest.approx(starts[1].model.errors.gain, rel=1e-12)


def with_outsiders(data: StillData) -> StillData:
    """Crystal 0 shows only reflections of its own but two; crystal 1 has no signal; reflection
    numbers of the others stay."""
    o = data.observations
    assert o.reflection is not None
    n = len(data.I)
    rows = np.flatnonzero(o.crystal == 0)
    reflection, intensity = o.reflection.copy(), o.intensity.copy()
    reflection[rows[2:]] = n + np.arange(len(rows) - 2)
    intensity[o.crystal == 1] *= -1.0
    more = data.reflections.take(np.arange(n + len(rows) - 2) % n)
    return replace(
        data,
        observations=replace(o, reflection=reflection, intensity=intensity),
        reflections=more,
        I=np.concatenate([data.I, np.zeros(len(rows) - 2)]),
    )


def test_crystals_that_cannot_be_scaled_keep_their_start_values() -> None:
    data = with_outsiders(still_data(30, 60, 25))
    engine, problem = scaling_of(data, min_overlaps=3)
    expected = np.full(30, Reason.NONE)
    expected[0], expected[1] = Reason.TOO_FEW_OVERLAPS, Reason.NO_SIGNAL
    np.testing.assert_array_equal(problem.reasons, expected)
    assert problem.n_overlaps[0] == 2
    assert problem.n_overlaps[2:].min() > 10
    assert not problem.model.layout.free[:2].any()
    assert problem.model.layout.free[2:].all()
    assert np.isfinite(problem.start.local).all()
    result = LevenbergMarquardt().solve(engine, problem.model, problem.start)
    assert result.converged
    np.testing.assert_array_equal(result.point.local[:2], problem.start.local[:2])
    assert np.all(result.point.local[2:] != problem.start.local[2:])


def test_min_overlaps_is_the_least_that_is_enough() -> None:
    data = with_outsiders(still_data(30, 60, 25))
    _, problem = scaling_of(data, min_overlaps=2)
    assert problem.reasons[0] == Reason.NONE


def test_without_b_factor_b_stays_zero() -> None:
    engine, problem = scaling_of(still_data(30, 60, 25), b_factor=False)
    result = LevenbergMarquardt().solve(engine, problem.model, problem.start)
    assert not result.point.local[:, B].any()
    assert problem.model.dof == 30 * 25 - (30 + 60 - 1)
    assert result.dof == problem.model.dof


def test_degrees_of_freedom_of_model_and_solver_agree() -> None:
    engine, problem = scaling_of(still_data(30, 60, 25))
    result = LevenbergMarquardt().solve(engine, problem.model, problem.start)
    assert result.dof == problem.model.dof == 30 * 25 - (2 * 30 + 60 - 2)


def test_a_prior_on_b_is_one_over_its_variance() -> None:
    data = with_outsiders(still_data(30, 60, 25))
    _, problem = scaling_of(data, b_prior_A2=4.0)
    weight = problem.model.layout.prior_weight
    np.testing.assert_allclose(weight[2:], np.tile([0.0, 1 / 16], (28, 1)))
    assert not weight[:2].any()


def test_no_crystal_at_all() -> None:
    """A rank, or a job, may have none."""
    data = still_data(3, 10, 5)
    o = data.observations.take(slice(0, 0))
    empty = replace(data, observations=o, ln_G=data.ln_G[:0], B_A2=data.B_A2[:0])
    _, problem = scaling_of(empty)
    assert len(problem.reasons) == 0
    assert not problem.start.shared.any()


def test_forty_bytes_an_observation_are_enough() -> None:
    """The table that was read and all that the solver keeps of the length of the data."""
    data = still_data(200, 500, 60)
    engine, problem = scaling_of(data)
    model, observations = problem.model, data.observations
    assert np.shares_memory(model.observed, observations.intensity)
    assert observations.reflection is not None
    assert np.shares_memory(model.layout.shared, observations.reflection)
    lin = engine.linearise(model, problem.start, Loss())
    total = observations.nbytes + model.background.nbytes + model.partiality.nbytes + lin.e.nbytes
    assert total <= 40 * len(observations)
