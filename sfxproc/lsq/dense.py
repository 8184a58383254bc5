"""The same step by dense linear algebra, nothing eliminated: the twin the tests compare with.

    | H + λ diag H   Nᵀ | |d|   |−gradient|
    | N              0  | |ν| = |    0    |

H = JᵀWJ over all free parameters at once, N the gauge rows. Memory grows with the square of the
number of parameters; one process only.
"""

from __future__ import annotations

import numpy as np

from sfxproc.lsq.engine import Engine, Linearisation
from sfxproc.lsq.problem import F8, gauge_rows
from sfxproc.lsq.schur import Damped, Step, complete

MOST_PARAMETERS = 6000


def normal_matrix(lin: Linearisation) -> F8:
    """(n, n) H, local parameters first (block by block), then the shared ones."""
    layout = lin.layout
    n_local, p = lin.g.shape
    n = n_local * p + layout.n_shared
    H = np.zeros((n, n))
    for m in range(n_local):
        rows = slice(m * p, (m + 1) * p)
        H[rows, rows] = lin.C[m]
        for i in range(layout.start[m], layout.start[m + 1]):
            H[rows, n_local * p + layout.shared[i]] += lin.e[i]
    H[n_local * p :, : n_local * p] = H[: n_local * p, n_local * p :].T
    shared = np.arange(n_local * p, n)
    H[shared, shared] = lin.D
    return H


def dense(engine: Engine, lin: Linearisation, damping: float, tolerance: float) -> Step:
    """Solve the damped normal equations densely. Raises ValueError if they are too many."""
    layout = lin.layout
    n_local, p = lin.g.shape
    n = n_local * p + layout.n_shared
    if n > MOST_PARAMETERS:
        raise ValueError(f"{n} parameters are too many for dense normal equations")
    H = normal_matrix(lin)
    H[np.arange(n), np.arange(n)] *= 1.0 + damping
    gradient = np.concatenate([lin.g.ravel(), lin.q])
    used = np.concatenate([layout.free.ravel(), lin.D > 0])
    N = gauge_rows(layout.free, layout.component, layout.n_components, layout.gauge)
    N = np.pad(N, ((0, 0), (0, layout.n_shared)))
    K = np.block([[H, N.T], [N, np.zeros((len(N), len(N)))]])
    keep = np.concatenate([used, np.ones(len(N), dtype=bool)])
    d = np.zeros(len(K))
    rhs = np.concatenate([-gradient, np.zeros(len(N))])
    d[keep] = np.linalg.solve(K[np.ix_(keep, keep)], rhs[keep])
    return complete(engine, Damped.of(lin, damping), d[: n_local * p].reshape(n_local, p), 0)
