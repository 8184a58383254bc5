"""Fill-in: counted against dense elimination, against the formulas and against a printed table."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.fill_in_counts import (
    count_fill_in,
    distinct_pairs,
    filled_by_formula,
    images_first,
    linked_images,
    reflections_first,
)

# images, reflections and pairs, then parameters, non-zeros of the normal matrix and of its
# factor and their fractions in %, as printed in the talk for 1000, 2000 and 5000 images
PRINTED = [
    (1001, 53_962, 807_748, 55_964, 1_672_461, 3_618_497, "0.11", "0.23"),
    (2001, 139_277, 3_082_628, 143_279, 6_310_536, 14_171_257, "0.06", "0.14"),
    (5001, 162_693, 8_165_673, 172_695, 16_509_042, 66_346_347, "0.11", "0.44"),
]


@pytest.mark.parametrize(
    ("images", "reflections", "pairs", "parameters", "normal", "factor", "percent_A", "percent_L"),
    PRINTED,
)
def test_the_printed_table_to_the_digit(
    images: int,
    reflections: int,
    pairs: int,
    parameters: int,
    normal: int,
    factor: int,
    percent_A: str,
    percent_L: str,
) -> None:
    found = filled_by_formula(images, reflections, pairs)
    assert (found.parameters, found.normal, found.factor) == (parameters, normal, factor)
    assert f"{100 * found.normal_fraction:.2f}" == percent_A
    assert f"{100 * found.factor_fraction:.2f}" == percent_L


def structure(seed: int, images: int, reflections: int, share: float) -> tuple[np.ndarray, ...]:
    """Random pairs, every image and reflection at least once."""
    rng = np.random.default_rng(seed)
    shown = rng.random((images, reflections)) < share
    shown[rng.integers(images, size=reflections), np.arange(reflections)] = True
    shown[np.arange(images), rng.integers(reflections, size=images)] = True
    return tuple(np.nonzero(shown))


def eliminated(image: np.ndarray, reflection: np.ndarray, order: np.ndarray) -> tuple[int, int]:
    """Non-zeros of the upper triangle and of the factor, by elimination in a dense pattern."""
    n_i, n_g = reflection.max() + 1, image.max() + 1
    A = np.eye(n_i + 2 * n_g, dtype=bool)
    for m, h in zip(image, reflection, strict=True):
        A[h, n_i + m] = A[h, n_i + n_g + m] = A[n_i + m, n_i + n_g + m] = True
    A = (A | A.T)[np.ix_(order, order)]
    normal = int(np.triu(A).sum())
    for k in range(len(A)):
        below = k + 1 + np.flatnonzero(A[k + 1 :, k])
        A[np.ix_(below, below)] = True
    return normal, int(np.tril(A, -1).sum())


@pytest.mark.parametrize("share", [0.02, 0.1, 0.4])
@pytest.mark.parametrize("seed", range(6))
def test_counts_are_those_of_dense_elimination(seed: int, share: float) -> None:
    rng = np.random.default_rng(100 + seed)
    n_g, n_i = int(rng.integers(1, 14)), int(rng.integers(1, 30))
    image, reflection = structure(seed, n_g, n_i, share)
    orders = [reflections_first(n_g, n_i), images_first(n_g, n_i)]
    orders += [rng.permutation(n_i + 2 * n_g) for _ in range(4)]
    for order in orders:
        found = count_fill_in(image, reflection, order)
        assert (found.normal, found.factor) == eliminated(image, reflection, order)
    assert count_fill_in(image, reflection) == count_fill_in(image, reflection, orders[0])


def test_formulas_hold_when_everything_couples() -> None:
    image, reflection = structure(3, 12, 40, 0.5)
    assert linked_images(image, reflection) == 1.0
    assert count_fill_in(image, reflection) == filled_by_formula(12, 40, len(image))
    found = count_fill_in(image, reflection, images_first(12, 40))
    assert found == filled_by_formula(12, 40, len(image), reflections_last=True)


def test_formulas_are_upper_bounds_on_sparse_sets() -> None:
    image, reflection = structure(5, 60, 400, 0.01)
    bound = filled_by_formula(60, 400, len(image))
    found = count_fill_in(image, reflection)
    assert linked_images(image, reflection) < 1.0
    assert found.normal == bound.normal
    assert found.factor < bound.factor


def test_links_between_images() -> None:
    # 0 and 1 share reflection 5, 2 stands alone: one pair of three
    assert linked_images(np.array([0, 0, 1, 2]), np.array([5, 6, 5, 7])) == pytest.approx(1 / 3)
    assert linked_images(np.array([4]), np.array([2])) == 1.0


def test_repeated_pairs_and_gaps_in_the_numbers_do_not_count() -> None:
    image, reflection = np.array([7, 7, 7, 2, 2]), np.array([10, 10, 30, 30, 99])
    m, h = distinct_pairs(image, reflection)
    assert list(zip(m, h, strict=True)) == [(0, 1), (0, 2), (1, 0), (1, 1)]
    found = count_fill_in(image, reflection)
    assert (found.images, found.reflections, found.pairs) == (2, 3, 4)


def test_nothing_observed() -> None:
    nothing = np.zeros(0, dtype=np.int64)
    found = count_fill_in(nothing, nothing)
    assert (found.parameters, found.normal, found.factor) == (0, 0, 0)


def test_what_is_no_order_is_refused() -> None:
    with pytest.raises(ValueError, match="not a permutation of the 6 parameters"):
        count_fill_in(np.array([0, 1]), np.array([0, 1]), np.array([0, 1, 2, 3, 4, 4]))
    with pytest.raises(ValueError, match="2 image numbers but 1 reflection"):
        count_fill_in(np.array([0, 1]), np.array([0]))
