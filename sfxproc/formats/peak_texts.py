"""Texts of other programs and countries: encodings, decimal commas, wavelengths in comments.

A comma between digits may divide columns or stand for the decimal point. It stands for the point
where no number of the file has a point and blanks, tabs or semicolons divide the columns; what
cannot be told is asked.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from pathlib import Path

from sfxproc.errors import InputError

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_WAVELENGTH = re.compile(r"wave[- ]?length|lambda|λ|(?P<line>k[-_ ]?(?:alpha|α))", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![\w.,])(\d+(?:[.,]\d+)?)(?!\w*\s*[:=])\s*(nm|pm)?", re.IGNORECASE)
_TO_ANGSTROM = {"": 1.0, "nm": 10.0, "pm": 0.01}
_COMMA_NUMBER = re.compile(r"[+-]?\d+(,\d+)?([eE][+-]?\d+)?")
NEAR = 0.15  # wavelengths of one tube differ by less: Kα and Kβ of copper by 10 %


def text_of(path: Path) -> str:
    """The text of a file: UTF-8 or, after a byte-order mark, UTF-16; otherwise Latin-1.

    Raises InputError for what is no text, and OSError.
    """
    data = path.read_bytes()
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, errors="replace")
    if b"\0" in data:
        raise InputError(
            f"'{path}' is not text (byte {data.index(0)}). Give a list of lines as text, CSV, "
            "JSON, .npy or .pkslst."
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def looks_like_lines(path: Path) -> bool:
    """Whether the first line of a text, comments left out, is numbers or names of columns as those
    of a powder pattern, and no path."""
    try:
        rows = (line.partition("#")[0].strip() for line in text_of(path).splitlines())
        first = next((row for row in rows if row), "")
    except (OSError, InputError):
        return False
    words = [word for word in re.split(r"[,;\s]+", first.lower()) if word]
    numbers = all(re.fullmatch(r"[+-]?\d*[.,]?\d+(e[+-]?\d+)?", word) for word in words)
    return bool(words) and (numbers or words[0] in ("q2", "d", "two_theta", "2theta", "2θ", "tth"))


def wavelengths_in(comment: str) -> list[float]:
    """The wavelengths in Å that a comment states: the number after a word that says so, and those
    behind it that are near it, as of Kα1 and Kα2."""
    word = _WAVELENGTH.search(comment)
    if word is None:
        return []
    found: list[float] = []
    decimals = 3 if word["line"] else 0  # "Cu Kα, 40 kV" states none
    for number, unit in _NUMBER.findall(comment[word.end() :]):
        value = float(number.replace(",", ".")) * _TO_ANGSTROM[unit.lower()]
        enough = len(re.split("[.,]", number)[-1]) >= decimals and (not decimals or value < 5.0)
        if value > 0.0 and enough and (not found or abs(value / found[0] - 1.0) < NEAR):
            found.append(value)
    return found


def decimal_commas(path: Path, rows: Sequence[str], n_names: int) -> bool:
    """Whether commas in these rows, without comments and names, are decimal points.

    n_names : columns that the file names, 0 if it does not. Raises InputError, as a question, if
    that cannot be told.
    """
    rows = [row for row in rows if row.strip()]
    if not any("," in row for row in rows) or any("." in row for row in rows):
        return False
    fields = [re.split(r"[;\s]+", row.strip(" \t;")) for row in rows]
    if not all(_COMMA_NUMBER.fullmatch(field) for row in fields for field in row):
        return False
    most = max(len(row) for row in fields)
    parts = {len(re.split(r"[,;\s]+", row.strip(" \t;,"))) for row in rows}
    if most > 1 or n_names == 1:
        return True
    if n_names in parts or (n_names == 0 and max(parts) > 2):
        return False
    raise InputError(
        f"'{path}': it cannot be told whether '{rows[0].strip()}' is a number with a decimal comma "
        "or several columns. Write numbers with points, or name the columns in the first line."
    )
