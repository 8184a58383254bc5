"""Simulated lists of powder lines with their truth, for `sfxproc simulate powder` and as a job's
own input."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sfxproc.config import Tree, apply_overrides, convert, source_of
from sfxproc.errors import OutputError
from sfxproc.intake.simulated_powder import simulated, truth_path, write_pattern
from sfxproc.settings.powder import SimulatedPattern


def pattern_settings(options: Tree, overrides: Sequence[str]) -> SimulatedPattern:
    """The settings of a command. Raises ConfigError for a bad one."""
    source = source_of("the command line", overrides)
    return convert(apply_overrides(options, overrides), SimulatedPattern, source)


def simulate(out: Path, settings: SimulatedPattern, source: Path | None, overwrite: bool) -> str:
    """Simulate and write; returns the closing sentence. Raises OutputError for files that exist,
    unless they may be overwritten."""
    files = [out, truth_path(out)]
    if not overwrite and (existing := [path for path in files if path.exists()]):
        raise OutputError(
            f"'{existing[0]}' exists. Choose another name, or add --overwrite to replace it."
        )
    pattern = simulated(settings, source)
    write_pattern(out, pattern, settings)
    return (
        f"Wrote {len(pattern.q2)} lines of a structure in {pattern.structure.space_group.hm} to "
        f"'{out}' and their truth to '{truth_path(out)}'."
    )
