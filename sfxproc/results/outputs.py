"""What a merging job leaves: its results, and the list of files that hold them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Crystals, Merged, Reflections
from sfxproc.formats.atomic import write_text
from sfxproc.formats.crystfel_hkl import symbol, write_hkl
from sfxproc.formats.frames import write_frames
from sfxproc.formats.mtz_merged import write_difference, write_half, write_merged
from sfxproc.formats.mtz_scaled import ScaledObservations, write_scaled
from sfxproc.intake.selection import Inventory
from sfxproc.merging.derived import derive
from sfxproc.report.html import Story, report_html
from sfxproc.results.exports import refined_crystals, refined_names, write_refined_experiments
from sfxproc.results.files import PROGRAM, Frame, New, Output, names_of
from sfxproc.runs.names import (
    FRAMES,
    GROUPS,
    HALF_HKL,
    HALF_MTZ,
    MERGED,
    REFINED,
    REFINED_FOLDER,
    REPORT,
    STATISTICS,
    UNMERGED,
    difference_of,
    group_file,
)
from sfxproc.settings.postrefine import PostrefineConfig
from sfxproc.settings.scale import ScaleConfig

HISTORY = (PROGRAM,)


@dataclass(frozen=True, eq=False)
class Results:
    """What a merging job has to tell: columns of frames.h5 by name, statistics ready for JSON,
    a merge of each group, scaled observations if wanted."""

    data: Inventory
    merged: Merged
    frames: Mapping[str, NDArray[Any]]
    statistics: Mapping[str, object]
    groups: Mapping[str, Merged] = field(default_factory=dict)
    unmerged: ScaledObservations | None = None

    @cached_property
    def wavelength_A(self) -> float:
        """The median of the crystals', NaN if none is known."""
        wavelengths = self.data.crystals.wavelength_A
        known = wavelengths[np.isfinite(wavelengths)]
        return float(np.median(known)) if len(known) else math.nan

    @cached_property
    def point_group(self) -> str:
        """As CrystFEL names it."""
        friedel_merged = not np.any(self.merged.reflections.friedel)
        return symbol(self.data.space_group, friedel_merged=friedel_merged)

    @cached_property
    def crystals(self) -> Crystals:
        """As they were refined, or as they were read."""
        if "A_refined" not in self.frames:
            return self.data.crystals
        wavelength_A = self.frames.get("wavelength_refined_A")
        return refined_crystals(self.data, self.frames["A_refined"], wavelength_A)


# ---- writers ---------------------------------------------------------------------------------


def _merged(results: Results, new: New) -> None:
    mtz, hkl = MERGED
    group, cell = results.data.space_group, results.data.cell
    derived = derive(results.merged, group)
    write_merged(new(mtz), results.merged, group.hm, cell, results.wavelength_A, HISTORY, derived)
    write_hkl(new(hkl), results.merged.reflections, results.point_group)


def _halves(results: Results, new: New) -> None:
    group, cell = results.data.space_group, results.data.cell
    for half, mtz, hkl in zip((1, 2), HALF_MTZ, HALF_HKL, strict=True):
        write_half(
            new(mtz), results.merged, group.hm, cell, results.wavelength_A, HISTORY, half=half
        )
        write_hkl(new(hkl), _half(results.merged, half - 1), results.point_group)


def _half(merged: Merged, i: int) -> Reflections:
    """The reflections with the intensities of half set i (0 or 1)."""
    return replace(
        merged.reflections,
        intensity=merged.half_intensity[i],
        sigma=merged.half_sigma[i],
        n_observations=merged.half_n[i],
    )


def _groups(results: Results, new: New) -> None:
    group, cell, wavelength_A = results.data.space_group, results.data.cell, results.wavelength_A
    for name, part in results.groups.items():
        derived = derive(part, group)
        write_merged(new(group_file(name)), part, group.hm, cell, wavelength_A, HISTORY, derived)
    for (one, first), (other, second) in combinations(results.groups.items(), 2):
        path = new(group_file(difference_of(one, other)))
        write_difference(path, first, second, group.hm, cell, wavelength_A, HISTORY)


def _frames(results: Results, new: New) -> None:
    data = results.data
    attributes = {"space_group": data.space_group.hm, "unit_cell": data.cell}
    write_frames(new(FRAMES), data.crystals, results.frames, attributes, results.merged)


def _refined(results: Results, new: New) -> None:
    if "A_refined" not in results.frames:
        return
    paths = [new(name) for name in refined_names(results.data, results.crystals)]
    write_refined_experiments(paths, results.data, results.crystals)


def _unmerged(results: Results, new: New) -> None:
    data, rows = results.data, results.unmerged
    if rows is not None:
        symbol = data.space_group.hm
        write_scaled(new(UNMERGED), rows, results.crystals, symbol, data.cell, HISTORY)


def _statistics(results: Results, new: New) -> None:
    write_text(new(STATISTICS), _json(results.statistics))


def _json(value: Mapping[str, object]) -> str:
    """JSON text; it has no NaN and no infinity, so these become null."""

    def plain(v: object) -> object:
        if isinstance(v, Mapping):
            return {key: plain(item) for key, item in v.items()}
        if isinstance(v, list | tuple):
            return [plain(item) for item in v]
        return None if isinstance(v, float) and not math.isfinite(v) else v

    return json.dumps(plain(value), indent=1, allow_nan=False) + "\n"


def _report(results: Results, frame: Frame) -> str:
    story = Story(
        title=frame.title,
        sentence=frame.sentence,
        told=results.statistics,
        crystals=results.data.crystals,
        frames=results.frames,
        merged=results.merged,
        config_text=frame.config_text,
        log_text=frame.log_text,
    )
    return report_html(story)


def _orients(config: ScaleConfig) -> bool:
    """Whether the job refines orientations."""
    return isinstance(config, PostrefineConfig)


OUTPUTS: tuple[Output[Results, ScaleConfig], ...] = (
    Output(MERGED, _merged),
    Output((*HALF_MTZ, *HALF_HKL), _halves),
    Output((GROUPS,), _groups, when=lambda config: bool(config.merging.groups)),
    Output((FRAMES,), _frames),
    Output(
        (REFINED, REFINED_FOLDER),
        _refined,
        when=lambda config: isinstance(config, PostrefineConfig),
    ),
    Output((UNMERGED,), _unmerged, when=lambda config: config.output.unmerged),
    Output((STATISTICS,), _statistics),
    Output((REPORT,), html=_report),
)
"""The files of a merging job, in the order of their writing."""


def merging_names(config: ScaleConfig) -> tuple[str, ...]:
    """Names of all files that the settings ask for, as far as they can be known beforehand."""
    groups = list(config.merging.groups)
    pairs = (difference_of(one, other) for one, other in combinations(groups, 2))
    return (*names_of(OUTPUTS, config), *(group_file(name) for name in (*groups, *pairs)))
