"""Half sets: stable, balanced, each crystal on its own."""

from __future__ import annotations

import numpy as np

from sfxproc.merging.halves import half_of


def test_halves_never_change() -> None:
    names = ["run1.h5//0", "run1.h5//1", "run1.h5//2", "run2.stream//ä/7", "", "a", "b", "c"]
    assert half_of(names).tolist() == [1, 0, 0, 1, 0, 0, 1, 1]
    assert half_of(names).dtype == np.int8


def test_a_crystals_half_does_not_depend_on_the_others() -> None:
    names = [f"run.h5//{i}" for i in range(200)]
    whole = half_of(names)
    assert np.array_equal(np.concatenate([half_of(names[:37]), half_of(names[37:])]), whole)
    assert np.array_equal(half_of(names[::-1]), whole[::-1])


def test_halves_are_balanced_and_independent_of_order() -> None:
    half = half_of([f"run{i // 100}.h5//{i}" for i in range(20_000)]).astype(float)
    assert abs(half.mean() - 0.5) < 4 * 0.5 / np.sqrt(20_000)
    assert abs(np.corrcoef(half[1:], half[:-1])[0, 1]) < 4 / np.sqrt(20_000)


def test_no_crystals() -> None:
    assert len(half_of([])) == 0
