"""Reading CrystFEL streams, versions 2.0 to 2.3.

A stream is read in blocks of whole chunks; the reflection tables of a block are parsed together.

Units: the stream's nm⁻¹ become Å⁻¹; λ = 12398.4198 / E(eV) Å. The beam propagates along +z.

Source: CrystFEL 0.12, libcrystfel/src/stream.c and datatemplate.c.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from sfxproc.data import Correction, Crystals, Floats, Observations, Stills, concatenate
from sfxproc.errors import InputError
from sfxproc.formats.base import Request
from sfxproc.formats.crystfel_geometry import placed_detector, polarisation_of
from sfxproc.formats.crystfel_table import (
    LAYOUTS,
    Damage,
    Panels,
    TableText,
    decoded,
    observations_of,
)
from sfxproc.symmetry import cells_from_A

EV_ANGSTROM = 12398.4198
FIRST_LINE = b"CrystFEL stream format "
CHUNK, CHUNK_END = b"----- Begin chunk -----", b"----- End chunk -----"
CRYSTAL, CRYSTAL_END = b"--- Begin crystal", b"--- End crystal"
TABLE, TABLE_END = b"Reflections measured after indexing", b"End of reflections"
GEOMETRY, GEOMETRY_END = b"----- Begin geometry file -----", b"----- End geometry file -----"

_BLOCK_BYTES = 1 << 23
CORRECTED = b"Corrected for: "
_CORRECTED = re.compile(rb"^" + CORRECTED + rb"(.*?)\s*$", re.M)
_POLARISATION = re.compile(rb"--polarisation[= ](\S+)")
_NO_BEGIN = "a crystal has no begin marker and was skipped"
VALUES = {
    "file": re.compile(rb"^Image filename:[ \t]*(\S.*?)\s*$", re.M),
    "event": re.compile(rb"^Event:[ \t]*(\S.*?)\s*$", re.M),
    "serial": re.compile(rb"^Image serial number: *(\S+)", re.M),
    "energy_eV": re.compile(rb"^photon_energy_eV = (\S+)", re.M),
    "bandwidth": re.compile(rb"^beam_bandwidth = (\S+)", re.M),
    "radius": re.compile(rb"^profile_radius = (\S+)", re.M),
    "camera_m": re.compile(rb"^average_camera_length = (\S+) m", re.M),
    "n_reflections": re.compile(rb"^num_reflections = (\S+)", re.M),
    "n_peaks": re.compile(rb"^num_peaks = (\S+)", re.M),
    "cell": re.compile(
        rb"^Cell parameters\s+(\S+)\s+(\S+)\s+(\S+) nm,\s*(\S+)\s+(\S+)\s+(\S+) deg", re.M
    ),
}
"""What the lines of a chunk state."""
_AXES = [
    re.compile(rb"^%sstar =[ \t]*(\S+)[ \t]+(\S+)[ \t]+(\S+)" % axis, re.M)
    for axis in (b"a", b"b", b"c")
]


@dataclass
class _Rows:
    """Columns gathered from the crystals of a stream."""

    file: list[str] = field(default_factory=list)
    event: list[str] = field(default_factory=list)
    A: list[Floats] = field(default_factory=list)
    cell: list[list[float]] = field(default_factory=list)
    wavelength_A: list[float] = field(default_factory=list)
    bandwidth: list[float] = field(default_factory=list)
    profile_radius: list[float] = field(default_factory=list)
    camera_m: list[float] = field(default_factory=list)


def read(path: Path, request: Request) -> Stills:
    """Read a stream.

    A crystal's identity is its image file and event, with #2, #3 … for further lattices of one
    image. Damaged parts are skipped and counted in the notes; a crystal without reciprocal axes
    keeps its reflections and gets A = NaN. Raises InputError if the file is not a stream of a
    known version, or is damaged and `request.strict` is set.
    """
    try:
        with path.open("rb") as handle:
            return _read(handle, path, request)
    except OSError as error:
        raise InputError(
            f"Cannot read '{path}': {error.strerror}. Check the path and its permissions."
        ) from error


def panel_corners(header: str) -> Panels:
    """Panels of a geometry file, in order: the file coordinates (min_fs, min_ss) of each.

    A key without a panel name is the default of the panels defined after it.
    """
    corners: dict[str, dict[str, float]] = {}
    default = {"min_fs": 0.0, "min_ss": 0.0}
    for line in header.splitlines():
        left, equals, right = line.partition(";")[0].partition("=")
        name, slash, key = left.strip().rpartition("/")
        if not equals or name.startswith("bad"):
            continue
        target = corners.setdefault(name, dict(default)) if slash else default
        if key in default:
            target[key] = float(right)
    return {name: (c["min_fs"], c["min_ss"]) for name, c in corners.items()}


def _read(handle: BinaryIO, path: Path, request: Request) -> Stills:
    version, start = version_of(handle, path)
    layout = LAYOUTS[version]
    damage = Damage(path, request.strict)
    columns = request.columns & {"panel", "x_px", "y_px"}
    notes = []
    if columns and layout.panel is None:
        notes.append(f"stream format {version} names no panels: positions were not read")
        columns = frozenset()
    head, start = read_head(handle, start)
    count_outside(head.rpartition(GEOMETRY_END)[2], start, damage, told=False)
    geometry = head.partition(GEOMETRY)[2].partition(b"\n")[2].partition(GEOMETRY_END)[0]
    header = decoded(geometry)
    try:
        panels = panel_corners(header)
    except ValueError as error:
        raise InputError(
            f"'{path}': the geometry in the stream's header is damaged: {error}. Copy the stream "
            "again, or correct the line."
        ) from error
    polarised = _POLARISATION.search(head)
    rows = _Rows()
    n_images = 0
    parts = [_nothing(columns)]
    for offset, block in stream_blocks(handle, start):
        tables: list[TableText] = []
        for at, chunk in chunks_of(block, offset, damage):
            n_images += 1
            if CRYSTAL in chunk or TABLE in chunk:
                _read_chunk(chunk, at, rows, tables, damage)
        parts += observations_of(tables, layout, columns, panels, damage)
    return Stills(
        crystals=_crystals(rows),
        observations=concatenate(parts),
        n_images=n_images,
        detector=placed_detector(header, _median(rows.camera_m)),
        notes=(*notes, *damage.notes()),
        header=header,
        corrected=_corrected(head),
        polarisation=None if polarised is None else polarisation_of(decoded(polarised[1])),
    )


def _median(values: list[float]) -> float:
    """Of those that are finite; NaN if none is."""
    known = [v for v in values if np.isfinite(v)]
    return float(np.median(known)) if known else np.nan


def _corrected(head: bytes) -> frozenset[Correction]:
    """What a stream of ours says that its intensities are corrected for."""
    line = _CORRECTED.search(head)
    words = [] if line is None else decoded(line[1]).split(", ")
    return frozenset(c for c in Correction if c in words)


def version_of(handle: BinaryIO, path: Path) -> tuple[str, int]:
    """Version by the first line, and how long that is. Raises InputError."""
    line = handle.readline(200)
    if not line.startswith(FIRST_LINE):
        raise InputError(
            f"'{path}' does not begin with '{FIRST_LINE.decode().strip()}', so it is not a "
            "CrystFEL stream. Give the .stream file that indexamajig wrote."
        )
    version = decoded(line[len(FIRST_LINE) :]).strip()
    if version not in LAYOUTS:
        raise InputError(
            f"'{path}' is a CrystFEL stream of version {version}; versions "
            f"{', '.join(LAYOUTS)} can be read. Write it again with CrystFEL 0.12."
        )
    return version, len(line)


def read_head(handle: BinaryIO, start: int) -> tuple[bytes, int]:
    """Everything before the first chunk, and where that begins; the handle is left there."""
    head = b""
    while CHUNK not in head and (data := handle.read(_BLOCK_BYTES)):
        head += data
    head = head.partition(CHUNK)[0]
    handle.seek(start + len(head))
    return head, start + len(head)


def stream_blocks(handle: BinaryIO, offset: int) -> Iterator[tuple[int, bytes]]:
    """Pieces of the stream that end with a chunk (the last one perhaps not), and their offsets."""
    rest = b""
    while data := handle.read(_BLOCK_BYTES):
        text = rest + data
        end = text.rfind(CHUNK_END)
        if end < 0:
            rest = text
            continue
        end += len(CHUNK_END)
        yield offset, text[:end]
        rest = text[end:]
        offset += end
    if rest:
        yield offset, rest


def chunks_of(block: bytes, offset: int, damage: Damage) -> Iterator[tuple[int, bytes]]:
    """The whole chunks of a block; the ones that do not begin or end are counted as damage."""
    at, done = block.find(CHUNK), 0
    while at >= 0:
        count_outside(block[done:at], offset + at, damage)
        after = block.find(CHUNK, at + 1)
        done = after if after >= 0 else len(block)
        end = block.find(CHUNK_END, at, done)
        if end >= 0:
            yield offset + at, block[at:end]
            done = end + len(CHUNK_END)
        else:
            damage.add("a chunk is cut short and was skipped", offset + at)
        at = after
    count_outside(block[done:], offset + len(block), damage)


def count_outside(text: bytes, end: int, damage: Damage, told: bool = True) -> None:
    """Count what is lost in a text that belongs to no chunk and ends at a byte of the file: images
    that do not begin and, where `told`, lines of no meaning."""
    if not text.strip():
        return
    start = end - len(text.lstrip())
    images = max(text.count(CHUNK_END), len(VALUES["file"].findall(text)))
    for _ in range(images):
        damage.add("an image has no begin marker and was skipped", start)
    if told and not images and FIRST_LINE not in text:  # streams may stand one behind the other
        damage.add("text between images was skipped", start)


def _read_chunk(
    chunk: bytes, offset: int, rows: _Rows, tables: list[TableText], damage: Damage
) -> None:
    """Add the crystals of one image to `rows` and their reflection tables to `tables`."""
    head, *crystals = chunk.split(CRYSTAL)
    at = offset + len(head)
    for _ in range(head.count(TABLE)):
        damage.add(_NO_BEGIN, at)
    head = head.partition(b"Peaks from peak search")[0]
    file = VALUES["file"].search(head)
    energy_eV = value_of(head, "energy_eV")
    if file is None or not 0.0 < energy_eV < np.inf:
        damage.add("a chunk has no image file name or photon energy; its crystals were skipped", at)
        return
    event = VALUES["event"].search(head) or VALUES["serial"].search(head)
    name = "" if event is None else decoded(event[1])
    for lattice, text in enumerate(crystals, start=1):
        before, begin, rest = text.partition(TABLE)
        table, end, _ = rest.partition(TABLE_END)
        place, at = at, at + len(CRYSTAL) + len(text)
        for _ in range(text.count(TABLE) - 1):
            damage.add(_NO_BEGIN, place)
        if begin and (not end or TABLE in table):
            damage.add("a reflection table has no end; its crystal was skipped", place)
            continue
        if CRYSTAL_END not in text:
            damage.add("a crystal has no end marker", place)
        A = _orientation(before)
        if not np.all(np.isfinite(A)):
            damage.add("a crystal has no readable astar, bstar, cstar: orientation unknown", place)
        cell = VALUES["cell"].search(before)
        rows.cell.append([np.nan] * 6 if cell is None else numbers_of(cell.groups()))
        rows.file.append(decoded(file[1]))
        rows.event.append(name if lattice == 1 else f"{name}#{lattice}")
        rows.A.append(A)
        rows.camera_m.append(value_of(head, "camera_m"))
        rows.wavelength_A.append(EV_ANGSTROM / energy_eV)
        rows.bandwidth.append(value_of(head, "bandwidth"))
        rows.profile_radius.append(value_of(before, "radius") / 10.0)
        titles = re.match(rb"[^\n]*\n(?:[ \t]*h[^\n]*\n)?", table)
        skipped = titles.end() if titles else len(table)
        body = table[skipped:]
        n_rows = body.rstrip().count(b"\n") + 1 if body.strip() else 0
        stated = value_of(before, "n_reflections")
        if n_rows < stated < np.inf:
            damage.add_missing(int(stated) - n_rows, place)
        if body:
            start = place + len(CRYSTAL) + len(before) + len(TABLE) + skipped
            body += b"" if body.endswith(b"\n") else b"\n"
            tables.append(TableText(start, body, len(rows.file) - 1))


def _orientation(text: bytes) -> Floats:
    """A in Å⁻¹ from the reciprocal axes in nm⁻¹; NaN if one is missing or they are coplanar."""
    axes = [axis.search(text) for axis in _AXES]
    A = np.array([[np.nan] * 3 if m is None else numbers_of(m.groups()) for m in axes]).T / 10.0
    with np.errstate(all="ignore"):
        volume = abs(np.linalg.det(A))
    return A if 0.0 < volume < np.inf else np.full((3, 3), np.nan)


def numbers_of(texts: tuple[bytes, ...]) -> list[float]:
    """Numbers; NaN for all if one is none."""
    try:
        return [float(text) for text in texts]
    except ValueError:
        return [np.nan] * len(texts)


def value_of(text: bytes, key: str) -> float:
    """The number that a chunk states for a key; NaN if it does not."""
    match = VALUES[key].search(text)
    return np.nan if match is None else numbers_of(match.groups())[0]


def _crystals(rows: _Rows) -> Crystals:
    n = len(rows.file)
    A = np.array(rows.A).reshape(-1, 3, 3)
    cell = np.array(rows.cell).reshape(-1, 6) * [10.0, 10.0, 10.0, 1.0, 1.0, 1.0]
    oriented = np.isfinite(A).all(axis=(1, 2))
    with np.errstate(all="ignore"):  # a damaged file can hold any number
        cell[oriented] = cells_from_A(A[oriented])
    return Crystals(
        file=np.array(rows.file, dtype=object),
        event=np.array(rows.event, dtype=object),
        A=A,
        cell=cell,
        beam=np.tile([0.0, 0.0, 1.0], (n, 1)),
        wavelength_A=np.array(rows.wavelength_A),
        bandwidth=np.array(rows.bandwidth),
        profile_radius=np.array(rows.profile_radius),
    )


def _nothing(columns: frozenset[str]) -> Observations:
    """An empty table with the optional columns."""
    none = np.zeros(0, dtype=np.float32)
    return Observations(
        crystal=none.astype(np.int32),
        hkl=np.zeros((0, 3), dtype=np.int16),
        intensity=none,
        variance=none,
        panel=none.astype(np.int16) if "panel" in columns else None,
        x_px=none if "x_px" in columns else None,
        y_px=none if "y_px" in columns else None,
    )
