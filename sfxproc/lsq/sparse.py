"""Levenberg–Marquardt with a sparse factor of the normal matrix over all parameters.

A row of residuals has non-zeros for its p local parameters and one shared one; their products
are added straight into the lower triangle of H = JᵀWJ, held by columns, shared parameters first:

    H = | D   Eᵀ |        n_shared + n_local p (p+1)/2 + p P non-zeros, P the pairs of a block
        | E   C  |        and a shared parameter that rows couple

A general sparse Cholesky factor then does what a general one can: in this order the shared
columns fill in nothing among themselves, and the factor is E D^(−1/2) beside the factor of the
Schur complement, which is as good as dense where every two blocks share something:

    2P + n_local (2 n_local − 1) non-zeros below the diagonal for p = 2.

Three tiers: the structure once per solve (`Pattern`), the values once per step, the damping on
the diagonal. The gauge is held by a correction (`dense.held_step`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sfxproc.kernels.normal import add_couplings_sparse
from sfxproc.lsq.engine import Linearisation
from sfxproc.lsq.problem import F8, Array, Layout


@dataclass(frozen=True, eq=False)
class Pattern:
    """Where the non-zeros of H are, lower triangle by columns.

    layout : of the whole job. begin (n + 1,), row (nnz,): the columns. place (n_rows,): where the
    coupling of each row of residuals with the first local parameter is; the others follow it.
    """

    layout: Layout
    begin: Array
    row: Array
    place: Array

    @classmethod
    def of(cls, layout: Layout) -> Pattern:
        """The pattern of a layout."""
        n_local, p = layout.free.shape
        n_shared = layout.n_shared
        block = np.repeat(np.arange(n_local), np.diff(layout.start))
        pairs, of_row = np.unique(layout.shared * np.int64(n_local) + block, return_inverse=True)
        shared, block = np.divmod(pairs, n_local)
        counts = np.concatenate(
            [1 + p * np.bincount(shared, minlength=n_shared), np.tile(np.arange(p, 0, -1), n_local)]
        )
        begin = np.concatenate([[0], np.cumsum(counts)])
        at = shared + 1 + p * np.arange(len(pairs))
        row = np.empty(begin[-1], dtype=np.int64)
        row[begin[:-1]] = np.arange(len(counts))
        for s in range(p):
            row[at + s] = n_shared + p * block + s
            column = begin[n_shared + s : -1 : p]
            for t in range(1, p - s):
                row[column + t] = n_shared + p * np.arange(n_local) + s + t
        return cls(layout, begin, row, at[of_row])

    def values(self, lin: Linearisation, damping: float) -> F8:
        layout, p = self.layout, lin.g.shape[1]
        n_shared = layout.n_shared
        out = np.zeros(len(self.row))
        add_couplings_sparse(layout.start, self.place, lin.e, layout.free, out)
        for s in range(p):
            column = self.begin[n_shared + s : -1 : p]
            for t in range(p - s):
                both = layout.free[:, s] & layout.free[:, s + t]
                out[column + t] = np.where(both, lin.C[:, s + t, s], 0.0)
        out[self.begin[:n_shared]] = lin.D
        diagonal = out[self.begin[:-1]] * (1.0 + damping)
        out[self.begin[:-1]] = np.where(diagonal > 0, diagonal, 1.0)
        return out
