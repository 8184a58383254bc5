"""Settings of the scaling job; jobs/scale.toml explains each."""

from __future__ import annotations

from typing import Literal

from sfxproc.config import Count, Positive
from sfxproc.jobs.corrections import Corrections
from sfxproc.jobs.settings import (
    Input,
    Merging,
    Output,
    Parallel,
    Reference,
    Rejection,
    Section,
    Selection,
    Solver,
    Start,
    Symmetry,
)
from sfxproc.simulate.stills import StillsSettings


class Scaling(Section, frozen=True):
    """The scaling model."""

    b_factor: bool = True
    b_prior_A2: Positive | None = 10.0
    partiality: Literal["ignore", "recorded"] = "ignore"
    gain: Positive | None = None
    error_model: Literal["given", "counting", "scatter", "likelihood"] = "likelihood"
    loss: Literal["none", "huber", "cauchy"] = "cauchy"
    loss_scale: Positive = 4.0
    min_overlaps: Count = 3
    covariance: Literal["auto", "exact", "sampled"] = "auto"


class ScaleConfig(Section, frozen=True):
    """A scaling job."""

    job: Literal["scale"]
    symmetry: Symmetry
    input: Input = Input()
    selection: Selection = Selection()
    scaling: Scaling = Scaling()
    reference: Reference = Reference()
    rejection: Rejection = Rejection()
    merging: Merging = Merging()
    start: Start = Start()
    corrections: Corrections = Corrections()
    solver: Solver = Solver()
    parallel: Parallel = Parallel()
    output: Output = Output()
    simulate: StillsSettings | None = None
    seed: int = 0
