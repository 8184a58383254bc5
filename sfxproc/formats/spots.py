"""Lists of spots: DIALS's strong or indexed spots, CrystFEL's peak lists, and our own files.

DIALS: a `.refl` and the `.expt` beside it, with or without crystals; of a table that marks strong
spots these are taken. CrystFEL: the lists "Peaks from peak search" of a stream of version 2.3, with
the geometry in its header and the camera length of each image. Our own: HDF5 with content "spots"
and the columns of `Spots`, positions already in the frame of the beam.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sfxproc.data import Detector, Floats, Ints
from sfxproc.errors import InputError
from sfxproc.formats.crystfel import frames
from sfxproc.formats.crystfel_geometry import detector_of, panel_settings, shift_mm
from sfxproc.formats.crystfel_stream import (
    EV_ANGSTROM,
    GEOMETRY,
    GEOMETRY_END,
    chunks_of,
    count_outside,
    read_head,
    stream_blocks,
    value_of,
    version_of,
)
from sfxproc.formats.crystfel_table import LAYOUTS, Damage, decoded
from sfxproc.formats.dials import existing_twin
from sfxproc.formats.dials_detector import vector_of
from sfxproc.formats.dials_expt import load_experiments, models_of, read_experiments
from sfxproc.formats.dials_refl import ReflectionTable, read_table
from sfxproc.formats.hdf5 import create, open_native
from sfxproc.formats.hdf5 import read_table as read_native
from sfxproc.formats.hdf5 import write_table as write_native
from sfxproc.spots import Spots, SpotSet, on_panels

STRONG = 32  # DIALS's flag of a spot that was found, not only predicted
PEAKS, PEAKS_END = b"Peaks from peak search", b"End of peak list"
PEAK_COLUMNS = 5  # fs, ss, 1/d, intensity, panel


def read_spots(path: Path, strict: bool = False) -> SpotSet:
    """Read one file by its suffix: .expt or .refl (a pair), .stream, .h5.

    strict : a damaged part is an error instead of a note. Raises InputError for a file without
    spots, detector or wavelength, or that is damaged.
    """
    suffix = path.suffix.lower()
    if suffix in (".expt", ".refl"):
        found = _dials(path)
    elif suffix == ".stream":
        found = _crystfel(path, strict)
    elif suffix in (".h5", ".hdf5"):
        found = _native(path)
    else:
        raise InputError(
            f"'{path}' holds no list of spots. Give DIALS's .refl with its .expt, a CrystFEL "
            ".stream or spots in .h5 of this program, or name it in input.exclude."
        )
    if len(found.spots) == 0:
        raise InputError(
            f"'{path}' holds no spots. Find spots first (dials.find_spots, or indexamajig with "
            "--peaks), or name it in input.exclude."
        )
    return found


def write_spots(path: Path, found: SpotSet) -> None:
    """Write spots as native HDF5, atomically. Raises OutputError."""
    with create(path, "spots") as handle:
        handle.attrs.update(n_shots=found.n_shots, pixel_mm=found.pixel_mm)
        write_native(handle.create_group("spots"), found.spots)


def _native(path: Path) -> SpotSet:
    with open_native(path, "spots") as handle:
        spots = read_native(handle, "spots", Spots)
        return SpotSet(spots, int(handle.attrs["n_shots"]), float(handle.attrs["pixel_mm"]))


# ---- DIALS ---------------------------------------------------------------------------------


def _dials(path: Path) -> SpotSet:
    expt, refl = (existing_twin(path, suffix) for suffix in (".expt", ".refl"))
    experiments = read_experiments(expt, path.name)
    if experiments.detector is None:
        raise InputError(
            f"'{expt}' has no detector model, so nobody knows where its spots are. Give the .expt "
            "file that dials.import or dials.stills_process wrote."
        )
    beam, wavelength_A = _beams(expt)
    table = read_table(refl)
    notes = list(experiments.notes)
    wanted = np.ones(table.n_rows, dtype=bool)
    flags = table.columns.get("flags")
    if flags is not None:
        strong = (np.asarray(flags, dtype=np.int64) & STRONG) != 0
        if strong.any():
            wanted = strong
        elif table.n_rows:
            notes.append("no row is marked as a strong spot: all are used")
    shot = _experiment_of(table, experiments.identifiers)
    if n := int(np.count_nonzero(wanted & (shot < 0))):
        if len(np.unique(wavelength_A)) == 1 and (beam == beam[0]).all():
            shot = np.maximum(shot, 0)  # which image matters no more than its beam
        else:
            notes.append(f"spots that belong to no experiment were left out: {n}")
    rows = np.flatnonzero(wanted & (shot >= 0))
    rows = rows[np.argsort(shot[rows], kind="stable")]
    shot = shot[rows]
    px = table.column("xyzobs.px.value")[rows]
    panel = table.column("panel")[rows].astype(np.int64)
    detector = experiments.detector
    if len(panel) and panel.max() >= len(detector):
        raise InputError(
            f"'{refl}' has spots on panel {panel.max()}, but the detector in '{expt}' has "
            f"{len(detector)} panels. The two files do not belong together."
        )
    intensity = table.columns.get("intensity.sum.value", np.full(table.n_rows, np.nan))
    position = on_panels(detector, panel, px[:, 0], px[:, 1])
    turn = frames(beam)[shot]
    return SpotSet(
        Spots(
            shot=shot.astype(np.int32),
            position_mm=np.einsum("nij,nj->ni", turn, position),
            wavelength_A=wavelength_A[shot],
            intensity=np.asarray(intensity)[rows].astype(np.float32),
        ),
        n_shots=len(experiments.identifiers),
        pixel_mm=_pixel_mm(detector),
        notes=tuple(notes),
    )


def _beams(path: Path) -> tuple[Floats, Floats]:
    """Direction of propagation (n, 3) and wavelength (n,) of each experiment."""
    top = load_experiments(path)
    directions, wavelengths = [], []
    for i, experiment in enumerate(top["experiment"]):
        beam = models_of(top, experiment).get("beam", {})
        try:
            directions.append(vector_of(beam, "direction"))
            wavelengths.append(float(beam["wavelength"]))
            if not (wavelengths[-1] > 0.0 and directions[-1].any()):
                raise ValueError("it is not positive, or the beam has no direction")
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"'{path}', experiment {i}, has no wavelength or beam that can be used ({error}). "
                "Import the images again with the wavelength given."
            ) from error
    direction = np.array(directions).reshape(-1, 3)
    return -direction / np.linalg.norm(direction, axis=1, keepdims=True), np.array(wavelengths)


def _experiment_of(table: ReflectionTable, identifiers: list[str]) -> Ints:
    """Number of the experiment of every row, −1 where there is none."""
    ids = table.column("id").astype(np.int64)
    number = {name: i for i, name in enumerate(identifiers) if name}
    unique, inverse = np.unique(ids, return_inverse=True)
    named = any(table.identifiers.get(i) in number for i in unique.tolist())
    found = [
        number.get(table.identifiers.get(i, ""), -1)
        if named
        else i
        if 0 <= i < len(identifiers)
        else -1
        for i in unique.tolist()
    ]
    return np.array(found, dtype=np.int64)[inverse]


def _pixel_mm(detector: Detector) -> float:
    return float(np.median(detector.pixel_mm))


# ---- CrystFEL ------------------------------------------------------------------------------


def _crystfel(path: Path, strict: bool) -> SpotSet:
    damage = Damage(path, strict)
    shots: list[int] = []
    tables: list[tuple[Floats, Ints]] = []
    scales: list[tuple[float, float]] = []  # of each shot with spots: λ and the shift along z
    n_shots = 0
    try:
        with path.open("rb") as handle:
            version, start = version_of(handle, path)
            if LAYOUTS[version].panel is None:
                raise InputError(
                    f"'{path}' is a stream of version {version}, whose peaks name no panels. Write "
                    "it again with CrystFEL 0.9 or later."
                )
            head, start = read_head(handle, start)
            count_outside(head.rpartition(GEOMETRY_END)[2], start, damage, told=False)
            geometry = head.partition(GEOMETRY)[2].partition(b"\n")[2].partition(GEOMETRY_END)[0]
            detector, clen_mm = _geometry(path, decoded(geometry))
            number = {name: i for i, name in enumerate(detector.name.tolist())}
            corner = _file_corners(decoded(geometry))
            for offset, block in stream_blocks(handle, start):
                for at, chunk in chunks_of(block, offset, damage):
                    n_shots += 1
                    before, begin, rest = chunk.partition(PEAKS)
                    if not begin:
                        continue
                    away_mm = shift_mm(detector, clen_mm, value_of(before, "camera_m"))
                    energy_eV = value_of(before, "energy_eV")
                    if not (np.isfinite(away_mm) and 0.0 < energy_eV < np.inf):
                        damage.add("an image has no camera length or photon energy: left out", at)
                        continue
                    peaks = _peaks(rest.partition(PEAKS_END)[0], number)
                    if peaks is None:
                        damage.add("a peak list cannot be read and was left out", at)
                        continue
                    if len(peaks[1]) < value_of(before, "n_peaks"):
                        damage.add("a peak list is shorter than num_peaks says", at)
                    if len(peaks[1]):
                        shots.append(n_shots - 1)
                        tables.append(peaks)
                        scales.append((EV_ANGSTROM / energy_eV, away_mm))
    except OSError as error:
        raise InputError(
            f"Cannot read '{path}': {error.strerror}. Check the path and its permissions."
        ) from error
    size = [len(panel) for _, panel in tables]
    values = np.concatenate([np.empty((0, 3)), *(v for v, _ in tables)])
    panel = np.concatenate([np.empty(0, np.int64), *(p for _, p in tables)])
    px = values[:, :2] - corner[panel]
    each = np.repeat(np.array(scales).reshape(-1, 2), size, axis=0)
    position = on_panels(detector, panel, px[:, 0], px[:, 1])
    position[:, 2] += each[:, 1]
    return SpotSet(
        Spots(
            shot=np.repeat(np.array(shots, dtype=np.int32), size),
            position_mm=position,
            wavelength_A=each[:, 0],
            intensity=values[:, 2].astype(np.float32),
        ),
        n_shots=n_shots,
        pixel_mm=_pixel_mm(detector),
        notes=tuple(damage.notes()),
    )


def _geometry(path: Path, header: str) -> tuple[Detector, float | None]:
    try:
        return detector_of(header)
    except ValueError as error:
        raise InputError(
            f"'{path}': the geometry in the stream's header does not tell where the detector is: "
            f"{error}. Write the stream again with a complete .geom file."
        ) from error


def _file_corners(header: str) -> Floats:
    """File coordinates (n, 2) of the first pixel of each panel."""
    panels = panel_settings(header).values()
    return np.array([[float(told["min_fs"]), float(told["min_ss"])] for told in panels])


def _peaks(text: bytes, number: dict[str, int]) -> tuple[Floats, Ints] | None:
    """File position and intensity (n, 3) and panel (n,) of a list; None if it is damaged."""
    lines = text.splitlines()[2:]  # the rest of its own line, and the titles
    words = [line.split() for line in lines if line.strip()]
    try:
        if any(len(row) != PEAK_COLUMNS for row in words):
            return None
        values = np.array([[row[0], row[1], row[3]] for row in words], dtype=np.float64)
        panel = np.array([number[decoded(row[4])] for row in words], dtype=np.int64)
    except (ValueError, KeyError):
        return None
    return values.reshape(-1, 3), panel
