"""`sfxproc compare`: how well two merged sets agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from sfxproc.data import Reflections
from sfxproc.errors import DataError
from sfxproc.formats.atomic import write_text
from sfxproc.formats.reference import read_reference
from sfxproc.intake.reference_group import in_group
from sfxproc.merging.compare import Comparison, RelativeScale, compare_sets
from sfxproc.report.terminal import number, statistics_table
from sfxproc.symmetry import same_laue_group, space_group


def compare(
    a: Path, b: Path, space_group_name: str | None, n_shells: int, d_min_A: float | None,
    json_path: Path | None, console: Console,
) -> Comparison:  # fmt: skip
    """Print the agreement of the merged sets in two files by shell, b brought onto a.

    Without a space group both files must have the same point group. json_path : file for the same
    figures, if wanted. Raises InputError for a
    file that cannot be read and DataError for sets that cannot be compared.
    """
    sets = [read_reference(path) for path in (a, b)]
    if space_group_name is None:
        group, other = (space_group(s.space_group) for s in sets)
        if not same_laue_group(group, other):
            raise DataError(
                f"'{a}' is in {group.hm} (Laue class {group.laue_class}) and '{b}' in {other.hm} "
                f"({other.laue_class}), so their reflections cannot be matched. Give the space "
                "group to compare them in with --space-group, for example the one of lower "
                "symmetry."
            )
    else:
        group = space_group(space_group_name)
    tables = [in_group(s, group, d_min_A) for s in sets]
    comparison = compare_sets(tables[0], tables[1], n_shells)
    if comparison.overall.n_common == 0:
        limit = f" to {d_min_A} Å" if d_min_A else ""
        raise DataError(
            f"'{a}' ({len(tables[0])} reflections{limit}) and '{b}' ({len(tables[1])}) have no "
            "reflection in common. Check that both are of the same crystal form, and --d-min."
        )
    shown = {
        "overall": asdict(comparison.overall),
        "shells": [asdict(shell) for shell in comparison.shells],
    }
    console.print(f"A  {a}\nB  {b}\nin {group.hm}\n", markup=False, highlight=False)
    console.print(statistics_table(shown))
    console.print(f"\n{_sentence(comparison, tables)}", highlight=False)
    if json_path is not None:
        scale = None if comparison.scale is None else asdict(comparison.scale)
        save_json(json_path, {**shown, "scale": scale})
    return comparison


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
    return (
        f"after multiplying B by {scale.k:.4g} exp(−2 · {scale.B_A2:.2f} Å² · s²), s = sinθ/λ "
        f"(±{100 * scale.sigma_ln_k:.2g} % and ±{scale.sigma_B_A2:.2g} Å²)"
    )
