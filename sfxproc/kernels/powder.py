"""Compiled search for the reciprocal metric that explains powder lines.

The calculated lines of a lattice are linear in its parameters x, q²_i = f_i·x, with f_i the linear
form of reflection i. From a start x, each iteration

    i(k)  = the calculated line nearest to the observed line k
    t_k   = 2 ρ_k (|q²_k − q²_i(k)| + δ_k),   ρ_k = (3/2) (N/q²_n) √(q²_k/q²_n)
    I     = Σ ln(1 + 1/t_k)
    x     ← x + (Σ w f fᵀ)⁻¹ Σ w f (q²_k − f·x)      over a random subset of the observed lines

N calculated lines, but at least n, lie up to q²_n + δ_n, so that ρ_k is the density of lines
expected at q²_k in three dimensions. t/(1 + t) is about the chance that a line falls so close to a
calculated one (Taupin, J. Appl. Cryst. 21 (1988) 485): I is the information in nats, about 0
for a line that is not explained and at most ln(1 + 1/(2 ρ δ)) for one that is, with δ the error of
measurement. The x of most I is kept and ends with a few steps on all lines, weighted by
w = σ⁻²/(1 + (Δ/3δ)²)². To alternate nearest lines and least squares is the way of SVD-Index
(Coelho, J. Appl. Cryst. 36 (2003) 86); the subset makes it leave false maxima.

How it is made fast: calculated q² come in blocks of 16 from float32 columns, in vector
instructions; blocks without a line in range are passed over; a line finds the interval between two
observed lines by a table of equal bins; each interval keeps its lowest and highest line as one
integer, the bits of q² above the line's number. Differences are taken again in double precision.
Indices of the inner loops are unsigned, or each would be looked at whether it is negative.

Random numbers (`splitmix64`) are keyed by the seed, the candidate's own number and the iteration:
no result depends on how candidates are dealt out.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sfxproc.kernels.compiled import compiled
from sfxproc.kernels.splitmix64 import GOLDEN, mixed

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]

BLOCK = 16
BINS = 512
TICKETS = 1024  # a power of two: ten random bits choose one
LIMIT = 1.06  # the nearest calculated line above the last observed one is looked for up to here
EMPTY = np.int64(0x7FFFFFFFFFFFFFFF)
NUMBER = np.int64(0xFFFFFFFF)
RIDGE = 1e-7  # relative; a subset that leaves a direction open must not move x along it
POLISH = 6  # iterations with all lines at the end


class Lines(NamedTuple):
    """Observed lines, at most 64.

    q2 (n,) ascending, floor (n,) = δ, Å⁻².  weight (n,) of the search, polish (n,) of the last
    least squares.  density (n,) = 2 ρ_k/N.  limit : calculated lines beyond it are not looked at,
    Å⁻².  below (BINS,) : how many lines lie at or below the lower edge of a bin of width 1/scale.
    tickets (TICKETS,) : numbers of lines, each as often as it shall be drawn.
    """

    q2: Floats
    floor: Floats
    weight: Floats
    polish: Floats
    density: Floats
    limit: float
    scale: float
    below: Ints
    tickets: Ints


class Reference(NamedTuple):
    """Calculated lines: forms (m, p), m a multiple of BLOCK; the same as float32 columns (p, m);
    basis (6, p), such that basis @ x are the coefficients of h², k², l², hk, hl, kl in q². each :
    the numbers of the parameters; by the length of a tuple the compiler knows p."""

    forms: Floats
    columns: Floats
    basis: Floats
    each: tuple[int, ...]


class Rules(NamedTuple):
    """How to search: iterations a candidate, lines in a subset, whether steps are accepted with
    probability min(1, exp(I_after − I_before)) or always. A candidate is given up whose I has not
    reached `hopeless` by iteration `patience`. det_min, det_max: range of the determinant of the
    reciprocal metric, Å⁻⁶; fresh (f, p): cells in place of those that leave it."""

    iterations: int
    subset: int
    mala: bool
    patience: int
    hopeless: float
    det_min: float
    det_max: float
    fresh: Floats


def observed_lines(q2: Floats, sigma: Floats) -> Lines:
    """Lines at q2 (n,), ascending and positive, with standard errors sigma (n,), both Å⁻².

    Lines are drawn in proportion to 1/q², those of low index, which are assigned rightly more
    often, first; for the same reason their weight in the search is 1/q⁴, steeper than 1/σ².
    """
    n = len(q2)
    limit = LIMIT * float(q2[-1])
    scale = (BINS - 0.5) / limit
    share = np.cumsum(1.0 / q2)
    places = (np.arange(TICKETS) + 0.5) / TICKETS
    tickets = np.searchsorted(share / share[-1], places).clip(0, n - 1)
    tickets[:: TICKETS // n][:n] = np.arange(n)  # every line at least once
    return Lines(
        q2=q2,
        floor=sigma,
        weight=1.0 / q2**2,
        polish=1.0 / sigma**2,
        density=3.0 * np.sqrt(q2 / q2[-1]) / q2[-1],
        limit=limit,
        scale=scale,
        below=np.searchsorted(q2, np.arange(BINS) / scale, side="right"),
        tickets=tickets,
    )


def reference_lines(forms: Floats, basis: Floats) -> Reference:
    """Calculated lines with forms (m, p) of the lattice with G* = Σ x_i basis_i, basis (p, 3, 3).

    The list is filled up to a multiple of BLOCK with lines too high to be seen.
    """
    filling = np.repeat(1e6 * forms[-1:], -len(forms) % BLOCK, axis=0)
    padded = np.ascontiguousarray(np.concatenate([forms, filling]), dtype=np.float64)
    coefficients = [basis[:, i, i] for i in range(3)]
    coefficients += [2.0 * basis[:, i, j] for i, j in ((0, 1), (0, 2), (1, 2))]
    columns = np.ascontiguousarray(padded.T, dtype=np.float32)
    rows = np.ascontiguousarray(coefficients, dtype=np.float64)
    return Reference(padded, columns, rows, tuple(range(forms.shape[1])))


@compiled
def stream(seed, candidate, iteration):
    """The state from which the random numbers of an iteration of a candidate follow."""
    z = mixed(np.uint64(seed) + GOLDEN)
    z = mixed((z ^ np.uint64(candidate)) + GOLDEN)
    return mixed((z ^ np.uint64(iteration)) + GOLDEN)


@compiled
def unit(z):
    """A number in [0, 1) of 64 random bits."""
    return np.float64(z >> np.uint64(11)) * 2.0**-53


@compiled
def workspace(n_reference, n_lines):
    """Scratch arrays of `assign`."""
    q = np.zeros(n_reference, np.float32)
    keys = np.zeros(n_reference + BLOCK, np.int64)
    low, high = np.zeros(n_lines + 1, np.int64), np.zeros(n_lines + 1, np.int64)
    return q, q.view(np.int32), keys, low, high


@compiled
def draw(state, tickets, subset, chosen):
    """Numbers of `subset` different lines into `chosen`; the state behind the last draw."""
    n = 0
    used = np.uint64(0)
    one = np.uint64(1)
    while n < subset:
        state += GOLDEN
        z = mixed(state)
        for _ in range(6):
            k = tickets[z & np.uint64(TICKETS - 1)]
            z >>= np.uint64(10)
            bit = one << np.uint64(k)
            if n < subset and used & bit == np.uint64(0):
                used |= bit
                chosen[n] = k
                n += 1
    return state


@compiled
def information_of(lines, count, delta):
    """I of the module's equations, nats, of one cell."""
    n = len(delta)
    total, product = 0.0, 1.0
    for k in range(n):
        t = max(count, n) * lines.density[k] * (abs(delta[k]) + lines.floor[k])
        product *= t / (1.0 + t)
        if k % 12 == 11:  # one logarithm for twelve lines, before the product underflows
            total -= np.log(product)
            product = 1.0
    return total - np.log(product)


@compiled
def dot(a, b, each):
    """Σ a b over the parameters, in their order."""
    total = a[0] * b[0]
    for s in range(1, len(each)):
        total += a[s] * b[s]
    return total


@compiled
def determinant(basis, x, each):
    """Of the reciprocal metric, Å⁻⁶; 0 if it is not positive definite."""
    hh, kk, ll = dot(basis[0], x, each), dot(basis[1], x, each), dot(basis[2], x, each)
    hk, hl, kl = (
        0.5 * dot(basis[3], x, each),
        0.5 * dot(basis[4], x, each),
        0.5 * dot(basis[5], x, each),
    )
    minor = hh * kk - hk * hk
    det = minor * ll + 2.0 * hk * hl * kl - hh * kl * kl - kk * hl * hl
    return det if hh > 0.0 and minor > 0.0 and det > 0.0 else 0.0


@compiled
def assign(reference, lines, x, work, near, delta):
    """Nearest calculated line near[k] of each observed line and delta[k] = q²_k − q²_near.

    Returns how many calculated lines lie up to the last observed one, by its error more.
    """
    q, bits, keys, low, high = work
    columns, forms, each = reference.columns, reference.forms, reference.each
    p = len(each)
    n = len(lines.q2)
    limit = np.float32(lines.limit)
    y = np.empty(p, np.float32)
    for s in range(p):
        y[s] = np.float32(x[s])
    m = columns.shape[1]
    for i in range(m):
        v = columns[0, i] * y[0]
        for s in range(1, p):
            v += columns[s, i] * y[s]
        q[i] = v
    kept = np.uint64(0)
    for first in range(0, m, BLOCK):
        hits = np.int32(0)
        for i in range(first, first + BLOCK):
            hits += np.int32(q[i] < limit)
        if hits == 0:
            continue
        for i in range(first, first + BLOCK):
            keys[kept] = (np.int64(bits[i]) << 32) | np.int64(i)
            kept += np.uint64(q[i] < limit)
    for j in range(n + 1):
        low[j] = EMPTY
        high[j] = -1
    scale = np.float32(lines.scale)
    last = np.float32(lines.q2[n - 1] + lines.floor[n - 1])
    beyond = 0
    end, one = np.uint64(n), np.uint64(1)
    for i in range(np.int64(kept)):
        key = keys[i]
        v = q[np.uint64(key & NUMBER)]
        bin_ = np.int32(v * scale)  # of a very flat cell rounding may leave v below 0
        gap = np.uint64(lines.below[np.uint32(max(bin_, np.int32(0)))])
        while gap < end and lines.q2[gap] <= v:
            gap += one
        low[gap] = min(low[gap], key)
        high[gap] = max(high[gap], key)
        beyond += int(v > last)
    for j in range(n - 1, -1, -1):  # low[j + 1]: the nearest calculated line above line j
        low[j] = min(low[j], low[j + 1])
    lower = np.int64(-1)
    for j in range(n):
        lower = max(lower, high[j])
        upper = low[j + 1]
        near[j] = 0
        delta[j] = lines.limit
        if lower >= 0:
            near[j] = lower & NUMBER
            delta[j] = lines.q2[j] - dot(forms[near[j]], x, each)
        if upper != EMPTY:
            above = lines.q2[j] - dot(forms[upper & NUMBER], x, each)
            if abs(above) < abs(delta[j]):
                near[j] = upper & NUMBER
                delta[j] = above
    return np.int64(kept) - beyond


@compiled
def solve(A, x, each):
    """x becomes x + A⁻¹ b by Cholesky's method; A (p, p + 1) holds the lower triangle and b
    as its last column, and is overwritten. What the rows do not fix stays."""
    p = len(each)
    for s in range(p):
        A[s, s] = A[s, s] * (1.0 + RIDGE) + 1e-300
        for t in range(s):
            v = A[s, t]
            for u in range(t):
                v -= A[s, u] * A[t, u]
            A[s, t] = v * A[t, t]
        v = A[s, s]
        for u in range(s):
            v -= A[s, u] * A[s, u]
        A[s, s] = 1.0 / np.sqrt(max(v, 0.1 * RIDGE * A[s, s]))  # the inverse of the pivot
        v = A[s, p]
        for u in range(s):
            v -= A[s, u] * A[u, p]
        A[s, p] = v * A[s, s]
    for s in range(p - 1, -1, -1):
        v = A[s, p]
        for u in range(s + 1, p):
            v -= A[u, s] * A[u, p]
        A[s, p] = v * A[s, s]
        x[s] += A[s, p]


@compiled
def add_row(A, form, w, residual, each):
    """Add w f fᵀ and w f r to the normal equations."""
    p = len(each)
    for s in range(p):
        v = w * form[s]
        A[s, p] += v * residual
        for t in range(s + 1):
            A[s, t] += v * form[t]


@compiled
def search(reference, lines, rules, starts, seed, first, out, information, iterations):
    """Improve the candidates `starts` (c, p), numbered from `first`: out (c, p), information
    (c,) and how many iterations were spent, those with all lines included, iterations (c,)."""
    each, n = reference.each, len(lines.q2)
    p = len(each)
    work = workspace(reference.columns.shape[1], n)
    near, delta = np.zeros(n, np.int64), np.zeros(n)
    near_old, delta_old = np.zeros(n, np.int64), np.zeros(n)
    chosen = np.zeros(rules.subset, np.int64)
    A, x, x_old, best = np.zeros((p, p + 1)), np.zeros(p), np.zeros(p), np.zeros(p)
    for c in range(len(starts)):
        x[:] = starts[c]
        best[:] = x
        most, before, spent = -1.0, -1.0, 0
        for iteration in range(rules.iterations + POLISH):
            if iteration == rules.iterations:
                x[:] = best
            state = stream(seed, first + c, iteration)
            det = determinant(reference.basis, x, reference.each)
            if det < rules.det_min or det > rules.det_max:
                if iteration >= rules.iterations:
                    break
                x[:] = rules.fresh[mixed(state) % np.uint64(len(rules.fresh))]
                before = -1.0
            count = assign(reference, lines, x, work, near, delta)
            now = information_of(lines, count, delta)
            spent += 1
            if now > most:
                most = now
                best[:] = x
            elif iteration > rules.iterations:
                break
            A[:] = 0.0
            if iteration >= rules.iterations:
                for k in range(n):
                    z = delta[k] / (3.0 * lines.floor[k])
                    w = lines.polish[k] / (1.0 + z * z) ** 2
                    add_row(A, reference.forms[near[k]], w, delta[k], each)
                solve(A, x, each)
                continue
            if iteration == rules.patience and most < rules.hopeless:
                break
            if rules.mala:
                state += GOLDEN
                if unit(mixed(state)) < np.exp(min(now - before, 0.0)):
                    before = now
                    x_old[:], near_old[:], delta_old[:] = x, near, delta
                else:
                    x[:], near[:], delta[:] = x_old, near_old, delta_old
            draw(state, lines.tickets, rules.subset, chosen)
            for k in chosen:
                add_row(A, reference.forms[near[k]], lines.weight[k], delta[k], each)
            solve(A, x, each)
        out[c] = best
        information[c] = most
        iterations[c] = spent


@compiled
def explain(reference, lines, x, near, delta, count):
    """`assign` for cells x (c, p): near (c, n), delta (c, n) and count (c,)."""
    work = workspace(reference.columns.shape[1], len(lines.q2))
    for c in range(len(x)):
        count[c] = assign(reference, lines, x[c], work, near[c], delta[c])
