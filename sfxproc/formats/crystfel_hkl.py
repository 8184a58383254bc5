"""CrystFEL reflection lists (`.hkl`), version 2.0: merged intensities as text.

Source: CrystFEL 0.12, libcrystfel/src/reflist-utils.c.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sfxproc.data import Floats, Ints, Reflections
from sfxproc.errors import InputError
from sfxproc.formats.atomic import write_text

FIRST_LINE = "CrystFEL reflection list version 2.0"
COLUMNS = "   h    k    l          I    phase   sigma(I)   nmeas"
LAST_LINE = "End of reflections"
_NO_PHASE = "       -"
_ROW = f"%4i %4i %4i %10.2f {_NO_PHASE} %10.2f %7i"


def write_hkl(path: Path, reflections: Reflections, point_group: str) -> None:
    """Write merged intensities; reflections without a measurement are left out.

    point_group is CrystFEL's symbol, such as 4/mmm. I(−) is written under −h −k −l. The format
    keeps two decimals. Raises OutputError if the file cannot be written.
    """
    intensity, sigma, n = reflections.intensity, reflections.sigma, reflections.n_observations
    if intensity is None or sigma is None or n is None:
        raise ValueError("the reflections are not merged")
    hkl = np.where(reflections.friedel[:, None] < 0, -reflections.hkl, reflections.hkl)
    kept = (n > 0) & np.isfinite(intensity)
    columns = (*hkl[kept].T.tolist(), intensity[kept].tolist(), sigma[kept].tolist())
    rows = (_ROW % row for row in zip(*columns, n[kept].tolist(), strict=True))
    write_text(
        path,
        "\n".join([FIRST_LINE, f"Symmetry: {point_group}", COLUMNS, *rows, LAST_LINE, ""]),
    )


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
            rows.append((int(h), int(k), int(l), float(intensity), float(sigma), int(n)))
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
