"""Crystals of a job on simulated data against what is true of them.

Of the crystals that were indexed rightly and used, with θ the rotation from the true orientation to
another one (the rotation nearest to A A_true⁻¹) and θ⊥ its part normal to the beam:

    orientation error = √(Σ |θ⊥|² / 2n)        r.m.s. about an axis
    pull of p         = (p − p_true − c)/σ_p    p: ln G or B, c: the median of p − p_true, since
                                               what all crystals share is a matter of convention
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from sfxproc.data import Floats, Ints, Mask, Status
from sfxproc.errors import DataError
from sfxproc.formats.frames import Frames
from sfxproc.formats.truth import Columns
from sfxproc.simulate.stills import event_of
from sfxproc.symmetry import Reindexing, SpaceGroup, cells_from_A, reindexed_cells

OTHER_DATA_mrad = 50.0  # of the median crystal: no error of indexing, but another crystal

CRYSTALS = {
    "n": "crystals in the truth",
    "n_missing": "of these not among the job's",
    "n_compared": "used, indexed rightly and compared",
    "right_left_out": "indexed rightly but left out",
    "wrong_left_out": "indexed wrongly and left out",
    "wrong_kept": "indexed wrongly but merged",
    "other_setting": "compared, but in another setting than the merge",
    "orientation_recorded_mrad": "orientation error as recorded / mrad",
    "orientation_refined_mrad": "orientation error as refined / mrad",
    "cell_recorded_percent": "error of cell lengths as recorded / %",
    "cell_refined_percent": "error of cell lengths as refined / %",
    "size_ratio": "size, refined over true: median",
    "sigma_ln_size_ratio": "and the spread of its logarithm",
    "rms_ln_G": "error of ln G, r.m.s.",
    "pull_ln_G": "pull of ln G, r.m.s.",
    "rms_B_A2": "error of B, r.m.s. / Å²",
    "pull_B_A2": "pull of B, r.m.s.",
}


@dataclass(frozen=True)
class Setting:
    """What makes indices of the truth those of the merge, and those of the other setting."""

    merge: Reindexing
    other: Reindexing


def crystals_against_truth(
    path: Path, frames: Frames, columns: Columns, group: SpaceGroup, setting: Setting
) -> dict[str, float | int]:
    """Values by the keys of CRYSTALS and in their order, those that can be computed. Raises
    DataError if the crystals are not those of the truth."""
    row, at = _same_crystals(path, frames, columns)
    true = {
        name.removeprefix("crystals/"): c[at]
        for name, c in columns.items()
        if name.startswith("crystals/")
    }
    found = {name: values[row] for name, values in frames.columns.items()}
    crystals, status = frames.crystals.take(row), found["status"]
    wrong, out = true["wrong"].astype(bool), status == Status.LEFT_OUT
    compared = ~wrong & (status == Status.USED)
    told: dict[str, float | int] = {
        "n": len(columns["crystals/number"]),
        "n_missing": len(columns["crystals/number"]) - len(at),
        "n_compared": int(compared.sum()),
        "right_left_out": int(np.sum(out & ~wrong)),
        "wrong_left_out": int(np.sum(out & wrong)),
        "wrong_kept": int(np.sum(~out & wrong)),
    }
    places = {"recorded": crystals.A, "refined": found.get("A_refined")}
    for word, A in places.items():
        good = compared if A is None else compared & np.isfinite(A).all(axis=(1, 2))
        if A is None or not good.any():
            continue
        off = _apart(
            A[good], true["A"][good], true["cell"][good], crystals.beam[good], group, setting
        )
        if word == "recorded":
            _require_near(path, off.normal_mrad)
            if setting.merge.triplet != setting.other.triplet:
                told["other_setting"] = int(np.sum(off.other))
        told[f"orientation_{word}_mrad"] = float(np.sqrt(np.mean(off.normal_mrad**2) / 2))
        told[f"cell_{word}_percent"] = float(np.sqrt(np.mean(off.lengths_percent**2)))
    if "size" in found:
        ratio = np.log(found["size"] / true["profile_radius"])
        ratio = ratio[compared & np.isfinite(ratio)]
        if len(ratio):
            told["size_ratio"] = float(np.exp(np.median(ratio)))
            told["sigma_ln_size_ratio"] = float(np.std(ratio))
    for name in ("ln_G", "B_A2"):
        told |= _errors(name, found, true, compared)
    return {key: told[key] for key in CRYSTALS if key in told}


def _same_crystals(path: Path, frames: Frames, columns: Columns) -> tuple[Ints, Ints]:
    """Rows of the frames and of the truth that are the same crystal."""
    events, file = frames.crystals.event.astype(str), frames.crystals.file.astype(str)
    names = [event_of(int(n)) for n in columns["crystals/number"]]
    if np.all(np.char.endswith(np.char.lower(file), ".mtz")):  # numbered from 1 in each file
        names = [str(i) for i in range(1, len(names) + 1)]
    _, row, at = np.intersect1d(events, np.array(names), return_indices=True)
    if not len(row) or len(np.unique(events)) < len(events):
        raise DataError(
            f"The crystals in '{path}' are not named as in the truth ('{names[0]}' and so on). "
            "Give the truth of the data that were merged. If a format renamed them, as several "
            "MTZ files do, compare a copy of the merge without its frames.h5."
        )
    if len(row) < len(events):
        raise DataError(
            f"{len(events) - len(row)} of {len(events)} crystals in '{path}' are not in the truth, "
            "so there is no ideal merge of the same data. Give the truth of each part of the set "
            "by a --truth of its own."
        )
    return row, at


def _require_near(path: Path, mrad: Floats) -> None:
    if np.median(mrad) > OTHER_DATA_mrad:
        raise DataError(
            f"The crystals in '{path}' are named as in the truth, but the median one is turned by "
            f"{np.median(mrad):.0f} mrad from there. Give the truth of the data that were merged."
        )


@dataclass(frozen=True, eq=False)
class _Apart:
    """|θ⊥| (n,), relative errors of the cell lengths (n, 3), and which (n,) are in the setting
    that is not the merge's."""

    normal_mrad: NDArray[np.float64]
    lengths_percent: NDArray[np.float64]
    other: Mask


def _apart(
    A: Floats, true: Floats, cell: Floats, beam: Floats, group: SpaceGroup, setting: Setting
) -> _Apart:
    """How far A (n, 3, 3) is from the nearest equivalent of the true A, in either setting."""
    nearest, at, other = np.full(len(A), np.inf), np.array(true), np.zeros(len(A), dtype=bool)
    for operator in (setting.merge, setting.other):
        for rotation in group.rotations:
            proper = rotation * np.round(np.linalg.det(rotation))
            equivalent = replace(operator, matrix=operator.matrix @ proper)
            moved, _ = reindexed_cells(true, cell, equivalent)
            distance = np.linalg.norm(A - moved, axis=(1, 2))
            closer = distance < nearest
            nearest[closer], at[closer] = distance[closer], moved[closer]
            other[closer] = operator is setting.other
    U, _, Vt = np.linalg.svd(A @ np.linalg.inv(at))
    theta = Rotation.from_matrix(U @ Vt).as_rotvec()
    normal = theta - np.sum(theta * beam, axis=1)[:, None] * beam
    ratio = cells_from_A(A)[:, :3] / cells_from_A(at)[:, :3]
    return _Apart(1e3 * np.linalg.norm(normal, axis=1), 100.0 * (ratio - 1.0), other)


def _errors(
    name: str, found: Mapping[str, Floats], true: Mapping[str, Floats], compared: Mask
) -> dict[str, float | int]:
    """R.m.s. error and pull of a parameter, its common shift removed."""
    sigma = found.get(f"sigma_{name}")
    if name not in found or sigma is None:
        return {}
    good = compared & np.isfinite(found[name]) & np.isfinite(sigma) & (sigma > 0)
    if not good.any():
        return {}
    off = (found[name] - true[name])[good]
    off = off - np.median(off)
    return {
        f"rms_{name}": float(np.sqrt(np.mean(off**2))),
        f"pull_{name}": float(np.sqrt(np.mean((off / sigma[good]) ** 2))),
    }
