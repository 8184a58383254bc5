"""Merged intensities from a file, measured (MTZ, mmCIF, CrystFEL's .hkl) or calculated from
coordinates.

Measured: the mean intensity, otherwise I(+) and I(−), otherwise amplitudes F as I = F² with
σ(I) = 2 F σ(F). Equivalent and Friedel-related rows are averaged with weights 1/σ².
Calculated: I = |F_c|² of the plain atoms, without bulk solvent, from the electron density on a
grid (Ten Eyck, Acta Cryst. A33, 486, 1977; gemmi).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import gemmi
import numpy as np

from sfxproc.data import Floats, Ints, ReferenceSet, Reflections
from sfxproc.errors import InputError
from sfxproc.formats.crystfel_hkl import read_hkl
from sfxproc.formats.inputs import missing_file
from sfxproc.formats.mtz import column_list, find_pair, open_mtz
from sfxproc.formats.mtz_merged import inverse_variance_mean
from sfxproc.formats.soundness import MAX_INDEX
from sfxproc.symmetry import (
    SpaceGroup,
    possible,
    reflections,
    space_group,
    unique_keys,
)

# what a merged set may call its values, best first
MTZ_INTENSITIES = ("IMEAN", "I", "IOBS", "Iobs", "I-obs", "F2", "FSQ")
MTZ_AMPLITUDES = ("F", "FP", "FMEAN", "FOBS", "Fobs", "F-obs", "F-obs-filtered")
MTZ_SIDES = (("I(+)", "I(-)"), ("IOBS(+)", "IOBS(-)"), ("I-obs(+)", "I-obs(-)"))
CIF_INTENSITIES = (
    ("intensity_meas", "intensity_sigma"),
    ("F_squared_meas", "F_squared_sigma"),
)
CIF_SIDES = (("pdbx_I_plus", "pdbx_I_plus_sigma"), ("pdbx_I_minus", "pdbx_I_minus_sigma"))
CIF_AMPLITUDES = (("F_meas_au", "F_meas_sigma_au"), ("F_meas", "F_meas_sigma"))

TEXT_SUFFIXES = (".cif", ".mmcif", ".ent")  # of structure factors or coordinates
MODEL_MARKS = ("_atom_site.", "CRYST1")


@dataclass(frozen=True)
class _Measured:
    """Rows as a file has them: hkl (n, 3), value (n,), sigma (n,) or None if not recorded, and the
    names of their columns."""

    hkl: Ints
    value: Floats
    sigma: Floats | None
    columns: str
    amplitude: bool = False


def read_any_reference(path: Path, d_min_A: float) -> ReferenceSet:
    """Read a merged set, or calculate one to d_min_A (Å) if the file holds coordinates.

    Raises InputError as `read_reference` and `intensities_from_model` do.
    """
    return intensities_from_model(path, d_min_A) if holds_model(path) else read_reference(path)


def holds_model(path: Path) -> bool:
    """Whether a file holds coordinates: by its suffix or, where either may be meant, by its text.

    Raises InputError if it is missing or cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix not in TEXT_SUFFIXES:
        return suffix == ".pdb"
    if not path.is_file():
        raise missing_file(path, "The reference")
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(
            f"'{path}' cannot be read: {error.strerror}. Give an MTZ, mmCIF or PDB file."
        ) from error
    return "_refln." not in text and any(mark in text for mark in MODEL_MARKS)


def read_reference(
    path: Path, group: str | None = None, cell: Floats | None = None
) -> ReferenceSet:
    """Read a merged set: `.mtz`, mmCIF structure factors, or a CrystFEL list (`.hkl`).

    group, cell : of a CrystFEL list, which has neither. Calculated values (FC, F-model …) are not
    taken for measured ones. σ is NaN where the file records none. Rows without a value, or with a σ
    that is not positive, are dropped. Raises InputError if the file is missing, damaged, unmerged
    or has no usable column.
    """
    if not path.is_file():
        raise missing_file(path, "The merged set")
    suffixes = [s.lower() for s in path.suffixes]
    if ".mtz" in suffixes:
        return _reference(path, *_read_mtz(path))
    if set(TEXT_SUFFIXES) & set(suffixes):
        return _reference(path, *_read_cif(path))
    if suffixes[-1:] != [".hkl"]:
        raise InputError(
            f"'{path}' has no suffix of a merged set. Give an MTZ (.mtz), mmCIF structure factors "
            "(.cif, .mmcif, .ent) or a CrystFEL list (.hkl)."
        )
    hkl, intensity, sigma, _ = read_hkl(path)
    if group is None or cell is None:
        raise InputError(
            f"'{path}' is a CrystFEL list, which tells neither space group nor unit cell. Give "
            "them with --space-group and --unit-cell, or compare it with a file that has them."
        )
    return _reference(path, group, cell, _Measured(hkl, intensity, sigma, "I, sigma(I)"))


def _reference(path: Path, group: str, cell: Floats, rows: _Measured) -> ReferenceSet:
    value = rows.value.astype(np.float64)
    sigma = np.ones(len(value)) if rows.sigma is None else rows.sigma.astype(np.float64)
    good = np.isfinite(value) & np.isfinite(sigma) & (sigma > 0) & np.any(rows.hkl != 0, axis=1)
    good &= np.all(np.abs(rows.hkl.astype(np.int64)) <= MAX_INDEX, axis=1)
    hkl, value, sigma = rows.hkl[good], value[good], sigma[good]
    if not len(value):
        raise InputError(
            f"'{path}' has no reflection with a value and a positive sigma. Check "
            "that it is a measured data set."
        )
    if rows.amplitude:
        value, sigma = value**2, 2.0 * np.abs(value) * sigma if rows.sigma is not None else sigma
    sg = space_group(group)
    keys, index = np.unique(unique_keys(sg, hkl, anomalous=False), return_inverse=True)
    mean, mean_sigma = inverse_variance_mean(index, len(keys), value, sigma)
    if rows.sigma is None:
        mean_sigma = np.full(len(keys), np.nan)
    table = replace(reflections(sg, cell, keys), intensity=mean, sigma=mean_sigma)
    return ReferenceSet(str(path), sg.hm, cell, table.take(np.isfinite(mean)), rows.columns)


def _require_cell(path: Path, cell: gemmi.UnitCell) -> Floats:
    if not cell.is_crystal():
        raise InputError(f"'{path}' gives no unit cell. Add it to the file, or give another one.")
    return np.array(cell.parameters)


def _read_mtz(path: Path) -> tuple[str, Floats, _Measured]:
    mtz = open_mtz(path)
    if mtz.batches or "BATCH" in mtz.column_labels():
        raise InputError(
            f"'{path}' is an unmerged MTZ (it has batches). Merge it first, or "
            "give it in input.paths if it is to be scaled."
        )
    hkl = mtz.make_miller_array()
    data = mtz.array

    def rows(pair: tuple[int, int | None], amplitude: bool = False) -> _Measured:
        value, sigma = pair
        names = ", ".join(mtz.columns[i].label for i in pair if i is not None)
        known = None if sigma is None else data[:, sigma]
        return _Measured(hkl, data[:, value], known, names, amplitude)

    found = None
    if pair := find_pair(mtz, "J", MTZ_INTENSITIES):
        found = rows(pair)
    elif sides := _mtz_sides(mtz):
        found = _stack([rows(side) for side in sides])
    elif pair := find_pair(mtz, "F", MTZ_AMPLITUDES):
        found = rows(pair, amplitude=True)
    if found is None:
        raise InputError(
            f"'{path}' has no mean intensity (type J), I(+) and I(-) (K) or "
            "amplitude (F) that was measured, not calculated. Its columns: "
            f"{column_list(mtz)}. Give a file with merged intensities."
        )
    group = mtz.spacegroup
    assert group is not None  # open_mtz sees to it
    return group.xhm(), _require_cell(path, mtz.cell), found


def _mtz_sides(mtz: gemmi.Mtz) -> list[tuple[int, int | None]]:
    labels = [c.label for c in mtz.columns if c.type == "K"]
    pairs = [*MTZ_SIDES, tuple(labels[:2])]
    chosen = next((p for p in pairs if len(p) == 2 and set(p) <= set(labels)), None)
    found = [find_pair(mtz, "K", (label,)) for label in chosen or ()]
    return [pair for pair in found if pair is not None]


def _stack(parts: list[_Measured]) -> _Measured:
    sigmas = [p.sigma for p in parts if p.sigma is not None]
    return _Measured(
        np.concatenate([p.hkl for p in parts]),
        np.concatenate([p.value for p in parts]),
        np.concatenate(sigmas) if len(sigmas) == len(parts) else None,
        ", ".join(p.columns for p in parts),
    )


def _read_cif(path: Path) -> tuple[str, Floats, _Measured]:
    try:
        blocks = gemmi.as_refln_blocks(gemmi.cif.read(str(path)))
    except (RuntimeError, OSError, ValueError) as error:
        raise InputError(
            f"'{path}' cannot be read as mmCIF ({error}). Check the file, or give an MTZ."
        ) from error
    seen: list[str] = []
    for block in blocks:
        if not block.default_loop:
            continue
        seen += [label for label in block.column_labels() if label not in seen]
        rows = _cif_rows(block)
        if rows is not None and block.spacegroup is not None:
            return block.spacegroup.xhm(), _require_cell(path, block.cell), rows
    holds = f"it holds {', '.join(seen)}" if seen else "it holds no table of reflections"
    raise InputError(
        f"'{path}' has no _refln.intensity_meas, F_squared_meas, pdbx_I_plus or "
        f"F_meas_au with a space group; {holds}. Give structure factors (not coordinates), or an "
        "MTZ."
    )


def _cif_rows(block: gemmi.ReflnBlock) -> _Measured | None:
    labels = set(block.column_labels())
    hkl = block.make_miller_array()

    def rows(tags: tuple[str, str], amplitude: bool = False) -> _Measured:
        value, sigma = (block.make_float_array(t) if t in labels else None for t in tags)
        assert value is not None
        return _Measured(hkl, value, sigma, ", ".join(t for t in tags if t in labels), amplitude)

    for tags in CIF_INTENSITIES:
        if tags[0] in labels:
            return rows(tags)
    if all(tags[0] in labels for tags in CIF_SIDES):
        return _stack([rows(tags) for tags in CIF_SIDES])
    for tags in CIF_AMPLITUDES:
        if tags[0] in labels:
            return rows(tags, amplitude=True)
    return None


def intensities_from_model(path: Path, d_min_A: float) -> ReferenceSet:
    """Calculated intensities, in electrons², of a PDB or mmCIF coordinate model to d_min_A (Å).

    All reflections that the space group allows; sigma is 0. Raises InputError if the file cannot
    be read or lacks atoms, cell or space group.
    """
    if not path.is_file():
        raise missing_file(path, "The model")
    try:
        structure = gemmi.read_structure(str(path))
    except (RuntimeError, OSError, ValueError) as error:
        raise InputError(
            f"'{path}' cannot be read as PDB or mmCIF coordinates ({error}). Check the file."
        ) from error
    group = structure.find_spacegroup()
    if not len(structure) or not structure[0].count_atom_sites() or group is None:
        raise InputError(
            f"'{path}' holds no atoms, or no space group (CRYST1 or _symmetry). Give a coordinate "
            "model of a crystal."
        )
    cell = _require_cell(path, structure.cell)
    structure.setup_cell_images()
    density = gemmi.DensityCalculatorX()
    density.d_min = d_min_A
    density.rate = 1.5
    density.set_refmac_compatible_blur(structure[0])
    density.set_grid_cell_and_spacegroup(structure)
    density.put_model_density_on_grid(structure[0])
    grid = gemmi.transform_map_to_f_phi(density.grid)
    sg = space_group(group.xhm())
    table = possible(sg, cell, d_min_A, None, anomalous=False)
    F = grid.get_value_by_hkl(np.ascontiguousarray(table.hkl, np.int32), unblur=density.blur)
    intensity = np.abs(F).astype(np.float64) ** 2
    table = replace(table, intensity=intensity, sigma=np.zeros(len(table)))
    return ReferenceSet(str(path), sg.hm, cell, table, "calculated from coordinates")


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
    return table.take(table.s2 <= 0.25 / d_min_A**2) if d_min_A else table
