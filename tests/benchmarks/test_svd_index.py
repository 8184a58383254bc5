"""The baseline finds cells, does the same work however it is cut, and its kernel has a twin."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import svd_index
from benchmarks.svd_index import LARGEST_EXPONENT, trials
from sfxproc.kernels import powder as kernels
from sfxproc.kernels.splitmix64 import GOLDEN, mixed
from sfxproc.powder.cells import primitive_cells, same_lattice, volumes, x_from_cells
from sfxproc.powder.indexing import lines_of
from sfxproc.powder.lattices import LATTICES
from sfxproc.powder.references import references
from sfxproc.powder.search import IndexSettings, Task
from sfxproc.simulate.powder import PowderSettings, simulate_pattern

CELLS = {
    "oP": [7.2, 9.1, 12.4, 90.0, 90.0, 90.0],
    "tI": [8.3, 8.3, 14.9, 90.0, 90.0, 90.0],
}


def exact_lines(symbol: str, n: int = 20) -> tuple[np.ndarray, np.ndarray]:
    reference = references(symbol)
    q2 = np.unique((reference.forms @ x_from_cells(LATTICES[symbol], CELLS[symbol])).round(9))
    return q2[:n], 8.7e-5 + 9.2e-4 * q2[:n]


def twin(symbol: str, start: np.ndarray, rounds: int, candidate: int) -> tuple[np.ndarray, float]:
    """One trial in NumPy."""
    reference = references(symbol)
    q2, sigma = exact_lines(symbol)
    n, x, best, most = len(q2), start.copy(), start, -1.0
    for iteration in range(rounds):
        calculated = reference.forms @ x
        delta = q2[:, None] - calculated
        near = np.abs(delta).argmin(axis=1)
        delta = delta[np.arange(n), near]
        count = max(int((calculated <= q2[-1] + sigma[-1]).sum()), n)
        t = 3.0 * count / q2[-1] * np.sqrt(q2 / q2[-1]) * (np.abs(delta) + sigma)
        information = float(np.log1p(1.0 / t).sum())
        if information > most:
            most, best = information, x.copy()
        state = np.uint64(kernels.stream(5, candidate, iteration)) + GOLDEN
        m = LARGEST_EXPONENT * kernels.unit(mixed(state))
        weight = (np.abs(delta) / q2 * (q2[-1] / q2) ** (0.5 * (m - 1.0))) ** 2
        rows = reference.forms[near]
        A = rows.T @ (weight[:, None] * rows)
        A[np.diag_indices_from(A)] *= 1.0 + kernels.RIDGE
        x = x + np.linalg.solve(A, rows.T @ (weight * delta))
    return best, most


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("symbol", CELLS)
def test_kernel_and_its_twin_agree(symbol: str) -> None:
    lattice, reference = LATTICES[symbol], references(symbol)
    q2, sigma = exact_lines(symbol)
    true = x_from_cells(lattice, CELLS[symbol])
    starts = true * (1.0 + 0.02 * np.random.default_rng(3).standard_normal((20, len(true))))
    out, information = np.empty_like(starts), np.empty(20)
    trials(
        kernels.reference_lines(reference.forms, lattice.basis),
        kernels.observed_lines(q2, sigma),
        4,
        starts,
        5,
        100,
        out,
        information,
    )
    for number, start in enumerate(starts):
        x, most = twin(symbol, start, 4, 100 + number)
        np.testing.assert_allclose(information[number], most, rtol=1e-4)
        np.testing.assert_allclose(out[number], x, rtol=1e-4)


@pytest.mark.parametrize("symbol", CELLS)
def test_patterns_are_indexed(symbol: str) -> None:
    pattern = simulate_pattern(PowderSettings(seed=4), symbol, 2)
    settings = IndexSettings(lattices=(symbol,), effort=0.4)
    lines = lines_of(pattern.q2, None)
    found = svd_index.svd_index(lines, settings)
    true = primitive_cells(LATTICES[symbol], pattern.structure.cell)
    assert same_lattice(found[0].primitive, true)
    again = svd_index.svd_index(lines, settings)
    assert [c.x.tolist() for c in again] == [c.x.tolist() for c in found]


def test_volumes_grow_from_task_to_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trials of all tasks together fill the range of volumes once, upwards."""
    seen: list[np.ndarray] = []

    def recorded(_reference: object, _lines: object, *rest: object) -> None:
        _, starts, _, first, x, information = rest
        assert first == len(seen) * len(starts)
        seen.append(np.array(starts))
        x[:], information[:] = starts, 0.0

    monkeypatch.setattr(svd_index, "trials", recorded)
    q2, _ = exact_lines("oP")
    for batch in range(3):
        svd_index.search(lines_of(q2, None), Task("oP", batch), IndexSettings(), 3)
    volume = volumes(LATTICES["oP"], np.concatenate(seen))
    smoothed = np.convolve(volume, np.ones(50) / 50, "valid")[::50]
    assert (np.diff(smoothed) > 0).all()
    assert volume[-1] / volume[0] == pytest.approx(4.0 / 0.9, rel=0.1)
