"""A damped step by a dense Cholesky factor of the whole normal matrix, nothing eliminated.

    | H + λ diag H   Nᵀ | |d|   |−gradient|
    | N              0  | |ν| = |    0    |

H = JᵀWJ over all parameters, local ones first, built row by row of J; N the gauge rows. Memory
8 n² bytes on the first process and time n³/3 for n parameters, intensities and all: what the
other methods are compared with.
"""

from __future__ import annotations

import numpy as np

from sfxproc.errors import DataError
from sfxproc.kernels.normal import add_couplings_dense
from sfxproc.lsq.engine import Engine, Linearisation
from sfxproc.lsq.problem import F8, Point
from sfxproc.lsq.schur import Damped, complete
from sfxproc.lsq.schur_dense import Factor, own_part, whole, whole_layout
from sfxproc.lsq.step import Step

MOST_BYTES = 4_000_000_000


def normal_matrix(lin: Linearisation) -> F8:
    """(n, n) H, local parameters first (block by block), then the shared ones."""
    layout = lin.layout
    n_local, p = lin.g.shape
    n = n_local * p
    H = np.zeros((n + layout.n_shared, n + layout.n_shared))
    add_couplings_dense(layout.start, layout.shared, lin.e, H)
    at = np.arange(n).reshape(n_local, p)
    H[at[:, :, None], at[:, None, :]] = lin.C
    shared = np.arange(n, len(H))
    H[shared, shared] = lin.D
    return H


def dense(engine: Engine, lin: Linearisation, damping: float, tolerance: float) -> Step[Point]:
    """Solve the damped normal equations. Raises DataError if H would take more than MOST_BYTES."""
    layout = lin.layout
    everywhere = whole_layout(engine, layout)
    n_local = engine.sums.told(None if everywhere is None else everywhere.n_local)
    n = n_local * len(layout.parameters) + layout.n_shared
    if 8 * n * n > MOST_BYTES:
        raise DataError(
            f"A dense normal matrix of {n:,} parameters would need {8e-9 * n * n:.1f} GB of "
            f'memory, and solver.method = "lm-dense-stepwise" takes no more than '
            f'{1e-9 * MOST_BYTES:.1f} GB. Use "schur-cg", which needs no matrix.'
        )
    everything = whole(engine, lin, everywhere)
    x = own_part(engine, layout, None if everything is None else _local_step(everything, damping))
    return complete(engine, Damped.of(lin, damping), x)


def _local_step(lin: Linearisation, damping: float) -> F8 | None:
    """(n_local, p) the step of all local parameters; None if there is no factor."""
    H = normal_matrix(lin)
    diagonal = np.arange(len(H))
    free = np.concatenate([lin.layout.free.ravel(), lin.D > 0])
    used = free & (H[diagonal, diagonal] != 0)
    H[~used] = 0.0
    H[:, ~used] = 0.0
    H[diagonal, diagonal] = np.where(used, (1.0 + damping) * H[diagonal, diagonal], 1.0)
    gradient = np.concatenate([lin.g.ravel(), lin.q]) * used
    factor = Factor.of(H, lin.layout)
    return None if factor is None else factor.held(-gradient)[: lin.g.size].reshape(lin.g.shape)
