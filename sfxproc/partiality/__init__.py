"""How much of a reflection a still records: one model a file, one line of the table each.

A model is a function of the excitation error, of the size of the reciprocal-lattice point and of
the width that the bandwidth adds (`base`). In the order of the table: hard edges; soft ones; those
that know the bandwidth.
"""

from sfxproc.partiality import (
    eta_deff,
    gaussian,
    gaussian_gaussian,
    lorentzian,
    pseudo_voigt,
    sphere,
    unity,
    xsphere,
)
from sfxproc.partiality.base import (
    PROFILE_TYPE,
    Partiality,
    Profile,
    by_differences,
    derivatives,
    size_at,
    values,
    width_at,
)

MODELS = (
    sphere.PARTIALITY,
    unity.PARTIALITY,
    eta_deff.PARTIALITY,
    lorentzian.PARTIALITY,
    gaussian.PARTIALITY,
    pseudo_voigt.PARTIALITY,
    xsphere.PARTIALITY,
    gaussian_gaussian.PARTIALITY,
)
PARTIALITIES = {model.name: model for model in MODELS}

__all__ = [
    "PARTIALITIES",
    "PROFILE_TYPE",
    "Partiality",
    "Profile",
    "by_differences",
    "derivatives",
    "size_at",
    "values",
    "width_at",
]
