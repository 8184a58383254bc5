"""`sfxproc compare --truth`: a merge of simulated data, and its crystals, against what is true."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from sfxproc.commands.compare import merged_file, save_json
from sfxproc.commands.compare_crystals import CRYSTALS, Setting, crystals_against_truth
from sfxproc.data import Floats, ReferenceSet, Reflections
from sfxproc.errors import DataError
from sfxproc.formats.frames import read_frames
from sfxproc.formats.mtz import open_mtz
from sfxproc.formats.reference import in_group, read_reference
from sfxproc.formats.truth import Columns, read_truth_set
from sfxproc.merging.compare import RelativeScale, match, pearson
from sfxproc.merging.compare_truth import TruthAgreement, compare_with_truth
from sfxproc.report.terminal import counts_table, number, statistics_table
from sfxproc.simulate.sense import reindexing_of
from sfxproc.symmetry import (
    Reindexing,
    SpaceGroup,
    reflections,
    reindexed_hkl,
    same_laue_group,
    space_group,
    unique_keys,
)

HALVES = ("IHALF1", "IHALF2")


@dataclass(frozen=True)
class TruthReport:
    """How far a merge is from the truth.

    n_ideal : reflections of the ideal merge. crystals : values by the keys of CRYSTALS, if a
    frames.h5 lies beside the merge.
    """

    overall: TruthAgreement
    shells: list[TruthAgreement]
    n_ideal: int
    scale: RelativeScale | None
    crystals: Mapping[str, float | int] | None


def compare_truth(
    path: Path,
    truths: Sequence[Path],
    n_shells: int,
    d_min_A: float | None,
    json_path: Path | None,
    console: Console,
) -> TruthReport:
    """Print how far a merged set is from the truth, and the crystals of a frames.h5 beside it.

    Raises InputError for a file that cannot be read and DataError for a truth of other data.
    """
    columns, settings_json = read_truth_set(truths)
    settings = json.loads(settings_json)
    operator = reindexing_of(settings.get("reindexing") or "h,k,l")
    group = space_group(settings["space_group"])
    path = merged_file(path)
    data = read_reference(path, group.hm, np.array(settings["unit_cell"]))
    true, ideal = true_and_ideal(columns, group, settings["unit_cell"])
    setting = setting_of(data, group, true, operator)
    merged = in_group(in_setting(data, setting), group, d_min_A)
    halves = [in_group(in_setting(half, setting), group) for half in half_sets(data)]
    _require_common(path, truths, merged, true, ideal)
    comparison = compare_with_truth(merged, true, ideal, halves, n_shells)
    frames_path, crystals = path.with_name("frames.h5"), None
    if frames_path.is_file():
        frames = read_frames(frames_path)
        crystals = crystals_against_truth(frames_path, frames, columns, group, setting)
    report = TruthReport(
        comparison.overall, list(comparison.shells), len(ideal), comparison.scale, crystals
    )
    names = ", ".join(str(truth) for truth in truths)
    console.print(f"merge  {path}\ntruth  {names}\nin {group.hm}\n", markup=False, highlight=False)
    console.print(statistics_table(asdict(report)))
    if crystals is not None:
        shown = {CRYSTALS[key]: value for key, value in crystals.items()}
        console.print()
        console.print(counts_table(f"Crystals of {frames_path}", shown))
    console.print(f"\n{_sentence(report.overall, report.n_ideal)}", highlight=False)
    if json_path is not None:
        save_json(json_path, asdict(report))
    return report


def true_and_ideal(
    columns: Columns, group: SpaceGroup, cell: Sequence[float]
) -> tuple[Reflections, Reflections]:
    """True intensities, and the ideal merge where there is one, of the mean of Friedel mates.

    The true mean of two mates is that which the ideal merge estimates: weighted as it weights
    them.
    """
    hkl, intensity = columns["reflections/hkl"], columns["reflections/intensity"]
    keys, row = np.unique(unique_keys(group, hkl, False), return_inverse=True)

    def total(values: Floats) -> NDArray[np.float64]:
        return np.bincount(row, values, len(keys)).astype(np.float64)

    weight = columns["reflections/ideal_weight"]
    weights, plain = total(weight), total(intensity) / total(np.ones(len(row)))
    seen = weights > 0
    safe = np.where(seen, weights, 1.0)
    table = reflections(group, np.asarray(cell), keys)
    mean = np.where(seen, total(weight * intensity) / safe, plain)
    best = total(columns["reflections/ideal_weighted"]) / safe
    ideal = replace(table, intensity=best, sigma=1.0 / np.sqrt(safe)).take(seen)
    return replace(table, intensity=mean, sigma=None), ideal


def half_sets(data: ReferenceSet) -> list[ReferenceSet]:
    """The two half sets of a merged MTZ; none of a file that has none."""
    path = Path(data.path)
    if path.suffix.lower() != ".mtz":
        return []
    mtz = open_mtz(path)
    labels, hkl, columns = mtz.column_labels(), mtz.make_miller_array(), mtz.array
    if any(name not in labels for half in HALVES for name in (half, f"SIG{half}")):
        return []
    group, found = space_group(data.space_group), []
    for half in HALVES:
        value, sigma = (
            columns[:, labels.index(name)].astype(np.float64) for name in (half, f"SIG{half}")
        )
        known = np.isfinite(value) & (sigma > 0)
        table = reflections(group, data.cell, unique_keys(group, hkl[known], False))
        table = replace(table, intensity=value[known], sigma=sigma[known])
        found.append(replace(data, reflections=table))
    return found


def setting_of(
    data: ReferenceSet, group: SpaceGroup, true: Reflections, operator: Reindexing
) -> Setting:
    """The setting of a merge, where crystals can be indexed in two that the operator relates: that
    in which it correlates better with the truth. Raises DataError for another Laue class."""
    found = space_group(data.space_group)
    if not same_laue_group(group, found):
        raise DataError(
            f"'{data.path}' is in {found.hm} (Laue class {found.laue_class}) and the truth in "
            f"{group.hm} ({group.laue_class}), so their reflections cannot be matched. Merge the "
            "data in the space group they were simulated in."
        )

    def correlation(setting: Setting) -> float:
        merged = in_group(in_setting(data, setting), group)
        assert merged.intensity is not None
        assert true.intensity is not None
        i, j = match(merged, true)
        return pearson(merged.intensity[i], true.intensity[j]) or 0.0

    same = Reindexing("h,k,l", np.eye(3))
    return max(Setting(same, operator), Setting(operator, same), key=correlation)


def in_setting(data: ReferenceSet, setting: Setting) -> ReferenceSet:
    """A merge in the setting of the truth."""
    R = replace(setting.merge, matrix=np.asarray(np.linalg.inv(setting.merge.matrix)))
    table = data.reflections
    return replace(data, reflections=replace(table, hkl=reindexed_hkl(table.hkl, R)))


def _require_common(
    path: Path, truths: Sequence[Path], merged: Reflections, true: Reflections, ideal: Reflections
) -> None:
    if len(match(merged, true)[0]) and len(match(merged, ideal)[0]):
        return
    raise DataError(
        f"'{path}' ({len(merged)} reflections) and the truth in '{truths[0]}' ({len(true)}, "
        f"{len(ideal)} of them measured) have no reflection in common. Give the truth of the data "
        "that were merged; it lies beside them, as NAME.truth.h5. Check --d-min, too."
    )


def _sentence(overall: TruthAgreement, n_ideal: int) -> str:
    star = ""
    if overall.cc_star is not None:
        star = f", where the half sets say CC* {number(overall.cc_star, 4)}"
        if overall.sigma_cc is not None:
            star += f" ± {overall.sigma_cc:.1g}"
    return (
        f"R {number(overall.r, 2, 100)} % against the truth is {number(overall.r_ratio)} times "
        f"that of the ideal merge ({number(overall.r_ideal, 2, 100)} %), on {overall.n_common:,} "
        f"of its {n_ideal:,} reflections; r.m.s. z {number(overall.rms_z, 2)}, of the strongest "
        f"quarter {number(overall.rms_z_strong, 2)}; CC {number(overall.cc, 4)}{star}."
    )
