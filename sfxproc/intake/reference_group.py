"""Merged sets of other programs in the asymmetric unit of the job's space group."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sfxproc.data import ReferenceSet
from sfxproc.errors import ConfigError
from sfxproc.formats.inputs import missing_file
from sfxproc.formats.reference import in_group, read_any_reference
from sfxproc.symmetry import (
    SpaceGroup,
    same_laue_group,
    space_group,
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
