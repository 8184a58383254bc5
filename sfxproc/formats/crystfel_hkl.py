"""CrystFEL reflection lists (`.hkl`), version 2.0: merged intensities as text.

Source: CrystFEL 0.12, libcrystfel/src/reflist-utils.c.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sfxproc.data import Floats, Ints, Reflections
from sfxproc.errors import InputError
from sfxproc.formats.atomic import write_text
from sfxproc.formats.soundness import MAX_INDEX
from sfxproc.symmetry import SpaceGroup

FIRST_LINE = "CrystFEL reflection list version 2.0"
COLUMNS = "   h    k    l          I    phase   sigma(I)   nmeas"
LAST_LINE = "End of reflections"
_NO_PHASE = "       -"
_ROW = f"%4i %4i %4i %10.2f {_NO_PHASE} %10.2f %7i"


def write_hkl(path: Path, reflections: Reflections, point_group: str) -> None:
    """Write merged intensities; reflections without a measurement are left out.

    point_group is CrystFEL's symbol, such as 4/mmm (`symbol`). I(−) is written under −h −k −l.
    The format keeps two decimals in ten places, so values that would suffer are multiplied by a
    power of ten. Raises OutputError if the file cannot be written.
    """
    intensity, sigma, n = reflections.intensity, reflections.sigma, reflections.n_observations
    if intensity is None or sigma is None or n is None:
        raise ValueError("the reflections are not merged")
    hkl = np.where(reflections.friedel[:, None] < 0, -reflections.hkl, reflections.hkl)
    kept = (n > 0) & np.isfinite(intensity)
    factor = _power_of_ten(intensity[kept], sigma[kept])
    values = ((factor * column[kept]).tolist() for column in (intensity, sigma))
    columns = (*hkl[kept].T.tolist(), *values)
    rows = (_ROW % row for row in zip(*columns, n[kept].tolist(), strict=True))
    write_text(
        path,
        "\n".join([FIRST_LINE, f"Symmetry: {point_group}", COLUMNS, *rows, LAST_LINE, ""]),
    )


def _power_of_ten(intensity: Floats, sigma: Floats) -> float:
    """1 if two decimals and ten places do for these values, otherwise what makes them do."""
    known = sigma[np.isfinite(sigma) & (sigma > 0)]
    if len(known) == 0:
        return 1.0
    typical, largest = float(np.median(known)), float(np.max(np.abs(intensity)))
    if typical >= 0.5 and largest < 1e6:
        return 1.0
    return float(10.0 ** min(np.ceil(-np.log10(typical)) + 1, np.floor(6 - np.log10(largest))))


def symbol(group: SpaceGroup, friedel_merged: bool) -> str:
    """CrystFEL's symbol of the point group that merged intensities obey.

    That is the Laue class where Friedel mates are merged. CrystFEL tells the unique axis of
    monoclinic groups and the axes of trigonal ones by a suffix.
    """
    name = group.laue_class if friedel_merged else group.point_group
    if group.crystal_system == "monoclinic":
        return f"{name}_ua{unique_axis(group)}"
    if group.crystal_system != "trigonal":
        return name
    if group.hm.endswith(":R"):
        return f"{name}_R"
    if name in ("32", "3m", "-3m"):
        along_a = group.hm.split(":")[0].split()[2:3] != ["1"]  # P 3 2 1, R 3 m, not P 3 1 m
        full = {"32": ("321", "312"), "3m": ("3m1", "31m"), "-3m": ("-3m1", "-31m")}
        name = full[name][0 if along_a else 1]
    return f"{name}_H"


def unique_axis(group: SpaceGroup) -> str:
    """a, b or c: the axis along which a monoclinic group has its two-fold axis."""
    half = next(r for r in group.rotations if abs(np.trace(r)) == 1)
    return "abc"[next(i for i in range(3) if half[i, i] == -np.sign(np.trace(half)))]


def symmetry_of(path: Path) -> str:
    """CrystFEL's symbol of the point group in the head of a list; empty where there is none."""
    with path.open(encoding="utf-8", errors="replace") as handle:
        lines = [handle.readline() for _ in range(3)]
    told = [x.partition(":")[2].strip() for x in lines if x.startswith("Symmetry:")]
    return told[0] if told else ""


def read_hkl(path: Path) -> tuple[Ints, Floats, Floats, Ints]:
    """Read hkl (n, 3) int16, intensity and sigma (n,) float64, measurements (n,) int32.

    Raises InputError if the file is not such a list, a line is damaged, or its end is missing.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise InputError(
            f"Cannot read '{path}': {error.strerror}. Check the path and its permissions."
        ) from error
    if not lines or lines[0].strip() != FIRST_LINE:
        raise InputError(
            f"'{path}' does not begin with '{FIRST_LINE}', so it is not a CrystFEL reflection "
            "list. Give the .hkl file that CrystFEL or this program wrote."
        )
    if LAST_LINE not in lines:
        raise InputError(f"'{path}' has no line '{LAST_LINE}': it was cut short. Copy it again.")
    rows = []
    for number, line in enumerate(lines[3 : lines.index(LAST_LINE)], start=4):
        try:
            h, k, l, intensity, _, sigma, n = line.split()
            indices = int(h), int(k), int(l)
            if max(abs(i) for i in indices) > MAX_INDEX:
                raise ValueError("an index is out of range")
            rows.append((*indices, float(intensity), float(sigma), int(n)))
        except ValueError as error:
            raise InputError(
                f"'{path}', line {number} is not a reflection: '{line.strip()[:80]}'. Correct or "
                "remove the line, or copy the file again."
            ) from error
    table = np.array(rows, dtype=np.float64).reshape(-1, 6)
    return (
        table[:, :3].astype(np.int16),
        table[:, 3],
        table[:, 4],
        table[:, 5].astype(np.int32),
    )
