"""Ways to postrefine, on the same stills."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from sfxproc.kernels.postrefine import LN_SIZE, THETA_1
from sfxproc.lsq import Engine, LevenbergMarquardt, Loss, Point, Result
from sfxproc.models.error_model import MOST_REFITS
from sfxproc.models.postrefine import PostrefineModel, refined_A
from sfxproc.models.postrefine_passes import (
    SCHEMES,
    Refinement,
    crystal_by_crystal,
    jointly,
    unlikeliness,
)
from sfxproc.models.scale import ScaleModel
from tests.models.partial_stills import (
    Partials,
    ideal,
    orientation_error_mrad,
    partials,
    r_factor,
    set_up,
)

LOSS = Loss("cauchy", 4.0)


def nobody(result: Result) -> np.ndarray:
    return np.zeros(result.model.layout.n_local, dtype=bool)


@dataclass
class Kept:
    """What a way to postrefine was heard to do."""

    keys: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)


def way_of(
    engine: Engine,
    kept: Kept,
    judge: Callable[[Result], np.ndarray] = nobody,
    refits: int = MOST_REFITS,
    passes: int = 4,
    cycles: int = 6,
) -> Refinement:
    solver = LevenbergMarquardt(loss=LOSS, max_iterations=60, tolerance=1e-7)

    def solve(model: ScaleModel | PostrefineModel, point: Point, key: str) -> Result:
        kept.keys.append(key)
        return solver.solve(engine, model, point)

    return Refinement(engine, solve, LOSS, refits, passes, cycles, kept.told.append, judge)


@pytest.fixture(scope="module")
def data() -> Partials:
    return partials("lorentzian", wrong_size=1.3, n_crystals=60, d_min_A=3.6)


@pytest.fixture(scope="module")
def results(data: Partials) -> dict[str, Result]:
    found = {}
    for name, scheme in SCHEMES.items():
        engine, model, start = set_up(data)
        found[name] = scheme(way_of(engine, Kept()), model, start)
    return found


def r_of(data: Partials, result: Result) -> float:
    """R against the truth, of the reflections that were measured."""
    _, weight = ideal(data)
    weight = np.where(weight * data.intensity.mean() ** 2 > 1.0, weight, 0.0)
    return r_factor(data, result.point.shared, weight)


def test_no_scheme_is_better_than_the_joint_one(data: Partials, results: dict[str, Result]) -> None:
    r = {name: r_of(data, result) for name, result in results.items()}
    best, weight = ideal(data)
    weight = np.where(weight * data.intensity.mean() ** 2 > 1.0, weight, 0.0)
    assert r["joint"] <= 1.1 * r_factor(data, best, weight)
    assert r["cycles"] >= 0.995 * r["joint"]
    assert r["crystal-by-crystal"] >= 1.005 * r["joint"]
    off = {
        name: orientation_error_mrad(data, refined_A(data.geometry, result.point))
        for name, result in results.items()
    }
    assert off["joint"] < 0.2 * orientation_error_mrad(data, data.geometry.A)
    assert off["crystal-by-crystal"] > off["joint"]


def test_iterations_are_numbered_through(results: dict[str, Result]) -> None:
    for result in results.values():
        numbers = [i.number for i in result.iterations]
        assert numbers == list(range(1, len(numbers) + 1))
    assert len(results["crystal-by-crystal"].iterations) == 1
    assert 1 < len(results["cycles"].iterations) <= 6


def test_passes_end_when_the_error_model_rests(data: Partials) -> None:
    engine, model, start = set_up(data)
    kept = Kept()
    jointly(way_of(engine, kept), model, start)
    assert kept.keys == [f"pass-{n}" for n in range(1, len(kept.keys) + 1)]
    assert 2 <= len(kept.keys) <= 4
    fixed = Kept()  # an error model that is given rests from the beginning
    jointly(way_of(engine, fixed, refits=0), *set_up(data)[1:])
    assert fixed.keys == ["pass-1"]


def test_bad_crystals_are_left_out_at_once_and_for_good(data: Partials) -> None:
    """Judged after each pass; the last solve is without them even if passes are used up."""
    engine, model, start = set_up(data)
    bad = np.zeros(data.n, dtype=bool)
    bad[[3, 17]] = True
    asked: list[int] = []

    def judge(result: Result) -> np.ndarray:
        asked.append(result.model.layout.n_rows)
        return bad if len(asked) == 1 else np.zeros_like(bad)

    kept = Kept()
    found = jointly(way_of(engine, kept, judge, passes=1), model, start)
    assert kept.keys == ["pass-1", "last"]
    assert asked == [len(data.observations)]
    crystal = data.observations.crystal
    assert found.model.layout.n_rows == np.count_nonzero(~bad[crystal])
    assert [i.number for i in found.iterations] == list(range(1, len(found.iterations) + 1))


def test_crystals_by_themselves_against_intensities_that_are_known(data: Partials) -> None:
    """Against the truth each crystal finds its own; what the start has only noise does not."""
    engine, model, start = set_up(data)
    true = Point(start.local, data.intensity)
    known = crystal_by_crystal(way_of(engine, Kept()), model, true)
    guessed = crystal_by_crystal(way_of(engine, Kept()), model, start)
    off = [
        orientation_error_mrad(data, refined_A(data.geometry, r.point)) for r in (known, guessed)
    ]
    assert off[0] < 0.8 * off[1]
    assert r_of(data, known) < r_of(data, guessed)


def test_what_is_held_is_only_merged(data: Partials, results: dict[str, Result]) -> None:
    engine, model, start = set_up(data)
    joint = results["joint"]
    held = model.with_errors(joint.model.errors).held()
    solver = LevenbergMarquardt(loss=LOSS, max_iterations=60, tolerance=1e-10)
    found = solver.solve(engine, held, Point(joint.point.local, start.shared))
    np.testing.assert_array_equal(found.point.local, joint.point.local)
    weight = ideal(data)[1]
    seen = weight > 0
    off = (found.point.shared - joint.point.shared)[seen] * np.sqrt(weight[seen])
    assert np.abs(off).max() < 1e-2  # of σ


def test_unlikeliness_is_the_sum(data: Partials, results: dict[str, Result]) -> None:
    """Σ ln V + ρ(d) + priors, from the definition, to a constant."""
    result = results["joint"]
    model, point, local = result.model, result.point, result.point.local
    o, scale = data.observations, model.at(point)
    errors = model.errors
    rows = o.crystal
    s2 = data.reflections.s2[o.reflection]
    y = scale.partiality * np.exp(local[rows, 0] - 2.0 * local[rows, 1] * s2)
    y = np.maximum(y * point.shared[o.reflection], 0.0)
    V = errors.background * scale.background + errors.gain * y + (errors.scatter * y) ** 2
    objective = scale.engine.objective(model, point, LOSS)
    expected = float(np.sum(np.log(V))) + 2.0 * objective
    assert unlikeliness(model, point, LOSS) == pytest.approx(expected, rel=1e-6)


def test_the_right_model_is_the_likelier(data: Partials) -> None:
    found = {}
    for size in (1.0, 3.0):
        engine, model, start = set_up(data)
        free = model.layout.free.copy()
        free[:, LN_SIZE] = False
        layout = replace(model.layout, free=free)
        fixed = replace(model, scale=replace(model.scale, layout=layout))
        local = start.local.copy()
        local[:, LN_SIZE] += np.log(size / 1.3)
        result = jointly(way_of(engine, Kept(), passes=2), fixed, Point(local, start.shared))
        assert np.any(result.point.local[:, THETA_1] != 0.0)
        found[size] = unlikeliness(result.model, result.point, LOSS)
    assert found[1.0] < found[3.0] - 100.0
