"""`sfxproc compare`: how well two merged sets agree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console

from sfxproc.data import ReferenceSet, Reflections
from sfxproc.errors import DataError, InputError
from sfxproc.formats.atomic import write_text
from sfxproc.formats.reference import in_group, read_reference
from sfxproc.merging.compare import Comparison, RelativeScale, compare_sets
from sfxproc.merging.other_settings import (
    SAME,
    ANGLES_deg,
    InSetting,
    LENGTHS_percent,
    settings_of,
)
from sfxproc.report.terminal import number, statistics_table
from sfxproc.symmetry import SpaceGroup, same_laue_group, space_group

MERGED = "merged.mtz"
SAME_LENGTHS_percent, SAME_ANGLES_deg = 1.0, 1.0
"""Cells that differ by more are worth a word."""


@dataclass(frozen=True)
class Given:
    """What the command line says of the sets: space group of both, unit cell of files that have
    none, number of shells, resolution limit in Å."""

    space_group: str | None = None
    unit_cell: tuple[float, ...] | None = None
    n_shells: int = 10
    d_min_A: float | None = None


def compare(a: Path, b: Path, given: Given, json_path: Path | None, console: Console) -> Comparison:
    """Print the agreement of the merged sets in two files by shell, b brought onto a.

    A folder stands for its merged.mtz. Without a space group both files must have the same point
    group. Of the settings of b that of best agreement is taken, which is said. json_path : file for
    the same figures, if wanted. Raises InputError for a file that cannot be read and DataError for
    sets that cannot be compared.
    """
    a, b = merged_file(a), merged_file(b)
    first, second = _read_both(a, b, given)
    group = _common_group(first, second, given.space_group)
    settings = settings_of(first, second, group)
    if not settings:
        raise DataError(
            f"'{a}' has the cell {_cell(first)} and '{b}' {_cell(second)}: more than "
            f"{LENGTHS_percent:g} % or {ANGLES_deg:g}° apart in every setting that {group.hm} "
            "leaves, so they are of different crystal forms. Give sets of one form."
        )
    chosen = settings[0]
    tables = [in_group(s, group, given.d_min_A) for s in (first, chosen.data)]
    comparison = compare_sets(tables[0], tables[1], given.n_shells)
    if comparison.overall.n_common == 0:
        limit = f" to {given.d_min_A} Å" if given.d_min_A else ""
        raise DataError(
            f"'{a}' ({len(tables[0])} reflections{limit}) and '{b}' ({len(tables[1])}) have no "
            "reflection in common. Check that both are of the same crystal form, and --d-min."
        )
    shown = {
        "overall": asdict(comparison.overall),
        "shells": [asdict(shell) for shell in comparison.shells],
    }
    for name, path, data in (("A", a, first), ("B", b, second)):
        console.print(f"{name}  {path}", markup=False, highlight=False, soft_wrap=True)
        console.print(f"   {data.columns}; cell {_cell(data)}", markup=False, highlight=False)
    console.print(f"in {group.hm}\n", markup=False, highlight=False)
    console.print(statistics_table(shown))
    for sentence in (_sentence(comparison, tables), *_remarks(first, settings)):
        console.print(f"\n{sentence}", markup=False, highlight=False)
    if json_path is not None:
        scale = None if comparison.scale is None else asdict(comparison.scale)
        told = {
            "scale": scale,
            "reindexed": chosen.operator.triplet,
            "columns": [first.columns, second.columns],
        }
        save_json(json_path, {**shown, **told})
    return comparison


def merged_file(path: Path) -> Path:
    """The file of a merged set: of an output folder its merged.mtz. Raises InputError."""
    if not path.is_dir():
        return path
    if not (path / MERGED).is_file():
        raise InputError(
            f"'{path}' is a folder without {MERGED}. Give a merged set or the output folder of a "
            "job that has finished."
        )
    return path / MERGED


def _read_both(a: Path, b: Path, given: Given) -> tuple[ReferenceSet, ReferenceSet]:
    """Both sets; a file without space group or cell has those given, or else the other's."""
    group, cell = given.space_group, given.unit_cell
    sets: dict[Path, ReferenceSet] = {}
    for path in sorted((a, b), key=lambda p: p.suffix.lower() == ".hkl"):
        known = None if cell is None else np.array(cell)
        sets[path] = read_reference(path, group, known)
        group = group or sets[path].space_group
        cell = cell or tuple(sets[path].cell.tolist())
    return sets[a], sets[b]


def _common_group(first: ReferenceSet, second: ReferenceSet, name: str | None) -> SpaceGroup:
    if name is not None:
        return space_group(name)
    group, other = space_group(first.space_group), space_group(second.space_group)
    if not same_laue_group(group, other):
        raise DataError(
            f"'{first.path}' is in {group.hm} (Laue class {group.laue_class}) and '{second.path}' "
            f"in {other.hm} ({other.laue_class}), so their reflections cannot be matched. Give the "
            "space group to compare them in with --space-group, for example the one of lower "
            "symmetry."
        )
    return group


def _cell(data: ReferenceSet) -> str:
    return " ".join(f"{v:.2f}" for v in data.cell)


def _remarks(first: ReferenceSet, settings: tuple[InSetting, ...]) -> Iterator[str]:
    """What is to be said of the setting of B and of the cells."""
    chosen, others = settings[0], settings[1:]
    if chosen.operator is not SAME:
        as_is = next((f" (as it is {s.cc:.3f})" for s in others if s.operator is SAME), "")
        yield (
            f"B is in another setting: it was reindexed by {chosen.operator.triplet}, which gives "
            f"CC {chosen.cc:.3f}{as_is}."
        )
    lengths = 100.0 * np.max(np.abs(chosen.data.cell[:3] / first.cell[:3] - 1.0))
    angles = np.max(np.abs(chosen.data.cell[3:] - first.cell[3:]))
    if lengths > SAME_LENGTHS_percent or angles > SAME_ANGLES_deg:
        yield (
            f"WARNING: the cells differ by {lengths:.1f} % and {angles:.1f}°, so part of the "
            "disagreement may be that of the crystals."
        )


def save_json(path: Path, told: Mapping[str, Any]) -> None:
    """Write figures as JSON, null for what is not finite. Raises OutputError."""
    write_text(path, msgspec.json.format(msgspec.json.encode(told), indent=1).decode() + "\n")


def _sentence(comparison: Comparison, tables: list[Reflections]) -> str:
    overall, sizes = comparison.overall, [len(t) for t in tables]
    text = (
        f"{overall.n_common:,} reflections are common to A ({sizes[0]:,}) and B ({sizes[1]:,}): "
        f"CC {number(overall.cc)}, R {number(overall.r, 1, 100)} %"
    )
    return f"{text} {_scale_words(comparison.scale)}."


def _scale_words(scale: RelativeScale | None) -> str:
    if scale is None:
        return "without a relative scale, which these intensities do not determine"
    if not np.isfinite(scale.sigma_ln_k):
        return (
            f"after multiplying B by {scale.k:.4g}; these sets agree too little to determine a "
            "fall-off with resolution"
        )
    return (
        f"after multiplying B by {scale.k:.4g} exp(−2 · {scale.B_A2:.2f} Å² · s²), s = sinθ/λ "
        f"(±{100 * scale.sigma_ln_k:.2g} % and ±{scale.sigma_B_A2:.2g} Å²)"
    )
