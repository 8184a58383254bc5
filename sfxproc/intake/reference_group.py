"""x"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sfxproc.data import ReferenceSet, Reflections
from sfxproc.formats.mtz_merged import inverse_variance_mean
from sfxproc.merging.shells import s2_of
from sfxproc.symmetry import SpaceGroup, reflections, unique_keys


def in_group(data: ReferenceSet, group: SpaceGroup, d_min_A: float | None = None) -> Reflections:
    """The set in the group's own asymmetric unit, equivalents averaged with weights 1/σ²."""
    given = data.reflections
    assert given.intensity is not None
    assert given.sigma is not None
    keys, row = np.unique(unique_keys(group, given.hkl, False), return_inverse=True)
    has_sigma = bool(np.all(given.sigma > 0))
    weights = given.sigma if has_sigma else np.ones(len(given))
    mean, sigma = inverse_variance_mean(row, len(keys), given.intensity, weights)
    table = reflections(group, data.cell, keys)
    table = replace(table, intensity=mean, sigma=sigma if has_sigma else None)
    return table.take(table.s2 <= s2_of(d_min_A)[0]) if d_min_A else table
