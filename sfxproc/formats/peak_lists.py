"""Lists of powder lines: text, CSV, JSON, NumPy arrays and GSAS-II's `.pkslst`.

    q² = 1/d² = (2 sin θ/λ)²,    σ(q²) = 2 q³ σ(d) = (2 q/λ) cos θ σ(2θ)

Columns are named q2 (Å⁻²), d (Å) or two_theta (degrees), with sigma (of that quantity) and
intensity if known; `NAMES` has what else they are called. A text or CSV file names its columns in
its first line, or has none and the caller says what the first column is; a text may state its
wavelength in a comment, "# wavelength 1.5418"; several are a question. Decimal commas are read
where they can be told (`peak_texts`). A JSON file is one object of such columns (and
"wavelength_A"), or a plain list. GSAS-II writes one line of Python numbers a peak: 2θ and its flag,
intensity and its flag, and the widths.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sfxproc.data import Floats
from sfxproc.errors import ConfigError, InputError
from sfxproc.formats.atomic import write_text
from sfxproc.formats.peak_texts import decimal_commas, text_of, wavelengths_in

KINDS = ("q2", "d", "two_theta")
NAMES = {
    "q2": "q2",
    "q^2": "q2",
    "q²": "q2",
    "d": "d",
    "d_a": "d",
    "d_spacing": "d",
    "two_theta": "two_theta",
    "2theta": "two_theta",
    "2θ": "two_theta",
    "2th": "two_theta",
    "tth": "two_theta",
    "two_theta_deg": "two_theta",
    "sigma": "sigma",
    "esd": "sigma",
    "σ": "sigma",
    "intensity": "intensity",
    "i": "intensity",
    "height": "intensity",
}
MIN_LINES, MAX_LINES = 8, 60
FEW_LINES = 10
D_LIMITS_A = (0.5, 60.0)
CHECKED_LINES = 20
SAME_WAVELENGTH = 2e-5  # relative; what rounding does to four decimals
SAME_LINE = 1e-6  # relative difference of q² below which two entries are one line
UNITS = {"q2": "q² in Å⁻²", "d": "d in Å", "two_theta": "2θ in degrees"}


@dataclass(frozen=True, eq=False)
class PeakList:
    """Powder lines, ascending: q2 (n,) in Å⁻², its sigma (n,), intensity (n,) on any scale.

    source : the file.  notes : what was changed in reading, one sentence each.
    """

    q2: Floats
    sigma: Floats | None = None
    intensity: Floats | None = None
    source: str = ""
    notes: tuple[str, ...] = ()


@dataclass
class _Columns:
    """What a file says: columns by name, the place of each row, wavelengths in Å."""

    values: dict[str, list[float]] = field(default_factory=dict)
    places: list[str] = field(default_factory=list)
    wavelengths_A: list[float] = field(default_factory=list)


def read_peak_list(
    path: Path, kind: str | None = None, wavelength_A: float | None = None
) -> PeakList:
    """Read a list of 8 to 60 lines; of a longer one, the first 60.

    kind : what an unnamed first column is: "q2", "d" or "two_theta". wavelength_A : in Å, needed
    for 2θ unless the file states it; it overrides the file's. Raises InputError if the file is not
    such a list, ConfigError for a bad or missing setting.
    """
    if kind is not None and kind not in KINDS:
        raise ConfigError(f"peaks.kind: '{kind}' is none of {', '.join(KINDS)}. Give one of them.")
    if wavelength_A is not None and not wavelength_A > 0:
        raise ConfigError(f"peaks.wavelength_A: {wavelength_A} is no wavelength. Give it in Å.")
    readers = {".json": _read_json, ".npy": _read_npy, ".pkslst": _read_pkslst}
    reader = readers.get(path.suffix.lower(), _read_text)
    try:
        columns = reader(path, kind)
    except OSError as error:
        raise InputError(
            f"'{path}' cannot be read: {error.strerror or error}. Give a readable list of lines."
        ) from error
    if wavelength_A is not None:
        columns.wavelengths_A = [wavelength_A]
    return _checked(path, columns)


def write_peak_list(path: Path, lines: PeakList, comments: Sequence[str] = ()) -> None:
    """Write a list as text that `read_peak_list` reads, atomically; comments go above it.

    Raises OutputError if the file cannot be written.
    """
    columns = {"q2": lines.q2, "sigma": lines.sigma, "intensity": lines.intensity}
    known = {name: values for name, values in columns.items() if values is not None}
    text = [f"# {comment}".rstrip() for comment in comments]
    text.append(" ".join(known))
    rows = zip(*(values.tolist() for values in known.values()), strict=True)
    text += [" ".join(f"{value:.9g}" for value in row) for row in rows]
    write_text(path, "\n".join(text) + "\n")


# ---- formats -------------------------------------------------------------------------------


def _read_text(path: Path, kind: str | None) -> _Columns:
    columns = _Columns()
    names: list[str] = []
    rows: list[tuple[int, str]] = []
    for number, text in enumerate(text_of(path).splitlines(), 1):
        body, _, comment = text.partition("#")
        columns.wavelengths_A += wavelengths_in(comment)
        if not body.strip(" \t,;"):
            continue
        if rows or names or _starts_with_number(body):
            rows.append((number, body))
        else:
            names = _names(path, [word for word in re.split(r"[,;\s]+", body.strip()) if word])
    comma = decimal_commas(path, [body for _, body in rows], len(names))
    for number, body in rows:
        text = body.replace(",", ".") if comma else body
        try:
            row = [float(word) for word in re.split(r"[,;\s]+", text.strip(" \t,;\r\n")) if word]
        except ValueError as error:
            raise InputError(
                f"'{path}', line {number}: '{body.strip()}' are not numbers. Correct the line, "
                "or put # before a comment."
            ) from error
        names = names or _unnamed(path, kind, len(row))
        if len(row) != len(names):
            raise InputError(
                f"'{path}', line {number}: {len(row)} numbers where {len(names)} columns "
                f"({', '.join(names)}) are expected. Correct the line."
            )
        for name, value in zip(names, row, strict=True):
            columns.values.setdefault(name, []).append(value)
        columns.places.append(f"line {number}")
    return columns


def _starts_with_number(text: str) -> bool:
    word = re.split(r"[,;\s]+", text.strip())[0]
    try:
        float(word)
    except ValueError:
        return False
    return True


def _read_json(path: Path, kind: str | None) -> _Columns:
    try:
        tree = json.loads(text_of(path))
    except json.JSONDecodeError as error:
        raise InputError(
            f"'{path}', line {error.lineno}, is not JSON: {error.msg}. Correct it."
        ) from error
    if isinstance(tree, list):
        tree = {_unnamed(path, kind, 1)[0]: tree}
    if not isinstance(tree, dict):
        raise InputError(f"'{path}' holds neither an object of columns nor a list. Correct it.")
    columns = _Columns()
    for key, value in tree.items():
        if NAMES.get(key.lower()) and isinstance(value, list):
            columns.values[NAMES[key.lower()]] = _numbers(path, key, value)
        elif key.lower() in ("wavelength", "wavelength_a"):
            columns.wavelengths_A += _numbers(
                path, key, value if isinstance(value, list) else [value]
            )
    lengths = {name: len(value) for name, value in columns.values.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"'{path}': the columns differ in length: {lengths}. Correct it.")
    columns.places = [f"entry {n + 1}" for n in range(max(lengths.values(), default=0))]
    return columns


def _numbers(path: Path, key: str, values: list[Any]) -> list[float]:
    bad = next((n for n, v in enumerate(values) if isinstance(v, bool | str | list | dict)), None)
    if bad is not None or None in values:
        raise InputError(f"'{path}': \"{key}\" holds something that is no number. Correct it.")
    return [float(v) for v in values]


def _read_npy(path: Path, kind: str | None) -> _Columns:
    try:
        array = np.asarray(np.load(path, allow_pickle=False), dtype=np.float64)
    except (ValueError, EOFError, TypeError) as error:
        raise InputError(
            f"'{path}' is no .npy file of numbers, or is damaged. Save the array again with "
            "numpy.save."
        ) from error
    if array.ndim not in (1, 2) or (array.ndim == 2 and array.shape[1] > 3):
        raise InputError(
            f"'{path}' holds an array of shape {array.shape}. Save (n,) lines, or (n, 2) or (n, 3) "
            "with columns line, sigma, intensity."
        )
    table = array.reshape(len(array), -1)
    names = _unnamed(path, kind, table.shape[1])
    values = {name: table[:, n].tolist() for n, name in enumerate(names)}
    return _Columns(values, [f"row {n + 1}" for n in range(len(table))])


def _read_pkslst(path: Path, kind: str | None) -> _Columns:
    del kind  # always 2θ
    columns = _Columns(values={"two_theta": [], "intensity": []})
    for number, text in enumerate(text_of(path).splitlines(), 1):
        if "#" in text or not text.strip():
            continue
        plain = text.strip().replace("True", "true").replace("False", "false")
        try:
            row = json.loads(plain)
            place, intensity = float(row[0]), float(row[2])
        except (json.JSONDecodeError, TypeError, ValueError, IndexError, KeyError) as error:
            raise InputError(
                f"'{path}', line {number}: '{text.strip()[:60]}' is no peak of GSAS-II, such as "
                "[12.34, True, 567.8, True, ...]. Save the list again from its Peak List menu."
            ) from error
        columns.values["two_theta"].append(place)
        columns.values["intensity"].append(intensity)
        columns.places.append(f"line {number}")
    return columns


def _names(path: Path, words: list[str]) -> list[str]:
    names = [NAMES.get(word.lower().strip("\"'")) for word in words]
    known = [name for name in names if name is not None]
    if len(known) < len(words) or len(set(known)) < len(known):
        raise InputError(
            f"'{path}' names its columns '{' '.join(words)}'. Name each column once: q2, d or "
            "two_theta, then sigma or intensity if there are such."
        )
    return known


def _unnamed(path: Path, kind: str | None, n: int) -> list[str]:
    if kind is None:
        raise ConfigError(
            f"'{path}' does not say what its numbers are. Set peaks.kind to q2 (Å⁻²), d (Å) or "
            "two_theta (degrees), or name the columns in its first line."
        )
    if n > 3:
        raise InputError(
            f"'{path}' has {n} columns without names. Name them in the first line of the file."
        )
    return [kind, "sigma", "intensity"][:n]


# ---- checks --------------------------------------------------------------------------------


def _checked(path: Path, columns: _Columns) -> PeakList:
    kinds = [kind for kind in KINDS if kind in columns.values]
    if len(kinds) != 1:
        held = " and ".join(kinds) if kinds else "none"
        raise InputError(f"'{path}': of the columns q2, d and two_theta it has {held}. Give one.")
    kind = kinds[0]
    arrays = {name: np.array(value) for name, value in columns.values.items()}
    if len(arrays[kind]) < MIN_LINES:
        raise InputError(
            f"'{path}' holds {len(arrays[kind])} lines; indexing takes {MIN_LINES} at least, 20 "
            "are good. Add the weaker lines at low angle."
        )
    for name, value in arrays.items():
        bad = ~np.isfinite(value) | ((value <= 0) if name == kind else (value < 0))
        if bad.any():
            row = int(np.argmax(bad))
            raise InputError(
                f"'{path}', {columns.places[row]}: {name} is {value[row]:g}. Lines, errors and "
                "intensities are positive numbers; correct or remove this one."
            )
    value = arrays[kind]
    d, d_sigma = _spacings(path, kind, value, arrays.get("sigma"), columns)
    _require_plausible(path, kind, value, d, columns)
    sigma = None if d_sigma is None else 2.0 * d_sigma / d**3
    return _sorted(path, d**-2.0, sigma, arrays.get("intensity"))


def _spacings(
    path: Path, kind: str, value: Floats, sigma: Floats | None, columns: _Columns
) -> tuple[Floats, Floats | None]:
    """d and its σ in Å."""
    if kind == "d":
        return value, sigma
    if kind == "q2":
        d = value**-0.5
        return d, None if sigma is None else 0.5 * d**3 * sigma
    wavelength = _wavelength(path, columns)
    if (value >= 180.0).any():
        row = int(np.argmax(value >= 180.0))
        raise InputError(
            f"'{path}', {columns.places[row]}: a 2θ of {value[row]:g}° is not below 180°. Are the "
            "numbers something else? Set peaks.kind."
        )
    theta = np.radians(0.5 * value)
    d = wavelength / (2.0 * np.sin(theta))
    return d, None if sigma is None else d / np.tan(theta) * np.radians(0.5 * sigma)


def _wavelength(path: Path, columns: _Columns) -> float:
    """The one wavelength in Å. Raises ConfigError if there is none, or several."""
    different = sorted(set(columns.wavelengths_A))
    if not different:
        raise ConfigError(
            f"'{path}' gives 2θ, which means nothing without the wavelength. Set "
            "peaks.wavelength_A (1.5406 is copper Kα₁)."
        )
    if different[-1] > different[0] * (1.0 + SAME_WAVELENGTH):
        raise ConfigError(
            f"'{path}' states several wavelengths: {', '.join(f'{v:g}' for v in different)} Å. "
            "Which one are the lines of? Set peaks.wavelength_A; where Kα₂ was stripped or the "
            "lines are resolved it is that of Kα₁, otherwise the weighted mean."
        )
    return different[0]


def _require_plausible(path: Path, kind: str, value: Floats, d: Floats, columns: _Columns) -> None:
    """Raise InputError if the spacings are none of a powder pattern: most likely a wrong unit."""
    low, high = D_LIMITS_A
    longest = np.argsort(-d, kind="stable")[:CHECKED_LINES]  # what indexing looks at
    out = np.zeros(len(d), dtype=bool)
    out[longest] = (d[longest] < low) | (d[longest] > high)
    rising, falling = np.all(np.diff(value) > 0), np.all(np.diff(value) < 0)
    if kind == "d" and rising and value[-1] > 3.0 * value[0] and value[-1] > 20.0:
        guess = "They rise from line to line and grow large, as 2θ does: set peaks.kind = two_theta"
    elif kind == "d" and rising and out.any():
        guess = "They rise from line to line, as q² does: set peaks.kind = q2"
    elif kind != "d" and falling and out.any():
        guess = "They fall from line to line, as d does: set peaks.kind = d"
    elif kind == "q2" and out.any() and value.max() > 4.0:
        guess = "They are large, as 2θ or d are: set peaks.kind"
    elif out.any():
        guess = "Are they in another unit (nm, or with 2π), or is the wavelength another"
    else:
        return
    row = int(np.argmax(out)) if out.any() else len(d) - 1
    raise InputError(
        f"'{path}', {columns.places[row]}: taken as {UNITS[kind]}, {value[row]:g} means d = "
        f"{d[row]:.3g} Å; plausible lines fall from at most {high:g} Å to {low:g} Å. {guess}"
        + ("." if "set" in guess else "? Correct the numbers or the settings.")
    )


def _sorted(path: Path, q2: Floats, sigma: Floats | None, intensity: Floats | None) -> PeakList:
    notes = []
    order = np.argsort(q2, kind="stable")
    if not (np.array_equal(order, np.arange(len(q2))) or np.all(np.diff(q2) < 0)):
        notes.append("The lines were not in order; they were sorted.")
    q2 = q2[order]
    first = np.concatenate([[True], np.diff(q2) > SAME_LINE * q2[1:]])
    if not first.all():
        notes.append(f"{int((~first).sum())} lines were given twice and merged.")
    if int(first.sum()) < MIN_LINES:
        raise InputError(
            f"'{path}' holds {int(first.sum())} different lines; indexing takes {MIN_LINES} at "
            "least. Add the weaker lines at low angle."
        )
    line = np.cumsum(first) - 1
    if int(first.sum()) > MAX_LINES:
        notes.append(f"Of {int(first.sum())} lines the first {MAX_LINES} are used.")
    elif int(first.sum()) < FEW_LINES:
        notes.append(f"{int(first.sum())} lines determine small and symmetric cells only.")
    count = np.bincount(line)

    def mean(values: Floats) -> Floats:
        return np.asarray((np.bincount(line, values) / count)[:MAX_LINES])

    return PeakList(
        q2=mean(q2),
        sigma=None if sigma is None else mean(sigma[order]),
        intensity=None if intensity is None else mean(intensity[order]),
        source=str(path),
        notes=tuple(notes),
    )
