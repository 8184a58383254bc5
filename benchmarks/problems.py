"""Synthetic scaling problems of the sizes in the talk on scaling stills, with their truth.

    y = exp(ln G_m − 2 B_m s_h²) I_h,   I_obs = y + z √V,   V = y + BACKGROUND,   z ~ N(0, 1)

Full intensities, counting noise. I is exponentially distributed about exp(−2 WILSON_B s²), ln G
and B are normal. The common factor of all I is set so that mean(y)/mean(√y) is the I/σ asked
for: at 143, 45 and 4.6 the signal falls by 10 and 100, as when a beam is attenuated.

Reflections fill the sphere from D_MAX_A to the resolution that their number implies (N ∝ s³, with
FULL_REFLECTIONS at FULL_D_MIN_A): the talk's smaller sets stop at low resolution, where B hardly
shows. An image shows the same number of distinct ones as every other, drawn with a density ∝ s in
s, the law of the Ewald sphere: reflections of low resolution are seen more often. Each reflection
is seen by at least one image.

Random streams are keyed by (seed, purpose, block of images); the same case gives the same arrays.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

F8 = NDArray[np.float64]
F4 = NDArray[np.float32]

FULL_D_MIN_A, D_MAX_A = 2.9, 240.0
WILSON_B_A2 = 20.0
SIGMA_LN_G, SIGMA_B_A2 = 0.5, 5.0
BACKGROUND = 1.0  # counts
BLOCK = 500  # images made at once
FULL_REFLECTIONS, FULL_PER_IMAGE = 162_693, 1633  # the talk's 5000 images

WEIGHTS = ("given", "noisy", "counting")


@dataclass(frozen=True)
class Case:
    """Sizes of a problem."""

    images: int
    reflections: int
    observations: int

    @property
    def parameters(self) -> int:
        """All I, G and B."""
        return self.reflections + 2 * self.images


CASES = {
    "tiny": Case(40, 300, 4_000),
    # the talk's table: observations follow from the printed non-zeros of the normal matrix
    "200": Case(200, 384, 4_289),
    "300": Case(300, 1_282, 16_713),
    "500": Case(500, 6_381, 90_272),  # 7,383 parameters: the fractions of its row need them
    "800": Case(800, 25_000, 372_000),  # not in the table: between its neighbours
    "1000": Case(1000, 53_962, 807_748),
    "2000": Case(2000, 139_277, 3_082_628),
    "5000": Case(5000, FULL_REFLECTIONS, 8_165_673),
    # 161,022 parameters
    "500-full": Case(500, 160_022, 806_000),
}


def case_of(name: str) -> Case:
    """A named case, or 'N-full': N images at the resolution of the talk's 5000."""
    if name in CASES:
        return CASES[name]
    images, dash, full = name.partition("-")
    if not (images.isdigit() and dash and full == "full" and int(images) >= 500):
        raise ValueError(
            f"'{name}' is no case: give one of {', '.join(CASES)}, or N-full with N of 500 or more"
        )
    return Case(int(images), FULL_REFLECTIONS, int(images) * FULL_PER_IMAGE)


@dataclass(frozen=True, eq=False)
class Problem:
    """Observations grouped by image and, within one, sorted by reflection, and the truth.

    start : (images + 1,) first observation of each image. reflection : (n,) int32. observed,
    variance : (n,) float32. s2 : (reflections,) (sinθ/λ)², Å⁻². ln_G, B : (images,).
    I : (reflections,).
    """

    start: NDArray[np.int64]
    reflection: NDArray[np.int32]
    observed: F4
    variance: F4
    s2: F8
    ln_G: F8
    B: F8
    I: F8

    @property
    def image(self) -> NDArray[np.int32]:
        """(n,) image of each observation."""
        return np.repeat(np.arange(len(self.ln_G), dtype=np.int32), np.diff(self.start))

    def save(self, path: str) -> None:
        """Arrays for a program of another interpreter."""
        np.savez(path, image=self.image, **self.__dict__)


def make(case: Case, i_over_sigma: float, weights: str = "given", seed: int = 1) -> Problem:
    """A problem with its noise.

    weights : what `variance` is: 'given' V itself; 'noisy' max(|I_obs|, 1), σ taken to be
    √|I_obs|; 'counting' max(I_obs, 0) + BACKGROUND, what an integrating program tells, of which
    a model may make better use.
    """
    seen = structure(case, seed)
    start, reflection = seen.start, seen.reflection
    rng = np.random.default_rng([seed, 1])
    s2 = resolutions(case.reflections)
    ln_G = rng.normal(0.0, SIGMA_LN_G, case.images)
    B = rng.normal(0.0, SIGMA_B_A2, case.images)
    I = rng.exponential(size=case.reflections) * np.exp(-2.0 * WILSON_B_A2 * s2)

    def expected(first: int, last: int) -> F8:
        h = reflection[start[first] : start[last]]
        n = np.diff(start[first : last + 1])
        y = np.exp(np.repeat(ln_G[first:last], n) - 2.0 * np.repeat(B[first:last], n) * s2[h])
        return np.asarray(y * I[h])

    sums = np.array(
        [(y.sum(), np.sqrt(y).sum()) for y in (expected(*b) for b in blocks(case.images))]
    )
    total, root = sums.sum(axis=0)
    I *= (i_over_sigma * root / total) ** 2
    observed = np.empty(len(reflection), dtype=np.float32)
    variance = np.full(len(reflection), BACKGROUND, dtype=np.float32)
    for first, last in blocks(case.images):
        rows = slice(start[first], start[last])
        y = expected(first, last)
        z = np.random.default_rng([seed, 2, first]).standard_normal(len(y))
        observed[rows] = y + z * np.sqrt(y + BACKGROUND)
        if weights == "given":
            variance[rows] = y + BACKGROUND
        elif weights == "noisy":
            variance[rows] = np.maximum(np.abs(observed[rows]), 1.0)
        else:
            variance[rows] += np.maximum(observed[rows], 0.0)
    return Problem(start, reflection, observed, variance, s2, ln_G, B, I)


@dataclass(frozen=True, eq=False)
class Structure:
    """Which image shows which reflections; see `Problem`."""

    start: NDArray[np.int64]
    reflection: NDArray[np.int32]

    @property
    def image(self) -> NDArray[np.int64]:
        """(n,) image of each observation."""
        return np.repeat(np.arange(len(self.start) - 1), np.diff(self.start))


def structure(case: Case, seed: int = 1) -> Structure:
    """The structure of a case."""
    shown = np.full(case.images, case.observations // case.images)
    shown[: case.observations % case.images] += 1
    start = np.concatenate([[0], np.cumsum(shown)])
    reflection = np.empty(case.observations, dtype=np.int32)
    for first, last in blocks(case.images):
        rng = np.random.default_rng([seed, 0, first])
        for m in range(first, last):
            reflection[start[m] : start[m + 1]] = draw(rng, case.reflections, shown[m])
    show_every_one(np.random.default_rng([seed, 3]), start, reflection, case.reflections)
    return Structure(start, reflection)


def blocks(images: int) -> Iterator[tuple[int, int]]:
    """First and last + 1 image of each block."""
    for first in range(0, images, BLOCK):
        yield first, min(first + BLOCK, images)


def s_limits(n: int) -> tuple[float, float]:
    """Lowest and highest s of n reflections, Å⁻¹."""
    return 0.5 / D_MAX_A, 0.5 / FULL_D_MIN_A * (n / FULL_REFLECTIONS) ** (1.0 / 3.0)


def resolutions(n: int) -> F8:
    """s² of n reflections that fill the sphere evenly."""
    low, high = (s**3 for s in s_limits(n))
    return np.asarray((low + (np.arange(n) + 0.5) / n * (high - low)) ** (2.0 / 3.0))


def draw(rng: np.random.Generator, n: int, wanted: int) -> NDArray[Any]:
    """`wanted` distinct ones of n reflections, in order, with the density of the Ewald sphere."""
    low, high = s_limits(n)
    found = np.empty(0, dtype=np.int64)
    while len(found) < wanted:
        s = np.sqrt(low**2 + rng.random(wanted - len(found) + 16) * (high**2 - low**2))
        h = (n * (s**3 - low**3) / (high**3 - low**3)).astype(np.int64)
        found = np.union1d(found, np.minimum(h, n - 1))
    if len(found) > wanted:
        found = np.sort(rng.choice(found, wanted, replace=False))
    return found


def show_every_one(
    rng: np.random.Generator, start: NDArray[Any], reflection: NDArray[Any], n: int
) -> None:
    """Give each reflection no image shows an observation of one that several show, in place."""
    shown = np.bincount(reflection, minlength=n)
    missing = np.flatnonzero(shown == 0)
    rows = rng.permutation(len(reflection))
    rows = rows[shown[reflection[rows]] >= 3]
    rows = rows[np.unique(reflection[rows], return_index=True)[1]]  # one of each: still ≥ 2 left
    if len(rows) < len(missing):
        raise ValueError("too few observations for each reflection to be seen")
    rows = rng.permutation(rows)[: len(missing)]
    reflection[rows] = missing
    for m in np.unique(np.searchsorted(start, rows, side="right") - 1):
        reflection[start[m] : start[m + 1]].sort()
