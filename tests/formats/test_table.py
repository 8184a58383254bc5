"""Every format of the table carries a small data set there and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sfxproc.data import Stills
from sfxproc.formats import FORMATS
from sfxproc.formats.base import Format, Request

# what a format rounds A, wavelength and variance to; intensities return exactly
ROUNDING = {"native HDF5": 0.0, "DIALS": 1e-12, "unmerged MTZ": 1e-6, "CrystFEL stream": 1e-6}


@pytest.mark.parametrize("fmt", [f for f in FORMATS if f.write], ids=lambda f: f.name)
def test_round_trip(fmt: Format, small_stills: Stills, tmp_path: Path) -> None:
    assert fmt.write is not None
    path = tmp_path / f"data{fmt.suffixes[0]}"
    fmt.write(path, small_stills)
    again = fmt.read(path, Request("data"))

    relative = ROUNDING[fmt.name]
    before, after = small_stills.crystals, again.crystals
    assert len(after) == len(before) == again.n_images
    np.testing.assert_allclose(after.A, before.A, rtol=0, atol=relative * np.abs(before.A).max())
    np.testing.assert_allclose(after.wavelength_A, before.wavelength_A, rtol=relative)
    old, new = small_stills.observations, again.observations
    np.testing.assert_array_equal(new.crystal, old.crystal)
    np.testing.assert_array_equal(new.hkl, old.hkl)
    np.testing.assert_array_equal(new.intensity, old.intensity)
    np.testing.assert_allclose(new.variance, old.variance, rtol=relative)


def test_suffixes_are_distinct() -> None:
    suffixes = [s for f in FORMATS for s in f.suffixes]
    assert len(set(suffixes)) == len(suffixes)
    assert all(s.startswith(".") and s == s.lower() for s in suffixes)
