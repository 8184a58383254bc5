"""Amplitudes and free flags that follow from merged intensities."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sfxproc.data import Derived, Floats, Merged, Reflections, packed_hkl
from sfxproc.merging.free_flags import free_flags
from sfxproc.merging.french_wilson import french_wilson
from sfxproc.merging.statistics import merge_friedel
from sfxproc.merging.wilson import IntensityShells, expected_intensity, intensity_shells
from sfxproc.symmetry import SpaceGroup


def derive(merged: Merged, group: SpaceGroup) -> Derived:
    """Amplitudes, of mates apart also of each, and free flags; a row for each distinct hkl."""
    table = merged.reflections
    mean = merge_friedel(merged).reflections
    shells = intensity_shells(mean)
    derived = Derived(free_flags(mean.hkl, group), _amplitudes(mean, shells))
    if not np.any(table.friedel):
        return derived
    each = _amplitudes(table, shells)
    row = np.searchsorted(packed_hkl(mean.hkl), packed_hkl(table.hkl))
    sides = np.full((2, 2, len(mean)), np.nan)
    for side, of in zip(sides, (table.friedel >= 0, table.friedel < 0), strict=True):
        side[:, row[of]] = each[:, of]
    return replace(derived, plus=sides[0], minus=sides[1])


def _amplitudes(table: Reflections, shells: IntensityShells) -> Floats:
    """F and σ(F), (2, n)."""
    assert table.intensity is not None
    assert table.sigma is not None
    expected = table.epsilon * expected_intensity(shells, table.s2)
    found = french_wilson(table.intensity, table.sigma, expected, table.centric)
    return np.stack([found.amplitude, found.sigma_amplitude])
