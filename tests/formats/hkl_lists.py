"""Reading back the CrystFEL reflection lists that the program writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sfxproc.data import Floats, Ints


def read_hkl(path: Path) -> tuple[Ints, Floats, Floats, Ints]:
    """hkl (n, 3), intensity and sigma (n,), measurements (n,)."""
    first, _, _, *rows, last = path.read_text(encoding="utf-8").splitlines()
    assert (first, last) == ("CrystFEL reflection list version 2.0", "End of reflections")
    table = np.array([row.replace(" - ", " ").split() for row in rows], dtype=np.float64)
    return table[:, :3].astype(int), table[:, 3], table[:, 4], table[:, 5].astype(int)
