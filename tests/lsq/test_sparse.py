"""The sparse normal matrix, its factor, and the steps it gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import sfxproc.lsq.compared.sparse
from sfxproc.errors import DataError
from sfxproc.lsq import SOLVERS, Loss, Point
from sfxproc.lsq.compared.dense import dense, normal_matrix
from sfxproc.lsq.compared.sparse import SMALLEST_DAMPING, Pattern, Structure, sparse_step
from sfxproc.lsq.schur_dense import whole_layout
from tests.lsq.changes import CHANGES, plain
from tests.lsq.test_methods import stills
from tests.problems import LampModel, lamp_data, lamp_problem


def eliminated(A: np.ndarray) -> int:
    """Non-zeros below the diagonal of the Cholesky factor, by elimination column by column."""
    L = A != 0
    for k in range(len(L)):
        below = np.flatnonzero(L[k + 1 :, k]) + k + 1
        L[np.ix_(below, below)] = True
    return int(np.tril(L, -1).sum())


@pytest.mark.parametrize("change", CHANGES)
def test_non_zeros_are_those_of_the_elimination(
    change: Callable[[LampModel], LampModel],
) -> None:
    _, model, _ = lamp_problem(lamp_data(photographs=12, each=5))
    pattern = Pattern.of(change(model).layout)
    H = pattern.both(np.ones(len(pattern.row))).toarray()
    n_shared = pattern.layout.n_shared
    order = np.r_[n_shared : len(H), :n_shared]
    assert pattern.factor_nonzeros() == {
        "normal_matrix_nonzeros": np.count_nonzero(np.tril(H)),
        "factor_nonzeros": eliminated(H),
        "factor_nonzeros_local_first": eliminated(H[np.ix_(order, order)]),
    }


def test_non_zeros_of_the_matrix_and_its_factor_are_the_closed_forms() -> None:
    """Frames that all overlap: N_I + 3 N_G + 2 P, and 2 P + N_G (2 N_G − 1) below the diagonal."""
    problem = stills(45.0)
    layout = problem[1].layout
    result = SOLVERS["lm-sparse"](loss=Loss(), max_iterations=50, tolerance=1e-8).solve(*problem)
    frames, pairs = layout.n_local, layout.n_rows
    assert result.extra["normal_matrix_nonzeros"] == layout.n_shared + 3 * frames + 2 * pairs
    assert result.extra["factor_nonzeros"] == 2 * pairs + frames * (2 * frames - 1)
    assert result.extra["factor_nonzeros_local_first"] > result.extra["factor_nonzeros"]
    assert result.as_dict()["extra"] == result.extra


def with_repeated_rows(model: LampModel) -> LampModel:
    """A lamp twice on each photograph: two rows of residuals, one pair."""
    model.layout.shared[1::2] = model.layout.shared[0 : len(model.layout.shared) - 1 : 2]
    return model


@pytest.mark.parametrize("change", [plain, with_repeated_rows])
@pytest.mark.parametrize("storage", [np.float32, np.float64])
def test_the_matrix_is_the_dense_one(
    change: Callable[[LampModel], LampModel], storage: type
) -> None:
    engine, model, start = lamp_problem(lamp_data(), storage=storage)
    lin = engine.linearise(change(model), start, Loss())
    pattern = Pattern.of(lin.layout)
    H = normal_matrix(lin)
    order = np.roll(np.arange(len(H)), lin.layout.n_shared)
    expected = np.tril(H[np.ix_(order, order)])
    lower = pattern.lower(pattern.values(lin, 0.0))
    assert lower.has_canonical_format
    np.testing.assert_allclose(lower.toarray(), expected, rtol=1e-12)
    assert pattern.both(np.ones(len(pattern.row))).nnz == np.count_nonzero(H)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("damping", [0.0, 1e-3, 1.0, 1e4])
def test_a_sparse_step_equals_the_dense_step(
    change: Callable[[LampModel], LampModel], damping: float
) -> None:
    engine, model, start = lamp_problem(lamp_data())
    model = change(model)
    shared = np.concatenate([start.shared, np.ones(model.layout.n_shared - len(start.shared))])
    lin = engine.linearise(model, Point(start.local + 0.05, shared), Loss())
    structure = Structure.of(whole_layout(engine, lin.layout))
    step = sparse_step(structure, engine, lin, damping, 0.0)
    twin = dense(engine, lin, max(damping, SMALLEST_DAMPING), 0.0)
    size = np.abs(twin.delta.shared).max()
    np.testing.assert_allclose(step.delta.local, twin.delta.local, rtol=1e-7, atol=1e-7 * size)
    np.testing.assert_allclose(step.delta.shared, twin.delta.shared, rtol=1e-7, atol=1e-7 * size)
    assert step.predicted == pytest.approx(twin.predicted, rel=1e-7)


def test_a_factor_that_does_not_fit_is_refused(monkeypatch: Any) -> None:
    monkeypatch.setattr(sfxproc.lsq.compared.sparse, "MOST_BYTES", 100_000)
    with pytest.raises(DataError, match=r'would need 0\.\d GB .* "schur-cg"'):
        SOLVERS["lm-sparse"](loss=Loss(), max_iterations=5, tolerance=1e-8).solve(*stills(45.0))
