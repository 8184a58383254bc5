"""The scale and B of a merge, taken from a reference set."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Ints, ReferenceSet
from sfxproc.errors import DataError
from sfxproc.intake.reference_group import reference_in_group
from sfxproc.intake.selection import Inventory
from sfxproc.merging.compare import fit_scale, match
from sfxproc.settings.scale import ScaleConfig
from sfxproc.settings.sections import Symmetry
from sfxproc.symmetry import cell_fits, space_group

F8 = NDArray[np.float64]

MIN_COMMON = 20
"""Fewer reflections in common do not fix scale and B."""


def _in_common(data: Inventory, reference: ReferenceSet) -> tuple[Ints, Ints]:
    """Rows of the data's and the reference's reflections with the same hkl."""
    unsigned = np.zeros_like(data.reflections.friedel)
    return match(replace(data.reflections, friedel=unsigned), reference.reflections)


def require_overlap(data: Inventory, reference: ReferenceSet, symmetry: Symmetry) -> None:
    """Raise DataError if the reference is of another cell or has too little in common."""
    tolerances = symmetry.length_tolerance_percent, symmetry.angle_tolerance_deg
    if not cell_fits(reference.cell[None], data.cell, *tolerances)[0]:
        raise DataError(
            f"The reference '{reference.path}' has the cell "
            f"{' '.join(f'{v:.2f}' for v in reference.cell)}, the data "
            f"{' '.join(f'{v:.2f}' for v in data.cell)}: another crystal form cannot fix the "
            "scale. Choose another reference.path, or widen symmetry.length_tolerance_percent "
            "and symmetry.angle_tolerance_deg."
        )
    n = len(_in_common(data, reference)[0])
    if n < MIN_COMMON:
        theirs, ours = reference.reflections.d_A, data.reflections.d_A
        raise DataError(
            f"The reference '{reference.path}' has {n} reflections in common with the data, too "
            f"few to fix the scale: it goes from {theirs.max():.2f} to {theirs.min():.2f} Å, the "
            f"data from {ours.max():.2f} to {ours.min():.2f} Å. Choose another reference.path or "
            "other limits in [selection]."
        )


def reference_scales(
    intensity: F8, of_reflection: Ints, n_sets: int, data: Inventory, reference: ReferenceSet
) -> F8:
    """(n_sets, 2) ln k and B with I ≈ k·exp(−2 B s²)·I_reference for each connected set of
    crystals: what their ln G and B must be shifted by. One rank works it out for all
    (`parallel.decide`), as they must agree to the last bit.

    intensity : (n_reflections,). of_reflection : (n_reflections,) the set each is in. (0, 0) for a
    set with too little in common; DataError if that is the largest one.
    """
    i, j = _in_common(data, reference)
    scales = np.empty((n_sets, 2))
    for number in range(n_sets):
        inside = of_reflection[i] == number
        scales[number] = _scale_of(intensity, i[inside], j[inside], number, data, reference)
    return scales


def _scale_of(
    intensity: F8, i: Ints, j: Ints, number: int, data: Inventory, reference: ReferenceSet
) -> tuple[float, float]:
    """Of one set; i, j : rows of the data's and the reference's reflections in common."""
    theirs = reference.reflections
    assert theirs.intensity is not None
    scale = fit_scale(
        intensity[i],
        None,
        theirs.intensity[j],
        None if theirs.sigma is None else theirs.sigma[j],
        data.reflections.s2[i],
    )
    if scale is not None:
        return float(np.log(scale.k)), scale.B_A2
    if number > 0:
        return 0.0, 0.0
    raise DataError(
        f"The {len(i)} reflections that '{reference.path}' has in common with the data do not "
        "determine a scale: too few, or noise. Check that it holds measured intensities, or leave "
        "reference.path out."
    )


def reference_intensities(
    intensity: F8, of_reflection: Ints, data: Inventory, reference: ReferenceSet
) -> F8:
    """(n_reflections,) the reference's intensities on the scale of the given ones, which stay where
    it has none; like `reference_scales` for one rank to work out."""
    i, j = _in_common(data, reference)
    theirs = reference.reflections.intensity
    assert theirs is not None
    n_sets = int(of_reflection.max()) + 1
    scales = reference_scales(intensity, of_reflection, n_sets, data, reference)
    ln_k, b = scales[of_reflection[i]].T
    out = intensity.copy()
    out[i] = theirs[j] * np.exp(ln_k - 2.0 * b * data.reflections.s2[i])
    return out


def reference_of(config: ScaleConfig) -> ReferenceSet | None:
    """The reference set, if one is given, in the job's own asymmetric unit.

    Raises InputError if it cannot be read, ConfigError if its Laue group is another.
    """
    if config.reference.path is None:
        return None
    group = space_group(config.symmetry.space_group)
    d_min_A = config.selection.d_min_A
    return reference_in_group(config.reference.path, "reference.path", group, d_min_A)
