"""DIALS files of real experiments."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sfxproc.data import OPTIONAL_COLUMNS, Reason
from sfxproc.errors import InputError
from sfxproc.formats import dials
from sfxproc.formats.base import Request

EVERYTHING = Request("x", frozenset(OPTIONAL_COLUMNS))


@pytest.mark.parametrize(
    ("name", "n_crystals", "n_rows", "n_panels", "counts", "note"),
    [
        ("LD91_lysozyme_300xtal.expt", 300, 8790, 64, {}, "strong spots"),
        ("thermolysin_10xtal_multi_stills.refl", 10, 1167, 64, {}, "strong spots"),
        ("ssx_CuNiR/integrated.expt", 5, 4482, 1, {Reason.NOT_INTEGRATED: 721}, "summed"),
        ("ssx_CuNiR/indexed.refl", 5, 360, 1, {}, "shoebox"),
    ],
)
def test_experimental_stills(
    shared_data: Path,
    tmp_path: Path,
    name: str,
    n_crystals: int,
    n_rows: int,
    n_panels: int,
    counts: dict[Reason, int],
    note: str,
) -> None:
    stills = dials.read(shared_data / "stills" / name, EVERYTHING)
    crystals, obs, detector = stills.crystals, stills.observations, stills.detector
    assert (len(crystals), len(obs), stills.n_images) == (n_crystals, n_rows, n_crystals)
    assert stills.counts == counts
    assert any(note in text for text in stills.notes)
    assert np.all(np.diff(obs.crystal) >= 0)

    # A, beam and panels agree: the predicted ray meets the panel where the spot was seen
    assert detector is not None
    assert obs.panel is not None
    assert obs.x_px is not None
    assert obs.y_px is not None
    assert len(detector) == n_panels
    q = np.einsum("nij,nj->ni", crystals.A[obs.crystal], obs.hkl.astype(float))
    s1 = q + (crystals.beam / crystals.wavelength_A[:, None])[obs.crystal]
    position = np.column_stack([obs.x_px, obs.y_px]) * detector.pixel_mm[obs.panel]
    spot = detector.origin_mm[obs.panel] + np.einsum(
        "na,nai->ni", position, np.stack([detector.fast, detector.slow], axis=1)[obs.panel]
    )
    cosine = np.sum(s1 * spot, axis=1) / np.linalg.norm(s1, axis=1) / np.linalg.norm(spot, axis=1)
    assert np.degrees(np.median(np.arccos(np.minimum(cosine, 1.0)))) < 0.15

    dials.write(tmp_path / "again.expt", stills)
    again = dials.read(tmp_path / "again.expt", EVERYTHING)
    for name, column in obs.columns().items():
        np.testing.assert_array_equal(again.observations.columns()[name], column, err_msg=name)


def test_experimental_rotation_data_is_noted(shared_data: Path) -> None:
    stills = dials.read(shared_data / "rotation" / "quartz" / "indexed.expt", Request("quartz"))
    assert (len(stills.crystals), len(stills.observations), stills.n_images) == (1, 444, 100)
    assert stills.counts == {Reason.NOT_INDEXED: 61}
    assert any("rotation" in note for note in stills.notes)


def test_experimental_spots_without_indices(shared_data: Path) -> None:
    with pytest.raises(InputError, match="no column 'miller_index'"):
        dials.read(shared_data / "spots" / "i24_lyso_4still_strong.refl", Request("spots"))
