"""Size of the scaling problem's normal matrix and of its Cholesky factor, from structure alone.

The unknowns are N_I intensities and a scale G and a B of each of N_G images; P is the number of
distinct (image, reflection) pairs. The I–I block is diagonal, G and B of an image meet only each
other, and each pair couples its I to both:

    N = N_I + 2 N_G        nnz(A) = N_I + 3 N_G + 2 P            upper triangle with the diagonal

Eliminating the intensities first couples the images that share a reflection. If every two images
are coupled, directly or through others by the time they are eliminated, the factor has

    nnz(L) = 2 P + N_G (2 N_G − 1)                               strictly below the diagonal

Eliminating the images first instead couples all reflections of an image; if these end up all
coupled, nnz(L) = 2 P + N_G + N_I (N_I − 1)/2. Both are upper bounds, met on all but the smallest
or sparsest sets; `count_fill_in` counts exactly, by symbolic factorisation (kernels.elimination).

As in the tables of the sparse solvers, fractions are of N (N + 1)/2, one triangle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from sfxproc.kernels.elimination import column_counts, elimination_tree, postorder

Ints = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class FillIn:
    """normal: non-zeros of the upper triangle of A with the diagonal; factor: of L strictly
    below the diagonal."""

    images: int
    reflections: int
    pairs: int
    factor: int

    @property
    def parameters(self) -> int:
        """N."""
        return self.reflections + 2 * self.images

    @property
    def normal(self) -> int:
        """Non-zeros of the normal matrix, upper triangle with the diagonal."""
        return self.reflections + 3 * self.images + 2 * self.pairs

    @property
    def triangle(self) -> int:
        """Elements of one triangle with the diagonal."""
        return self.parameters * (self.parameters + 1) // 2

    @property
    def normal_fraction(self) -> float:
        """Of the triangle, for the normal matrix."""
        return self.normal / self.triangle

    @property
    def factor_fraction(self) -> float:
        """Of the triangle, for the factor."""
        return self.factor / self.triangle


def filled_by_formula(
    images: int, reflections: int, pairs: int, reflections_last: bool = False
) -> FillIn:
    """Counts for a structure whose images (or, with reflections_last, reflections) all couple."""
    factor = 2 * pairs + images * (2 * images - 1)
    if reflections_last:
        factor = 2 * pairs + images + reflections * (reflections - 1) // 2
    return FillIn(images, reflections, pairs, factor)


def distinct_pairs(image: Ints, reflection: Ints) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The distinct pairs, with images and reflections that occur renumbered 0, 1, 2 …

    image, reflection : (n,) of each observation.
    """
    if len(image) != len(reflection):
        raise ValueError(f"{len(image)} image numbers but {len(reflection)} reflection numbers")
    m = np.unique(image, return_inverse=True)[1].astype(np.int64)
    h, n = np.unique(reflection, return_inverse=True)
    pair = np.unique(m * len(h) + n)
    return pair // max(len(h), 1), pair % max(len(h), 1)


def reflections_first(n_images: int, n_reflections: int) -> NDArray[np.int64]:
    """The order that keeps the arrow: all I, then all G, then all B. See `count_fill_in`."""
    return np.arange(n_reflections + 2 * n_images)


def images_first(n_images: int, n_reflections: int) -> NDArray[np.int64]:
    """All G, then all B, then all I."""
    return np.roll(reflections_first(n_images, n_reflections), 2 * n_images)


def count_fill_in(image: Ints, reflection: Ints, order: Ints | None = None) -> FillIn:
    """Exact counts for a given structure and elimination order.

    image, reflection : (n,) of each observation; repeated pairs and unused numbers do not matter.
    order : (N,) the parameters in the order of their elimination, numbered I, then G, then B, as
    `distinct_pairs` renumbers them; all I first if not given. Raises ValueError if it is not a
    permutation. Time grows about as nnz(A), whatever nnz(L).
    """
    image, reflection = distinct_pairs(image, reflection)
    n_images = int(image.max(initial=-1)) + 1
    n_reflections = int(reflection.max(initial=-1)) + 1
    n = n_reflections + 2 * n_images
    if order is None:
        order = reflections_first(n_images, n_reflections)
    if not np.array_equal(np.sort(order), np.arange(n)):
        raise ValueError(f"the order is not a permutation of the {n} parameters")
    place = np.empty(n, dtype=np.int64)
    place[order] = np.arange(n)
    g = n_reflections + np.arange(n_images)
    one = place[np.concatenate([reflection, reflection, g])]
    other = place[np.concatenate([g[image], g[image] + n_images, g + n_images])]
    entries = (np.ones(len(one), dtype=np.int8), (np.maximum(one, other), np.minimum(one, other)))
    lower = sparse.coo_array(entries, shape=(n, n))
    by_row, by_column = lower.tocsr(), lower.tocsc()
    parent = elimination_tree(by_row.indptr, by_row.indices)
    counts = column_counts(by_column.indptr, by_column.indices, parent, postorder(parent))
    return FillIn(n_images, n_reflections, len(image), int(counts.sum()))


def linked_images(image: Ints, reflection: Ints) -> float:
    """Fraction of the pairs of images that have a reflection in common: how full the Schur
    complement is once the intensities are eliminated. 1 for fewer than two images."""
    image, reflection = distinct_pairs(image, reflection)
    n = int(image.max(initial=-1)) + 1
    if n < 2:
        return 1.0
    shows = sparse.csr_array((np.ones(len(image), dtype=np.int32), (image, reflection)))
    linked = (shows @ shows.T).nnz - n
    return float(linked / (n * (n - 1)))
