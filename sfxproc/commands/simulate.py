"""Synthetic stills with their truth, for `sfxproc simulate stills` and as a job's own input."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from sfxproc.config import Tree, apply_overrides, convert, source_of
from sfxproc.data import ReferenceSet
from sfxproc.errors import InputError
from sfxproc.formats.reference import intensities_from_model, read_reference
from sfxproc.intake.simulated import simulate as simulate  # the command's work
from sfxproc.simulate.settings import StillsSettings

MODEL_SUFFIXES = (".pdb", ".ent")
CIF_SUFFIXES = (".cif", ".mmcif")


def stills_settings(
    options: Tree, overrides: Sequence[str], source: Path | None
) -> tuple[StillsSettings, ReferenceSet | None]:
    """The settings, and the true intensities from a merged set or model if one is given.

    Space group and unit cell come from that file unless the options say otherwise. Raises
    ConfigError for a bad setting, InputError for a bad file.
    """
    tree = apply_overrides(options, overrides)
    settings = convert(tree, StillsSettings, source_of("the command line", overrides))
    if source is None:
        return settings, None
    reference = read_source(source, settings.d_min_A)
    cell = tuple(float(v) for v in reference.cell)
    from_file = {"space_group": reference.space_group, "unit_cell": cell}
    missing = {key: value for key, value in from_file.items() if key not in tree}
    return msgspec.structs.replace(settings, **missing), reference


def read_source(path: Path, d_min_A: float) -> ReferenceSet:
    """Intensities of a merged set (MTZ, mmCIF), or calculated from coordinates (PDB, mmCIF)."""
    suffix = path.suffix.lower()
    if suffix in MODEL_SUFFIXES or (suffix in CIF_SUFFIXES and not _holds_reflections(path)):
        return intensities_from_model(path, d_min_A)
    return read_reference(path)


def _holds_reflections(path: Path) -> bool:
    try:
        return "_refln." in path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(
            f"--from: '{path}' cannot be read: {error.strerror}. Give an MTZ, mmCIF or PDB file."
        ) from error
