"""Merged sets of other programs in the asymmetric unit of the job's space group."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from sfxproc.data import ReferenceSet, Reflections
from sfxproc.errors import ConfigError
from sfxproc.formats.inputs import missing_file
from sfxproc.formats.mtz_merged import inverse_variance_mean
from sfxproc.formats.reference import read_any_reference
from sfxproc.merging.shells import s2_of
from sfxproc.symmetry import (
    SpaceGroup,
    reflections,
    same_laue_group,
    space_group,
    unique_keys,
)

MODEL_D_MIN_A = 2.0  # to which a reference is calculated from coordinates, without another limit


def reference_in_group(
    name: str, setting: str, group: SpaceGroup, d_min_A: float | None = None
) -> ReferenceSet:
    """The reference that a setting names, in the job's own asymmetric unit; from coordinates it is
    calculated to d_min_A.

    Raises InputError if it cannot be read, ConfigError if its Laue group is another.
    """
    path = Path(name).expanduser()
    if not path.is_file():
        raise missing_file(path.absolute(), f"{setting}: '{path}'")
    reference = read_any_reference(path, d_min_A or MODEL_D_MIN_A)
    theirs = space_group(reference.space_group)
    if not same_laue_group(group, theirs):
        raise ConfigError(
            f"The reference '{reference.path}' has space group {theirs.hm} (Laue class "
            f"{theirs.laue_class}), the job {group.hm} ({group.laue_class}): their reflections "
            f"cannot be matched. Correct symmetry.space_group or choose another {setting}."
        )
    return replace(reference, space_group=group.hm, reflections=in_group(reference, group))


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
