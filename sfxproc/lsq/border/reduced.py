"""The dense system that is left of a problem when all but the border is eliminated.

    S z = b      scaled by h = √diag H of before elimination:   A = S/(h hᵀ),  A (h z) = b/h

In these units every eigenvalue tells what part of a combination's curvature elimination left. The
combinations whose eigenvalue is below the largest one divided by CONDITION_LIMIT are a gauge: the
data (and priors) do not tell them from other parameters. They are held: a step has no component
along them in these units (the shortest solution), and their variance is zero.

A Cholesky factor is taken where its condition allows; eigenvectors are worked out only where it
does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh, get_lapack_funcs

from sfxproc.lsq.problem import F8

CONDITION_LIMIT = 1e10
SAFE = 1e-2  # of what the limit is on a condition estimate: the estimate's own error


@dataclass(frozen=True, eq=False)
class Reduced:
    """S (k, k), h (k,) and which parameters take part: those that are free and have rows."""

    S: F8
    scale: F8
    used: NDArray[np.bool_]

    @classmethod
    def of(cls, S: F8, diagonal: F8, free: NDArray[np.bool_]) -> Reduced:
        """Of S, and the diagonal of H before elimination."""
        used = free & (diagonal != 0.0)
        with np.errstate(invalid="ignore"):
            scale = np.where(used, np.sqrt(np.where(used, diagonal, 1.0)), 1.0)
        return cls(S, scale, used)

    def factor(self) -> Cholesky | Spectrum | None:
        """What solves S z = b; None if S is indefinite or not finite."""
        A = self._scaled()
        if not len(A):
            return Cholesky(A, self.scale, self.used)
        potrf, pocon, lange = get_lapack_funcs(("potrf", "pocon", "lange"), (A,))
        norm = lange("1", A)
        if not np.isfinite(norm):
            return None
        # a symmetric matrix is its own transpose: in Fortran's order it is factored in place
        factor, info = potrf(A.T, lower=1, clean=0, overwrite_a=1)
        if info == 0:
            reciprocal, _ = pocon(factor, norm, uplo="L")
            if reciprocal * CONDITION_LIMIT * SAFE > 1.0:
                return Cholesky(factor, self.scale, self.used)
        del factor, A
        values, vectors = eigh(self._scaled(), driver="evd", overwrite_a=True)
        limit = values[-1] / CONDITION_LIMIT
        if not values[0] >= -limit:
            return None
        kept = values > limit
        return Spectrum(values[kept], vectors[:, kept], vectors[:, ~kept], self.scale, self.used)

    def _scaled(self) -> F8:
        """A, and 1 on the diagonal for what takes no part."""
        A = self.S / self.scale
        A /= self.scale[:, None]
        out = np.flatnonzero(~self.used)
        A[out] = 0.0
        A[:, out] = 0.0
        A[out, out] = 1.0
        return A


@dataclass(frozen=True, eq=False)
class Cholesky:
    """The factor of A, lower triangle."""

    L: F8
    scale: F8
    used: NDArray[np.bool_]

    @property
    def gauge(self) -> F8:
        """(k, 0): nothing is held."""
        return np.zeros((len(self.scale), 0))

    def solve(self, b: F8) -> F8:
        """z with S z = b; zero where a parameter takes no part."""
        if not len(b):
            return b
        (potrs,) = get_lapack_funcs(("potrs",), (self.L,))
        x, _ = potrs(self.L, np.where(self.used, b / self.scale, 0.0), lower=1)
        return np.asarray(x / self.scale)

    def inverse(self) -> F8:
        """(k, k) S⁻¹; zero where a parameter takes no part."""
        if not len(self.L):
            return self.L
        (potri,) = get_lapack_funcs(("potri",), (self.L,))
        V, _ = potri(self.L, lower=1)
        V = np.tril(V) + np.tril(V, -1).T
        return _unscaled(V, self.scale, self.used)


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigenvalues and eigenvectors of A that are kept, and the eigenvectors that are held."""

    values: F8
    vectors: F8
    held: F8
    scale: F8
    used: NDArray[np.bool_]

    @property
    def gauge(self) -> F8:
        """(k, n) combinations of the parameters that are held."""
        return np.asarray(self.held / self.scale[:, None])

    def solve(self, b: F8) -> F8:
        """The shortest z with S z = b, but for what of b is along the gauge."""
        b = np.where(self.used, b / self.scale, 0.0)
        return np.asarray(self.vectors @ ((self.vectors.T @ b) / self.values) / self.scale)

    def inverse(self) -> F8:
        """(k, k) the inverse where the gauge is held; zero where a parameter takes no part."""
        V = (self.vectors / self.values) @ self.vectors.T
        return _unscaled(V, self.scale, self.used)


def _unscaled(V: F8, scale: F8, used: NDArray[np.bool_]) -> F8:
    V = V / scale
    V /= scale[:, None]
    V[~used] = 0.0
    V[:, ~used] = 0.0
    return V
