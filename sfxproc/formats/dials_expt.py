"""DIALS experiment lists (`.expt`, JSON): crystals, beams and the detector.

An experiment names its models by index; one index in several experiments is a shared model.

Frames. A = [a b c]⁻ᵀ, where the file's real_space_a, b, c are the rows of A⁻¹ in the laboratory
frame; the beam propagates along −direction.

Source: dxtbx (DIALS 3.12), model/crystal.h and beam.h, serialize/filename.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gemmi
import numpy as np

from sfxproc.data import BeamPolarisation, Crystals, Detector, Floats, Ints, Stills
from sfxproc.errors import InputError
from sfxproc.formats.atomic import write_text
from sfxproc.formats.dials_detector import detector_tree, flattened, vector_of
from sfxproc.symmetry import cells_from_A

Model = Mapping[str, Any]

AXES = ("real_space_a", "real_space_b", "real_space_c")
OF_SCANS = ("_at_scan_points", "recalculated_")  # parts of the keys that a new orientation voids
IMAGE_PATHS = ("images", "template", "mask", "gain", "pedestal", "dx", "dy")  # of an imageset
POLARISATION_NORMAL = (0.0, 1.0, 0.0)  # where the data do not tell


@dataclass(frozen=True, eq=False)
class Experiments:
    """An experiment list.

    crystals : the experiments that have a crystal model, in file order.
    crystal_of : (n_experiments,) row of `crystals`, −1 where there is none.
    identifiers : one text an experiment, empty where the file gives none. polarisation : of the
    first crystal's beam. space_group : of all crystals, empty where they differ or none is told.
    """

    crystals: Crystals
    crystal_of: Ints
    identifiers: list[str]
    n_images: int
    detector: Detector | None
    notes: tuple[str, ...]
    has_sweeps: bool = False
    polarisation: BeamPolarisation | None = None
    space_group: str = ""


def read_experiments(path: Path, label: str) -> Experiments:
    """Read an experiment list; `label` becomes the file part of the crystals' identities.

    Raises InputError if the file is not JSON, not an experiment list, or a model is incomplete.
    """
    top = load_experiments(path)
    experiments: list[Model] = top["experiment"]
    place = "the list of experiments"
    identifiers: list[str] = []
    events: list[str] = []
    axes: list[list[Floats]] = []
    beams: list[Floats] = []
    wavelengths: list[float] = []
    crystal_of = np.full(len(experiments), -1)
    images: set[Any] = set()
    detectors: list[Model] = []
    radii: list[float] = []
    groups: set[str] = set()
    polarised: list[BeamPolarisation | None] = []
    n_sweeps = 0
    try:
        for i, experiment in enumerate(experiments):
            place = f"experiment {i}"
            models = models_of(top, experiment)
            identifiers.append(str(experiment.get("identifier", "")))
            images.update(_images(models, i))
            n_sweeps += _rotation_deg(models.get("scan")) != 0.0
            if (detector := models.get("detector")) is not None:
                detectors.append(detector)
            if (crystal := models.get("crystal")) is None:
                continue
            beam = models["beam"]
            crystal_of[i] = len(axes)
            axes.append([vector_of(crystal, axis) for axis in AXES])
            beams.append(vector_of(beam, "direction"))
            wavelengths.append(float(beam["wavelength"]))
            if not (np.linalg.det(axes[-1]) != 0.0 and beams[-1].any() and wavelengths[-1] > 0.0):
                raise ValueError("a cell without volume, or a beam without direction or wavelength")
            events.append(_event(experiment, i))
            radii.append(_radius(crystal))
            groups.add(str(crystal.get("space_group_hall_symbol", "")))
            polarised.append(_polarisation(beam))
        place = "the detector model"
        flat = flattened(detectors[0]) if detectors else None
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        what = f"no entry {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(
            f"'{path}' is not a complete DIALS experiment list: {place}: {what}. Write it again "
            "with DIALS, or leave the file out with input.exclude."
        ) from error
    n = len(axes)
    A = np.linalg.inv(np.array(axes).reshape(-1, 3, 3))
    direction = np.array(beams).reshape(-1, 3)
    crystals = Crystals(
        file=np.full(n, label, dtype=object),
        event=np.array(events, dtype=object),
        A=A,
        cell=cells_from_A(A),
        beam=-direction / np.linalg.norm(direction, axis=1, keepdims=True),
        wavelength_A=np.array(wavelengths),
        bandwidth=np.full(n, np.nan),
        profile_radius=np.array(radii, dtype=np.float64),
    )
    notes = []
    if any(d is not detectors[0] and d != detectors[0] for d in detectors):
        notes.append("the experiments have different detector models; the first one is kept")
    if n_sweeps:
        notes.append(
            f"rotation sweeps among the experiments: {n_sweeps}; they are treated as stills"
        )
    if len(set(polarised)) > 1:
        notes.append("the beams differ in their polarisation; that of the first crystal is kept")
    return Experiments(
        crystals,
        crystal_of,
        identifiers,
        len(images),
        flat,
        tuple(notes),
        n_sweeps > 0,
        next(iter(polarised), None),
        _symbol(groups),
    )


def _polarisation(beam: Model) -> BeamPolarisation | None:
    """What a beam model tells of its polarisation."""
    if "polarization_fraction" not in beam or "polarization_normal" not in beam:
        return None
    x, y, z = vector_of(beam, "polarization_normal").tolist()
    return BeamPolarisation(float(beam["polarization_fraction"]), (x, y, z))


def _symbol(hall: set[str]) -> str:
    """The Hermann–Mauguin symbol of one Hall symbol; empty for several and for unknown ones."""
    if len(hall) != 1:
        return ""
    try:
        group = gemmi.find_spacegroup_by_ops(gemmi.symops_from_hall(next(iter(hall))))
    except (RuntimeError, ValueError):
        return ""
    return "" if group is None else str(group.xhm())


def identifiers_of(crystals: Crystals) -> list[str]:
    """Distinct experiment identifiers: the events, or with the file where events repeat."""
    events = [str(event) for event in crystals.event]
    return events if len(set(events)) == len(events) else crystals.identity


def write_experiments(path: Path, stills: Stills) -> None:
    """Write one experiment a crystal of the stills, in their space group; see `write_models`."""
    write_models(path, stills.crystals, stills.detector, stills.space_group or "P 1")


def write_models(
    path: Path, crystals: Crystals, detector: Detector | None, space_group: str = "P 1"
) -> None:
    """Write one experiment a crystal, atomically.

    A crystal without an orientation becomes an experiment without a crystal model. A profile radius
    R becomes domains of the size 1/2R without mosaic spread. Raises OutputError if the file cannot
    be written.
    """
    hall = gemmi.SpaceGroup(space_group).hall
    experiments: list[dict[str, Any]] = []
    models: list[Any] = []
    axes = _real_axes(crystals.A)
    for i, identifier in enumerate(identifiers_of(crystals)):
        experiment: dict[str, Any] = {"__id__": "Experiment", "identifier": identifier, "beam": i}
        if detector is not None:
            experiment["detector"] = 0
        if axes[i]:
            experiment["crystal"] = len(models)
            size = _domains(float(crystals.profile_radius[i]))
            models.append({"__id__": "crystal", **axes[i], "space_group_hall_symbol": hall, **size})
        experiments.append(experiment)
    top = {
        "__id__": "ExperimentList",
        "experiment": experiments,
        "imageset": [],
        "beam": _beams(crystals),
        "detector": [] if detector is None else [detector_tree(detector)],
        "goniometer": [],
        "scan": [],
        "crystal": models,
        "profile": [],
        "scaling_model": [],
    }
    write_text(path, json.dumps(top, allow_nan=False))


def _domains(radius: float) -> dict[str, float]:
    """What a crystal model of mosaic domains says of a profile radius in Å⁻¹ (Sauter et al., Acta
    Cryst. D70, 3299, 2014): full widths are 1/D + η/d."""
    if not (np.isfinite(radius) and radius > 0.0):
        return {}
    return {"ML_half_mosaicity_deg": 0.0, "ML_domain_size_ang": 0.5 / radius}


def _radius(crystal: Model) -> float:
    """The profile radius of a crystal model without mosaic spread; NaN of any other."""
    if crystal.get("ML_half_mosaicity_deg") != 0.0:
        return np.nan
    size = float(crystal.get("ML_domain_size_ang", 0.0))
    return 0.5 / size if size > 0.0 else np.nan


def write_refined(path: Path, source: Path, crystals: Crystals) -> None:
    """Write the experiment list `source` again with these crystals' A and wavelengths, atomically.

    crystals : by event, as `read_experiments` names them. An experiment whose crystal is not among
    them, or has no orientation (NaN), is dropped. Each other one gets a crystal model of its own,
    without what is told of scan points, and a beam of its own if its wavelength is another than in
    the file (NaN: that of the file). All else is kept as it is, but for relative paths of images:
    DIALS looks for them from the folder of the list, so they become absolute. Raises InputError if
    the source can no longer be read and OutputError if the file cannot be written.
    """
    top = load_experiments(source)
    row_of = {str(event): row for row, event in enumerate(crystals.event)}
    axes, wavelengths = _real_axes(crystals.A), crystals.wavelength_A.tolist()
    experiments: list[Model] = []
    models: list[Model] = []
    beams: list[Model] = list(top["beam"])
    for i, old in enumerate(top["experiment"]):
        if old.get("crystal") is None:
            experiments.append(old)
            continue
        row = row_of.get(_event(old, i))
        if row is None or not axes[row]:
            continue
        experiment = {**old, "crystal": len(models)}
        models.append({**_of_stills(top["crystal"][old["crystal"]]), **axes[row]})
        beam = beams[old["beam"]]
        if np.isfinite(wavelengths[row]) and wavelengths[row] != beam["wavelength"]:
            experiment["beam"] = len(beams)
            beams.append({**_of_stills(beam), "wavelength": wavelengths[row]})
        experiments.append(experiment)
    imagesets = [_with_absolute_paths(m, source) for m in top.get("imageset", ())]
    changed = {"experiment": experiments, "crystal": models, "beam": beams, "imageset": imagesets}
    write_text(path, json.dumps({**top, **changed}))


def _event(experiment: Model, i: int) -> str:
    """What names the crystal of experiment i within its file."""
    return str(experiment.get("identifier", "")) or str(i)


def _real_axes(A: Floats) -> list[dict[str, list[float]]]:
    """Real-space axes of each A (n, 3, 3) as a crystal model has them; none where A is NaN."""
    oriented = np.all(np.isfinite(A), axis=(1, 2))
    axes = np.linalg.inv(np.where(oriented[:, None, None], A, np.eye(3))).tolist()
    return [
        dict(zip(AXES, rows, strict=True)) if known else {}
        for rows, known in zip(axes, oriented, strict=True)
    ]


def _of_stills(model: Model) -> dict[str, Any]:
    """A model without what is told of scan points."""
    return {k: v for k, v in model.items() if not any(part in k for part in OF_SCANS)}


def _with_absolute_paths(imageset: Model, source: Path) -> dict[str, Any]:
    """An imageset whose relative paths, as seen from the file `source`, are made absolute."""
    folder = source.absolute().parent

    def absolute(value: Any) -> Any:
        if isinstance(value, list):
            return [absolute(v) for v in value]
        if not isinstance(value, str) or not value or value[0] in "~$" or "://" in value:
            return value
        return os.path.normpath(folder / value)

    return {k: absolute(v) if k in IMAGE_PATHS else v for k, v in imageset.items()}


def load_experiments(path: Path) -> dict[str, Any]:
    """The JSON of an experiment list. Raises InputError."""
    try:
        top = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(
            f"Cannot read '{path}': {error.strerror}. Check the path and its permissions."
        ) from error
    except ValueError as error:
        raise InputError(
            f"'{path}' is not valid JSON ({error}), so not a DIALS experiment list. It is damaged "
            "or was cut short: copy it again or leave it out with input.exclude."
        ) from error
    if not isinstance(top, dict) or not isinstance(top.get("experiment"), list):
        raise InputError(
            f"'{path}' has no list named 'experiment', so it is not a DIALS experiment list. Give "
            "the .expt file that belongs to the .refl file."
        )
    return top


def models_of(top: Model, experiment: Model) -> dict[str, Model]:
    """The models of an experiment; one index means one shared object."""
    models = {}
    for kind in ("beam", "detector", "crystal", "scan", "imageset"):
        if (index := experiment.get(kind)) is not None:
            if index < 0:
                raise IndexError(f"{kind} index {index}")
            models[kind] = top[kind][index]
    return models


def _images(models: Mapping[str, Model], i: int) -> list[Any]:
    """A key for every image of experiment i; the experiment itself where images have no name."""
    imageset, scan = models.get("imageset"), models.get("scan")
    if imageset is None:
        return [i]
    names = imageset.get("template") or tuple(imageset.get("images", ()))
    if scan is not None:
        first, last = scan["image_range"]
        return [(names, image) for image in range(first, last + 1)]
    within = tuple(imageset.get("single_file_indices") or ())
    return [(names, within)] if isinstance(names, tuple) and len(names) == 1 else [i]


def _rotation_deg(scan: Model | None) -> float:
    """Rotation of one image of a scan, in either of DIALS's notations; 0 for a still."""
    if scan is None:
        return 0.0
    if "oscillation" in scan:
        return float(scan["oscillation"][1])
    properties = scan.get("properties", {})
    angles = properties.get("oscillation", ())
    if len(angles) > 1:
        return float(angles[1] - angles[0])
    return float(np.sum(properties.get("oscillation_width", 0.0)))


def _beams(crystals: Crystals) -> list[dict[str, Any]]:
    return [
        {
            "direction": direction,
            "wavelength": wavelength,
            "divergence": 0.0,
            "sigma_divergence": 0.0,
            "polarization_normal": list(POLARISATION_NORMAL),
            "polarization_fraction": 0.999,
            "flux": 0.0,
            "transmission": 1.0,
        }
        for direction, wavelength in zip(
            (-crystals.beam).tolist(), crystals.wavelength_A.tolist(), strict=True
        )
    ]
