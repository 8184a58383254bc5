"""Local blocks eliminated one by one: a bordered problem without shared parameters.

    | C̃   F | |x|   |−g|        C̃ = C + λ diag C, block-diagonal: C̃_m = L Lᵀ, X_m = L⁻¹F_m
    | Fᵀ  H̃ | |z| = |−q|

    S = H̃ − Σ_m X_mᵀX_m      b = −q + Σ_m X_mᵀ L⁻¹g_m      S z = b      x_m = −C̃_m⁻¹(g_m + F_m z)

X of several blocks is one panel, over the columns that any of them touches; panels are summed over
chunks in the tree of all sums. Time follows (blocks · p) × (columns of a panel)².
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sfxproc.kernels.border import (
    UNDETERMINED,
    border_kernels,
    factor_blocks,
    solve_rows,
    subtract_packed,
    unpack,
)
from sfxproc.lsq.border.normal import BorderBlocks, packed_size
from sfxproc.lsq.border.reduced import CONDITION_LIMIT, Reduced
from sfxproc.lsq.engine import Engine, Linearisation
from sfxproc.lsq.problem import F8, Border, Point

PANEL = 512  # rows of X worked on at once


@dataclass(frozen=True, eq=False)
class Direct:
    """The local blocks factored. L : (n_local, p, p). state : (n_local, p) see `kernels.border`."""

    engine: Engine
    lin: Linearisation
    border: Border
    blocks: BorderBlocks
    damping: float
    L: F8 = field(repr=False)
    state: NDArray[np.int8] = field(repr=False)

    @classmethod
    def of(cls, engine: Engine, lin: Linearisation, damping: float) -> Direct | None:
        """Factor all blocks; None if one of any process is indefinite or not finite."""
        border, blocks = lin.layout.border, lin.border
        assert border is not None
        assert blocks is not None
        L, state = np.empty_like(lin.C), np.empty(lin.g.shape, dtype=np.int8)
        bad = factor_blocks(lin.C, lin.layout.free, 1.0 + damping, 1.0 / CONDITION_LIMIT, L, state)
        chunks = len(lin.layout.chunk) - 1
        flags = np.zeros((chunks, 1))
        flags[:1] = float(bad)
        if engine.sums.scalars(flags)[0] > 0.0:
            return None
        return cls(engine, lin, border, blocks, damping, L, state)

    def reduced(self) -> tuple[Reduced, F8]:
        """S and b, the same on all processes."""
        k, layout = len(self.border), self.lin.layout
        size = packed_size(k)
        total = self.engine.sums.shared(size + k, self._eliminate, self.engine.map)
        packed, b = total[:size], total[size:] - self.blocks.q
        packed += self.blocks.H
        diagonal = (1.0 + self.damping) * self.blocks.diagonal
        i = np.arange(k)
        packed[i * (i + 3) // 2] += self.damping * self.blocks.diagonal
        S = np.empty((k, k))
        unpack(packed, S)
        assert layout.border is not None
        return Reduced.of(S, diagonal, self.border.free), b

    def _eliminate(self, chunk: int, out: F8) -> None:
        """Take the blocks of a chunk off S (packed) and add to b, the rest of `out`."""
        layout, part, k = self.lin.layout, self.blocks.parts[chunk], len(self.border)
        p = len(layout.parameters)
        start, end = int(layout.chunk[chunk]), int(layout.chunk[chunk + 1])
        if p == 0:
            return
        kernels = border_kernels(p, self.border.columns.shape[1])
        S, b = out[: packed_size(k)], out[packed_size(k) :]
        where = np.empty(k, dtype=np.int64)
        step = max(PANEL // p, 1)
        for first in range(start, end, step):
            last = min(first + step, end)
            inside = np.zeros(k, dtype=bool)
            inside[part.column[part.begin[first - start] : part.begin[last - start]]] = True
            columns = np.flatnonzero(inside)
            where[columns] = np.arange(len(columns))
            X, y = np.zeros((len(columns), (last - first) * p)), np.empty((last - first) * p)
            kernels.panel(
                self.L,
                self.state,
                part.begin,
                part.column,
                part.F,
                self.lin.g,
                first,
                last,
                start,
                where,
                X,
                y,
            )
            subtract_packed(X @ X.T, columns, S)
            b[columns] += X @ y

    def local(self, z: F8, gradient: bool = True) -> Point:
        """The step of the local parameters that goes with one of the border; without the gradient,
        only what follows from the border's."""
        layout, g = self.lin.layout, self.lin.g if gradient else np.zeros_like(self.lin.g)
        kernels = border_kernels(len(layout.parameters), self.border.columns.shape[1])
        x = np.empty_like(g)

        def chunk(c: int) -> None:
            part = self.blocks.parts[c]
            kernels.back(
                self.L,
                self.state,
                part.begin,
                part.column,
                part.F,
                g,
                z,
                layout.chunk[c],
                layout.chunk[c + 1],
                x,
            )

        self.engine.map(chunk, len(layout.chunk) - 1)
        return Point(x, np.zeros_like(self.lin.q), z)

    def covariance(self, V: F8) -> tuple[F8, F8]:
        """(n_local, p, p) C⁻¹ + W V Wᵀ with W = C⁻¹F, infinite where the data determine nothing;
        and no variances of shared parameters. V : (k, k) of the border."""
        layout = self.lin.layout
        p = len(layout.parameters)
        out = np.zeros_like(self.lin.C)

        def chunk(c: int) -> None:
            part, start = self.blocks.parts[c], int(layout.chunk[c])
            for m in range(start, int(layout.chunk[c + 1])):
                at = slice(part.begin[m - start], part.begin[m - start + 1])
                W, own = part.F[at].copy(), np.eye(p)
                solve_rows(self.L[m], self.state[m], W)
                solve_rows(self.L[m], self.state[m], own)
                columns = part.column[at]
                inside = V if len(columns) == len(V) else V[np.ix_(columns, columns)]
                order = np.argsort(columns) if len(columns) == len(V) else slice(None)
                W = W[order]
                out[m] = own + W.T @ (inside @ W)
                for s in np.flatnonzero(self.state[m] == UNDETERMINED):
                    self._without_data(m, int(s), out[m])

        self.engine.map(chunk, len(layout.chunk) - 1)
        return out, np.zeros(0)

    def _without_data(self, m: int, s: int, V: F8) -> None:
        """Make variances infinite along the combination of a block that has no data with s."""
        C, free = self.lin.C[m], self.lin.layout.free[m]
        other = np.where(free, C[s], 0.0)[None]
        other[0, s] = 0.0
        solve_rows(self.L[m], self.state[m], other)
        size = np.sqrt(np.where(free, np.diag(C), 0.0))
        along = np.abs(other[0]) * size > 1e-6 * size[s]
        along[s] = True
        V[along, along] = np.inf
