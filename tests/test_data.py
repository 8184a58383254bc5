"""Tables: rows chosen, lengths checked, put together."""

from __future__ import annotations

import numpy as np
import pytest

from sfxproc.data import Observations, concatenate, packed_hkl


def observations(n: int, partial: bool = False) -> Observations:
    return Observations(
        crystal=np.arange(n, dtype=np.int32),
        hkl=np.arange(3 * n, dtype=np.int16).reshape(n, 3),
        intensity=np.linspace(1.0, 2.0, n, dtype=np.float32),
        variance=np.ones(n, dtype=np.float32),
        partiality=np.full(n, 0.5, dtype=np.float32) if partial else None,
    )


def test_columns_must_be_of_one_length() -> None:
    with pytest.raises(ValueError, match="unequal length"):
        Observations(*(np.empty(n) for n in (3, 3, 2, 3)))


def test_rows_by_mask_index_and_slice() -> None:
    table = observations(4, partial=True)
    mask = np.array([False, True, False, True])
    for rows in (mask, np.array([1, 3]), slice(1, 4, 2)):
        assert table.take(rows).crystal.tolist() == [1, 3]
        assert len(table.take(rows)) == 2
    assert table.take(np.ones(4, dtype=bool)) is table
    with pytest.raises(IndexError):
        table.take(np.ones(3, dtype=bool))


def test_a_column_missing_in_one_part_is_missing_in_the_whole() -> None:
    whole = concatenate([observations(2, partial=True), observations(3)])
    assert len(whole) == 5
    assert whole.partiality is None
    assert concatenate([observations(2, partial=True)] * 2).partiality is not None


def test_packed_indices_sort_as_h_k_l() -> None:
    hkl = np.array([[-2, 5, 5], [-1, -9, 0], [-1, 0, -3], [0, 0, 0], [0, 0, 1], [3, -8, -8]])
    assert np.all(np.diff(packed_hkl(hkl)) > 0)
