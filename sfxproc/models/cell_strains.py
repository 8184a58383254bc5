"""Changes of a unit cell that leave it within its crystal system, and cells told in their terms.

A cell near a target one, with B the target's (q = B h), has q = U (1 + S) B h with a small
symmetric strain S. It obeys the symmetry if S commutes with every rotation O = B W B⁻¹ of the point
group (W acts on columns h). Sⱼ, an orthonormal basis of such S, makes Tⱼ = B⁻¹ Sⱼ B, and a crystal
with A deformed by e has

    A (1 + Σⱼ eⱼ Tⱼ)

which obeys the symmetry exactly if A does. To first order, a crystal's own cell is at
cⱼ = tr Sⱼ E, E = ½ (B⁻ᵀ AᵀA B⁻¹ − 1).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F8 = NDArray[np.float64]


def strain_basis(rotations: NDArray[np.int8], B: F8) -> F8:
    """(k, 3, 3) Sⱼ of a point group: one for cubic, six for triclinic.

    rotations : (n, 3, 3), acting on rows of Miller indices. B : (3, 3) Å⁻¹ of a cell that obeys
    them.
    """
    W = np.swapaxes(rotations, 1, 2).astype(np.float64)
    O = B @ W @ np.linalg.inv(B)
    pairs = [(i, j) for i in range(3) for j in range(i, 3)]
    means = np.empty((6, 6))
    for n, (i, j) in enumerate(pairs):
        unit = np.zeros((3, 3))
        unit[i, j] = unit[j, i] = 1.0 if i == j else np.sqrt(0.5)
        mean = np.mean(O @ unit @ np.swapaxes(O, 1, 2), axis=0)
        means[n] = [mean[a, b] * (1.0 if a == b else np.sqrt(2.0)) for a, b in pairs]
    values, vectors = np.linalg.eigh(0.5 * (means + means.T))
    # a projector: its eigenvalues are 0 and 1
    chosen = vectors[:, values > 0.5].T
    out = np.zeros((len(chosen), 3, 3))
    for n, (i, j) in enumerate(pairs):
        part = chosen[:, n] * (1.0 if i == j else np.sqrt(0.5))
        out[:, i, j] = out[:, j, i] = part
    return out


def deformations(basis: F8, B: F8) -> F8:
    """(k, 3, 3) Tⱼ of Sⱼ."""
    return np.linalg.inv(B) @ basis @ B


def strains_of(A: F8, basis: F8, B: F8) -> F8:
    """(n, k) what the cells of A (n, 3, 3) differ from that of B by."""
    inverse = np.linalg.inv(B)
    E = 0.5 * (inverse.T @ (np.swapaxes(A, 1, 2) @ A) @ inverse - np.eye(3))
    return np.asarray(np.einsum("jab,nab->nj", basis, E))


def symmetrised(A: F8, rotations: NDArray[np.int8]) -> F8:
    """(n, 3, 3) A with the nearest cells that obey the symmetry, orientations as they are.

    The metric AᵀA is averaged over the group; A becomes U C, U the orthogonal part of A C⁻¹ and C
    a root of that metric.
    """
    W = np.swapaxes(rotations, 1, 2).astype(np.float64)
    metric = np.swapaxes(A, 1, 2) @ A
    mean = np.einsum("mji,njk,mkl->nil", W, metric, W) / len(W)
    C = np.swapaxes(np.linalg.cholesky(mean), 1, 2)
    u, _, v = np.linalg.svd(A @ np.linalg.inv(C))
    return np.asarray(u @ v @ C)
