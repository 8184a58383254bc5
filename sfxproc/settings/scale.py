"""Settings of the scaling job; jobs/scale.toml explains each."""

from __future__ import annotations

from typing import Literal

from sfxproc.config import Count, Positive
from sfxproc.errors import ConfigError
from sfxproc.settings.sections import (
    Corrections,
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
from sfxproc.simulate.settings import StillsSettings


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


def require_sense(config: ScaleConfig) -> None:
    """Raise ConfigError for settings that are valid one by one but not together."""
    low, high = config.selection.d_max_A, config.selection.d_min_A
    if low is not None and high is not None and low <= high:
        raise ConfigError(
            f"selection.d_max_A = {low:g} is not larger than selection.d_min_A = {high:g}: no "
            "reflection would be left. d_max_A is the low-resolution limit, the larger number."
        )
    if config.simulate is not None and config.input.paths:
        raise ConfigError(
            "Both input.paths and a [simulate] table are given, so it is not clear what to read. "
            "Remove the [simulate] table to process the files, or input.paths to simulate."
        )
    if config.simulate is None and not config.input.paths:
        raise ConfigError(
            "input.paths is empty: name the files to read, for example "
            "`--set input.paths=run1/*.stream`, or add a [simulate] table."
        )
    if config.symmetry.ambiguity == "ignore" and config.symmetry.ambiguity_reference is not None:
        raise ConfigError(
            'symmetry.ambiguity_reference has no effect with symmetry.ambiguity = "ignore". Leave '
            "one of them out."
        )
    if config.selection.min_partiality > 0 and config.scaling.partiality == "ignore":
        raise ConfigError(
            f"selection.min_partiality = {config.selection.min_partiality:g} has no effect with "
            'scaling.partiality = "ignore". Set scaling.partiality = "recorded", or leave '
            "selection.min_partiality out."
        )
    parallel = config.parallel
    if parallel.strategy == "blocks" and config.start != Start():
        raise ConfigError(
            '[start] asks for what parallel.strategy = "blocks" does not do. Use '
            'parallel.strategy = "global", which runs on many ranks too, or leave it out.'
        )
    if parallel.strategy == "blocks" and parallel.overlap >= parallel.block_size:
        raise ConfigError(
            f"parallel.overlap = {parallel.overlap} must be smaller than parallel.block_size = "
            f"{parallel.block_size}: each block would hold nothing new. Half the block is usual."
        )
