"""What of a crystal is refined: a bare table, as a job file gives it."""

from __future__ import annotations

import msgspec

from sfxproc.config import Positive


class ParameterSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is refined, and how firmly priors hold it; jobs/postrefine.toml explains each."""

    orientation: bool = True
    theta_prior_mrad: Positive = 2.0
    refine_size: bool = True
    size_prior: Positive = 0.5
    cell: bool = False
    cell_prior_percent: Positive = 0.2
    wavelength: bool = False
    wavelength_prior_percent: Positive = 0.1
