"""The search for powder cells against plain NumPy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from sfxproc.kernels import powder

# coefficients of h², k², l², hk, hl, kl in q², for each parameter
LATTICES = {
    1: [[1, 1, 1, 0, 0, 0]],
    2: [[1, 1, 0, 1, 0, 0], [0, 0, 1, 0, 0, 0]],
    3: [[1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0]],
    4: [[1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 1, 0]],
    6: np.eye(6, dtype=int).tolist(),
}
CELL = {
    1: [0.0041],
    2: [0.0041, 0.0027],
    3: [0.0041, 0.0027, 0.0063],
    4: [0.0041, 0.0027, 0.0063, 0.0013],
    6: [0.0041, 0.0027, 0.0063, 0.0007, 0.0013, -0.0009],
}


def lattice(p: int) -> tuple[np.ndarray, np.ndarray]:
    """forms (m, p), those of low q² first, and basis (p, 3, 3)."""
    coefficients = np.array(LATTICES[p], dtype=float)
    h, k, l = np.array(list(itertools.product(range(-6, 7), repeat=3))).T
    forms = np.unique(
        np.stack([h * h, k * k, l * l, h * k, h * l, k * l], 1) @ coefficients.T, axis=0
    )
    forms = forms[forms.any(axis=1)]
    basis = np.zeros((p, 3, 3))
    for c, (i, j) in enumerate([(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)]):
        basis[:, i, j] += coefficients[:, c] / 2
        basis[:, j, i] += coefficients[:, c] / 2
    return forms[np.argsort(forms @ CELL[p], kind="stable")][:400], basis


def observed(p: int, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """n of the first lines of CELL, with errors."""
    rng = np.random.default_rng([p, seed])
    q2 = np.unique((lattice(p)[0] @ CELL[p]).round(9))[: 2 * n]
    q2 = np.sort(rng.choice(q2, min(n, len(q2)), replace=False))
    sigma = 1e-4 + 1e-3 * q2
    return q2 + 0.1 * sigma * rng.standard_normal(len(q2)), sigma


def assigned(forms, q2, sigma, x):
    """Twin of `assign`."""
    calculated = forms @ x
    delta = q2[:, None] - np.where(calculated < powder.LIMIT * q2[-1], calculated, np.inf)
    near = np.abs(delta).argmin(axis=1)
    return near, delta[np.arange(len(q2)), near], int((calculated <= q2[-1] + sigma[-1]).sum())


def information(q2, sigma, delta, count):
    t = 3 * max(count, len(q2)) * np.sqrt(q2 / q2[-1]) / q2[-1] * (np.abs(delta) + sigma)
    return np.log1p(1 / t).sum()


def determinant(basis, x):
    G = np.tensordot(x, basis, 1)
    return np.linalg.det(G) if np.linalg.eigvalsh(G)[0] > 0 else 0.0


WORD = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def mixed(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & WORD
    return z ^ (z >> 31)


def stream(*numbers: int) -> int:
    z = 0
    for number in numbers:
        z = mixed(((z ^ number) + GOLDEN) & WORD)
    return z


def drawn(state: int, tickets: np.ndarray, subset: int) -> list[int]:
    chosen: list[int] = []
    while len(chosen) < subset:
        state = (state + GOLDEN) & WORD
        z = mixed(state)
        for place in range(6):
            k = int(tickets[(z >> (10 * place)) % powder.TICKETS])
            if k not in chosen and len(chosen) < subset:
                chosen.append(k)
    return chosen


def step(forms, near, delta, weight, x):
    rows = forms[near]
    A = (rows * weight[:, None]).T @ rows
    A[np.diag_indices_from(A)] *= 1 + powder.RIDGE
    A[np.diag_indices_from(A)] += 1e-300
    return x + np.linalg.lstsq(A, (rows * weight[:, None]).T @ delta, rcond=1e-14)[0]


def searched(forms, basis, q2, sigma, rules, x, seed, number):
    """Twin of `search` for one candidate."""
    lines = powder.observed_lines(q2, sigma)
    best, most, before, old = x, -1.0, -1.0, None
    for iteration in range(rules.iterations):
        state = stream(seed, number, iteration)
        if not rules.det_min <= determinant(basis, x) <= rules.det_max:
            x, before = rules.fresh[mixed(state) % len(rules.fresh)], -1.0
        near, delta, count = assigned(forms, q2, sigma, x)
        now = information(q2, sigma, delta, count)
        if now > most:
            most, best = now, x
        if rules.mala:
            state = (state + GOLDEN) & WORD
            if (mixed(state) >> 11) * 2.0**-53 < np.exp(min(now - before, 0.0)):
                before, old = now, (x, near, delta)
            else:
                x, near, delta = old
        k = np.array(drawn(state, lines.tickets, rules.subset))
        x = step(forms, near[k], delta[k], lines.weight[k], x)
    for _ in range(powder.POLISH - 1):
        near, delta, _ = assigned(forms, q2, sigma, best)
        w = sigma**-2 / (1 + (delta / (3 * sigma)) ** 2) ** 2
        x = step(forms, near, delta, w, best)
        if not rules.det_min <= determinant(basis, x) <= rules.det_max:
            break
        _, delta, count = assigned(forms, q2, sigma, x)
        now = information(q2, sigma, delta, count)
        if now <= most:
            break
        most, best = now, x
    return best, most


def near_cells(p: int, n: int, spread: float) -> np.ndarray:
    rng = np.random.default_rng([p, 99])
    return np.array(CELL[p]) * np.exp(spread * rng.standard_normal((n, p)))


def rules_of(p: int, *, mala: bool = False, patience: int = 0, hopeless: float = 0.0, n: int = 6):
    det = determinant(lattice(p)[1], np.array(CELL[p]))
    return powder.Rules(
        n, min(p + 2, 8), mala, patience, hopeless, det / 3, det * 3, near_cells(p, 7, 0.1)
    )


def run(p, q2, sigma, rules, starts, seed=3, first=0):
    forms, basis = lattice(p)
    n = len(starts)
    x, info, spent = np.zeros((n, p)), np.zeros(n), np.zeros(n, np.int64)
    powder.search(
        powder.reference_lines(forms, basis),
        powder.observed_lines(q2, sigma),
        rules,
        starts,
        seed,
        first,
        x,
        info,
        spent,
    )
    return x, info, spent


@pytest.mark.parametrize("p", LATTICES)
def test_assignment_is_the_nearest_line(p: int) -> None:
    forms, basis = lattice(p)
    q2, sigma = observed(p, 20, 1)
    cells = near_cells(p, 50, 0.2)
    cells = cells[[determinant(basis, x) > 0 for x in cells]]
    shape = len(cells), len(q2)
    near, delta, count = np.zeros(shape, np.int64), np.zeros(shape), np.zeros(shape[0], np.int64)
    reference, lines = powder.reference_lines(forms, basis), powder.observed_lines(q2, sigma)
    powder.explain(reference, lines, cells, near, delta, count)
    assert len(cells) > 20
    for c, x in enumerate(cells):
        expected = assigned(forms, q2, sigma, x)
        np.testing.assert_array_equal(near[c], expected[0])
        np.testing.assert_allclose(delta[c], expected[1], atol=1e-15)
        assert count[c] == expected[2]


def test_calculated_lines_below_zero_are_nobodys_nearest() -> None:
    """Rounding takes some there where a cell is very flat; here all of one direction are."""
    forms, basis = lattice(6)
    q2, sigma = observed(6, 20, seed=1)
    x = np.array(CELL[6])
    x[3] = -0.0085
    assert (forms @ x).min() < -0.02
    near, delta, count = np.zeros((1, 20), np.int64), np.zeros((1, 20)), np.zeros(1, np.int64)
    lines = powder.observed_lines(q2, sigma)
    powder.explain(powder.reference_lines(forms, basis), lines, x[None], near, delta, count)
    expected = assigned(forms, q2, sigma, x)
    np.testing.assert_allclose(delta[0], expected[1], rtol=1e-9, atol=1e-12)
    assert count[0] == expected[2]


@pytest.mark.parametrize("p", LATTICES)
@pytest.mark.parametrize("mala", [False, True])
def test_search_agrees_with_numpy(p: int, mala: bool) -> None:
    forms, basis = lattice(p)
    q2, sigma = observed(p, 20, 2)
    rules, starts = rules_of(p, mala=mala), near_cells(p, 12, 0.1)
    x, info, spent = run(p, q2, sigma, rules, starts, first=40)
    assert set(spent) <= set(range(7, 7 + powder.POLISH))
    for c, start in enumerate(starts):
        expected, most = searched(forms, basis, q2, sigma, rules, start, 3, 40 + c)
        np.testing.assert_allclose(x[c], expected, atol=1e-9)
        assert info[c] == pytest.approx(most, abs=1e-6)


def test_sixty_lines_do_not_underflow() -> None:
    q2, _ = observed(4, 60, 4)
    sigma = np.full(len(q2), 1e-13)
    x, info, _ = run(4, q2, sigma, rules_of(4), near_cells(4, 5, 0.01))
    assert np.isfinite(x).all()
    assert np.isfinite(info).all()


def test_results_do_not_depend_on_batches_but_on_the_seed() -> None:
    q2, sigma = observed(3, 20, 3)
    rules, starts = rules_of(3, mala=True, n=30), near_cells(3, 30, 0.3)
    whole = run(3, q2, sigma, rules, starts)
    parts = [run(3, q2, sigma, rules, starts[a:b], first=a) for a, b in ((0, 7), (7, 8), (8, 30))]
    for i, values in enumerate(whole):
        np.testing.assert_array_equal(values, np.concatenate([part[i] for part in parts]))
    assert not np.array_equal(whole[0], run(3, q2, sigma, rules, starts, seed=4)[0])


def test_hopeless_candidates_are_given_up() -> None:
    q2, sigma = observed(3, 20, 3)
    starts = near_cells(3, 30, 0.3)
    _, full, _ = run(3, q2, sigma, rules_of(3, n=30), starts)
    _, early, _ = run(3, q2, sigma, rules_of(3, n=11), starts)
    middle = float(np.median(early))
    _, info, spent = run(3, q2, sigma, rules_of(3, n=30, patience=10, hopeless=middle), starts)
    assert 5 < np.sum(spent == 11) < 25
    assert spent[spent != 11].min() > 30
    np.testing.assert_array_equal(info[spent != 11], full[spent != 11])


def test_every_line_can_be_drawn_and_low_ones_are_more_often() -> None:
    for n in (2, 20, 60):
        q2 = np.linspace(0.01, 0.4, n)
        lines = powder.observed_lines(q2, 1e-3 * q2)
        often = np.bincount(lines.tickets, minlength=n)
        assert often.min() >= 1
        assert often[0] > 3 * often[-1]
        chosen = np.zeros(n, np.int64)
        powder.draw(np.uint64(5), lines.tickets, n, chosen)
        assert sorted(chosen) == list(range(n))
