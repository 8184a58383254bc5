"""NumPy twins of `kernels.arrow` and `kernels.covariance`, and of the tree of sums.

Same letters; what a kernel writes into arrays is returned.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sfxproc.kernels.arrow import CAUCHY, HUBER

Array = NDArray[Any]


class Normal(NamedTuple):
    """What `accumulate` yields: blocks, couplings, shared sums, Σ ρ, Σ r²."""

    C: Array
    g: Array
    e: Array
    D: Array
    q: Array
    objective: float
    chi2: float


def rho_and_weight(d: Array, loss: int, k: float) -> tuple[Array, Array]:
    """ρ(d) and its weight."""
    if loss == HUBER:
        far = np.abs(d) > k
        size = np.where(far, np.abs(d), k)
        return np.where(far, 2.0 * k * size - k * k, d * d), k / size
    if loss == CAUCHY:
        z = (d / k) ** 2
        return k * k * np.log1p(z), 1.0 / (1.0 + z)
    return d * d, np.ones_like(d)


def sum_rho(d: Array, loss: int, k: float) -> float:
    """Σ ρ(dᵢ)."""
    return float(rho_and_weight(d, loss, k)[0].sum())


def rho_by_block(start: Array, first: int, last: int, d: Array, loss: int, k: float) -> Array:
    """Σ ρ(dᵢ) of each of the blocks first … last−1."""
    block = blocks_of(start, first, last) - first
    return summed(block, rho_and_weight(d, loss, k)[0], last - first)


def dot_by_chunk(chunk: Array, a: Array, b: Array) -> Array:
    """(n_chunks, p) sums of a·b over the blocks of each chunk."""
    before = np.concatenate([np.zeros((1, a.shape[1])), np.cumsum(a * b, axis=0)])
    return np.asarray(np.diff(before[chunk], axis=0))


def sum_by_component(chunk: Array, component: Array, a: Array, n: int) -> Array:
    """(n_chunks, n, p) sums of a over the blocks of each chunk and component; −1 is in none."""
    out = np.zeros((len(chunk) - 1, n, a.shape[1]))
    c = np.repeat(np.arange(len(chunk) - 1), np.diff(chunk))
    kept = component >= 0
    np.add.at(out, (c[kept], component[kept]), a[kept])
    return out


def blocks_of(start: Array, first: int, last: int) -> Array:
    """The local block of each row of blocks first … last−1."""
    return np.repeat(np.arange(first, last), np.diff(start[first : last + 1]))


def summed(index: Array, terms: Array, n: int) -> Array:
    """(n, …) sums of the terms by index."""
    out = np.zeros((n, *terms.shape[1:]))
    np.add.at(out, index, terms)
    return out


def accumulate(
    start: Array,
    shared: Array,
    first: int,
    last: int,
    r: Array,
    d: Array,
    a: Array,
    c: Array,
    loss: int,
    k: float,
    n_shared: int,
    storage: type = np.float64,
) -> Normal:
    """The normal equations of blocks first … last−1, e rounded to its storage."""
    m = blocks_of(start, first, last) - first
    h = shared[start[first] : start[last]]
    rho, w = rho_and_weight(d, loss, k)
    wa = w[:, None] * a
    return Normal(
        summed(m, wa[:, :, None] * a[:, None, :], last - first),
        summed(m, wa * r[:, None], last - first),
        ((w * c)[:, None] * a).astype(storage),
        summed(h, w * c * c, n_shared),
        summed(h, w * c * r, n_shared),
        float(rho.sum()),
        float((r * r).sum()),
    )


def scatter(
    start: Array, shared: Array, first: int, last: int, e: Array, v: Array, n_shared: int
) -> Array:
    """(n_shared,) Σᵢ eᵢ·v_m."""
    rows = slice(start[first], start[last])
    dots = (e[rows] * v[blocks_of(start, first, last)]).sum(axis=1)
    return summed(shared[rows], dots, n_shared)


def gather(start: Array, shared: Array, first: int, last: int, e: Array, u: Array) -> Array:
    """(last − first, p) Σᵢ eᵢ u[h]."""
    rows = slice(start[first], start[last])
    terms = e[rows] * u[shared[rows]][:, None]
    return summed(blocks_of(start, first, last) - first, terms, last - first)


def outer(start: Array, shared: Array, first: int, last: int, e: Array, u: Array) -> Array:
    """(last − first, p, p) Σᵢ eᵢ eᵢᵀ u[h]."""
    rows = slice(start[first], start[last])
    terms = e[rows][:, :, None] * e[rows][:, None, :] * u[shared[rows]][:, None, None]
    return summed(blocks_of(start, first, last) - first, terms, last - first)


def spread(start: Array, shared: Array, first: int, last: int, e: Array, V: Array, n: int) -> Array:
    """(n,) Σᵢ eᵢᵀ V_m eᵢ."""
    rows = slice(start[first], start[last])
    forms = np.einsum("is,ist,it->i", e[rows], V[blocks_of(start, first, last)], e[rows])
    return summed(shared[rows], forms, n)


def signs(start: Array, p: int, seed: int, before: int) -> tuple[Array, Array]:
    """The ±1 of `noise`: (rows,) of all rows and (n_local, p) of the priors, by splitmix64."""
    number = np.diff(start)
    m = np.repeat(np.arange(len(number)), number)
    place = np.arange(len(m)) - np.repeat(start[:-1], number)
    blocks = np.concatenate([m, np.repeat(np.arange(len(number)), p)]) + before
    places = np.concatenate([place, (number[:, None] + np.arange(p)).ravel()])
    z = np.full(len(blocks), seed, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z += blocks.astype(np.uint64) * np.uint64(0xBF58476D1CE4E5B9) + places.astype(np.uint64)
    z += np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    bit = ((z ^ (z >> np.uint64(31))) >> np.uint64(33)) & np.uint64(1)
    sign = np.where(bit == 1, 1.0, -1.0)
    return sign[: len(m)], sign[len(m) :].reshape(-1, p)


def noise(
    start: Array,
    shared: Array,
    d: Array,
    a: Array,
    c: Array,
    loss: int,
    k: float,
    prior: Array,
    seed: int,
    before: int,
    n_shared: int,
) -> tuple[Array, Array]:
    """(g, q) of unit noise on the residuals and priors of all blocks."""
    of_row, of_prior = signs(start, a.shape[1], seed, before)
    v = of_row * np.sqrt(rho_and_weight(d, loss, k)[1])
    m = blocks_of(start, 0, len(start) - 1)
    g = summed(m, v[:, None] * a, len(start) - 1) + of_prior * np.sqrt(prior)
    return g, summed(shared, v * c, n_shared)


def coupling(begin: Array, block: Array, e: Array, n_local: int) -> Array:
    """(n_local·p, n_shared) E, the couplings of sorted rows as a dense matrix."""
    p = e.shape[1]
    h = np.repeat(np.arange(len(begin) - 1), np.diff(begin))
    E = np.zeros((n_local, p, len(begin) - 1))
    np.add.at(E, (block[:, None], np.arange(p), h[:, None]), e)
    return E.reshape(n_local * p, -1)


def subtract_pairs(begin: Array, block: Array, e: Array, inverse_D: Array, S: Array) -> Array:
    """S − E D⁻¹ Eᵀ, both triangles."""
    E = coupling(begin, block, e, len(S) // e.shape[1])
    return np.asarray(S - (E * inverse_D) @ E.T)


def quadratic_forms(begin: Array, block: Array, e: Array, inverse_D: Array, V: Array) -> Array:
    """diag(D⁻¹ Eᵀ V E D⁻¹)."""
    E = coupling(begin, block, e, len(V) // e.shape[1])
    return np.asarray(np.einsum("ah,ab,bh->h", E, V, E) * inverse_D**2)


def fold(partial: Array) -> Array:
    """The root of the tree over all rows, their number a power of two."""
    while len(partial) > 1:
        partial = partial[0::2] + partial[1::2]
    return np.asarray(partial[0])
