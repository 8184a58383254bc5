"""A bordered problem with shared parameters too, worked out whole on the first process.

The shared parameters go first (D̃ diagonal), then the local ones by a dense factor:

    A = C̃ − E D̃⁻¹Eᵀ      B = F − E D̃⁻¹G      S = H̃ − Gᵀ D̃⁻¹G − Bᵀ A⁻¹B

    b_l = −g + E D̃⁻¹q     S z = −q_b + Gᵀ D̃⁻¹q − Bᵀ A⁻¹b_l     x = A⁻¹(b_l − B z)
    u = −D̃⁻¹(q + Eᵀx + G z)

The gauge of the layout is held in A⁻¹. Memory 8 (n_local·p)² bytes on the first process: for some
thousands of blocks. The covariances are A⁻¹ + (A⁻¹B) V (A⁻¹B)ᵀ of the local parameters, V = S⁻¹,
and 1/D_h + m_hᵀ V m_h / D_h² of a shared one, m_h its couplings with all others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from sfxproc.kernels.border import unpack
from sfxproc.lsq.border.normal import BorderBlocks
from sfxproc.lsq.border.reduced import Reduced
from sfxproc.lsq.engine import Engine, Linearisation
from sfxproc.lsq.problem import F8, Border, Point
from sfxproc.lsq.schur import Damped
from sfxproc.lsq.schur_dense import (
    MOST_RIDGE,
    MOST_RIDGE_OF_COVARIANCE,
    Factor,
    Pairs,
    infinite_where,
    own_part,
    schur_matrix,
    undetermined,
    whole,
    whole_layout,
)

COLUMNS = 256  # of shared parameters worked on at once


@dataclass(frozen=True, eq=False)
class System:
    """The whole problem, on the first process. E (n_local·p, n_shared) and G (n_shared, k) are
    sparse; B (n_local·p, k), AB = A⁻¹B, H the border's matrix with shared parameters eliminated.
    unknown (n_local, p) local parameters that are left out, because nothing determines them."""

    damped: Damped
    factor: Factor
    E: csr_matrix
    G: csr_matrix
    B: F8
    AB: F8
    H: F8
    unknown: NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        engine: Engine,
        lin: Linearisation,
        blocks: BorderBlocks,
        F: F8,
        damping: float,
        for_covariance: bool,
    ) -> System | None:
        """Of a whole linearisation, the whole G in its blocks, and F (n_local·p, k)."""
        layout, border = lin.layout, lin.layout.border
        assert border is not None
        n_local, p = layout.free.shape
        damped, pairs = Damped.of(replace(lin, border=None), damping), Pairs.of(layout)
        matrix = schur_matrix(engine, damped, pairs, pairs.couplings(lin))
        unknown = np.zeros_like(layout.free)
        if for_covariance:
            unknown = np.logical_or(*undetermined(matrix, lin))
        if unknown.any():
            layout = replace(layout, free=layout.free & ~unknown)
            damped = replace(damped, lin=replace(damped.lin, layout=layout))
            matrix = schur_matrix(engine, damped, pairs, pairs.couplings(damped.lin))
        factor = Factor.of(
            matrix, layout, MOST_RIDGE_OF_COVARIANCE if for_covariance else MOST_RIDGE
        )
        if factor is None:
            return None
        block = np.repeat(np.arange(n_local), np.diff(layout.start))
        e = np.where(layout.free[block], lin.e.astype(np.float64), 0.0)
        rows = block[:, None] * p + np.arange(p)
        shared = np.repeat(layout.shared[:, None], p, axis=1)
        E = csr_matrix((e.ravel(), (rows.ravel(), shared.ravel())), (n_local * p, layout.n_shared))
        columns = border.columns[border.pattern]
        there = (columns >= 0) & border.free[columns]
        row = np.repeat(layout.shared[:, None], columns.shape[1], axis=1)
        G = csr_matrix(
            (blocks.G[there], (row[there], columns[there])), (layout.n_shared, len(border))
        )
        GD = G.multiply(damped.inverse_D[:, None]).tocsr()
        B = F * layout.free.reshape(-1, 1) - (E @ GD).toarray()
        H = np.empty((len(border), len(border)))
        unpack(blocks.H, H)
        H[np.diag_indices(len(H))] += damping * blocks.diagonal
        H -= (G.T @ GD).toarray()
        AB = np.stack([factor.held(column) for column in B.T], axis=1)
        return cls(damped, factor, E, G, B, AB, H, unknown)

    def right_sides(self, lin: Linearisation, blocks: BorderBlocks) -> tuple[F8, F8]:
        """b_l (n_local·p,), and b of the reduced system."""
        t = self.damped.inverse_D * lin.q
        b = (self.E @ t - lin.g.ravel()) * lin.layout.free.ravel()
        return b, self.G.T @ t - blocks.q - self.AB.T @ b


@dataclass(frozen=True, eq=False)
class Joint:
    """A system of the whole job; None but on the first process."""

    engine: Engine
    lin: Linearisation
    border: Border
    blocks: BorderBlocks
    damping: float
    system: System | None
    everything: Linearisation | None

    @classmethod
    def of(
        cls, engine: Engine, lin: Linearisation, damping: float, for_covariance: bool = False
    ) -> Joint | None:
        """None if there is no factor. Raises DataError if it would need too much memory."""
        border, blocks = lin.layout.border, lin.border
        assert border is not None
        assert blocks is not None
        everywhere, F = whole_layout(engine, lin.layout), _whole_couplings(engine, lin)
        pattern, G = engine.sums.gathered(border.pattern), engine.sums.gathered(blocks.G)
        everything, system = whole(engine, lin, everywhere), None
        if everything is not None and F is not None and pattern is not None and G is not None:
            layout = replace(everything.layout, border=replace(border, pattern=pattern))
            everything = replace(everything, layout=layout)
            blocks = replace(blocks, G=G)
            system = System.of(engine, everything, blocks, F, damping, for_covariance)
        if not engine.sums.told(system is not None):
            return None
        return cls(engine, lin, border, blocks, damping, system, everything)

    def reduced(self) -> tuple[Reduced, F8]:
        """S and b, the same on all processes."""
        found = None
        if self.system is not None and self.everything is not None:
            S = self.system.H - self.system.B.T @ self.system.AB
            _, b = self.system.right_sides(self.everything, self.blocks)
            found = 0.5 * (S + S.T), b
        S, b = self.engine.sums.told(found)
        diagonal = (1.0 + self.damping) * self.blocks.diagonal
        return Reduced.of(S, diagonal, self.border.free), b

    def local(self, z: F8, gradient: bool = True) -> Point:
        """The step of local and shared parameters that goes with one of the border."""
        x, u = None, None
        if self.system is not None and self.everything is not None:
            lin, system = self.everything, self.system
            flat, q = -system.AB @ z, np.zeros_like(lin.q)
            if gradient:
                b, _ = system.right_sides(lin, self.blocks)
                flat, q = flat + system.factor.held(b), lin.q
            u = -system.damped.inverse_D * (q + system.E.T @ flat + system.G @ z)
            x = flat.reshape(lin.g.shape)
        own = own_part(self.engine, self.lin.layout, x)
        assert own is not None
        return Point(own, self.engine.sums.told(u), z)

    def covariance(self, V: F8) -> tuple[F8, F8]:
        """(n_local, p, p) of the local parameters, and (n_shared,) what they and the border add to
        the variances of shared ones. V : (k, k) of the border."""
        blocks, from_others = None, None
        if self.system is not None and self.everything is not None:
            system, layout = self.system, self.system.damped.lin.layout
            n_local, p = layout.free.shape
            cross = -system.AB @ V
            all_local = system.factor.covariance() - cross @ system.AB.T
            all_local[~layout.free.ravel()] = 0.0
            all_local[:, ~layout.free.ravel()] = 0.0
            at = np.arange(n_local * p).reshape(n_local, p)
            blocks = all_local[at[:, :, None], at[:, None, :]]
            everything = np.block([[all_local, cross], [cross.T, V]])
            from_others = np.zeros(layout.n_shared)
            for first in range(0, layout.n_shared, COLUMNS):
                part = slice(first, first + COLUMNS)
                M = np.vstack([system.E[:, part].toarray(), system.G[part].toarray().T])
                from_others[part] = np.einsum("ih,ih->h", M, everything @ M)
            from_others *= system.damped.inverse_D**2
            infinite_where(system.unknown, self.everything, blocks, from_others)
        own = own_part(self.engine, self.lin.layout, blocks)
        assert own is not None
        return own, self.engine.sums.told(from_others)


def _whole_couplings(engine: Engine, lin: Linearisation) -> F8 | None:
    """F (n_local·p, k) of the whole job on the first process, None elsewhere."""
    border, blocks, p = lin.layout.border, lin.border, lin.g.shape[1]
    assert border is not None
    assert blocks is not None
    counts = [np.diff(part.begin) for part in blocks.parts]
    columns = [part.column for part in blocks.parts]
    values = [part.F for part in blocks.parts]
    count, column, value = (
        engine.sums.gathered(np.concatenate([empty, *parts]))
        for empty, parts in (
            (np.empty(0, dtype=np.int64), counts),
            (np.empty(0, dtype=np.int32), columns),
            (np.empty((0, p)), values),
        )
    )
    if count is None or column is None or value is None:
        return None
    F = np.zeros((len(count), p, len(border)))
    block = np.repeat(np.arange(len(count)), count)
    F[block, :, column] = value
    return F.reshape(len(count) * p, len(border))
