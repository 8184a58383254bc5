"""File formats: one line here makes a format known to every job and to the tests."""

from __future__ import annotations

from sfxproc.formats import crystfel, dials, hdf5, mtz
from sfxproc.formats.base import Format

FORMATS: tuple[Format, ...] = (
    dials.FORMAT,
    crystfel.FORMAT,
    hdf5.FORMAT,
    mtz.FORMAT_UNMERGED,
)
