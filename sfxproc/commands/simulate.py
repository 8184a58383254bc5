"""Synthetic stills with their truth, for `sfxproc simulate stills` and as a job's own input."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from sfxproc.config import Tree, apply_overrides, convert, source_of
from sfxproc.data import ReferenceSet
from sfxproc.errors import InputError, OutputError
from sfxproc.formats import FORMATS
from sfxproc.formats.reference import intensities_from_model, read_reference
from sfxproc.formats.truth import truth_path, write_truth
from sfxproc.report.log import Log
from sfxproc.runs.checkpoints import JobCheckpoint
from sfxproc.settings.sections import Input
from sfxproc.simulate.stills import StillsSettings, simulate_stills

WRITERS = {suffix: f for f in FORMATS if f.write for suffix in f.suffixes}
MODEL_SUFFIXES = (".pdb", ".ent")
CIF_SUFFIXES = (".cif", ".mmcif")


def stills_settings(
    options: Tree, overrides: Sequence[str], source: Path | None
) -> tuple[StillsSettings, ReferenceSet | None]:
    """The settings, and the true intensities from a merged set or model if one is given.

    Space group and unit cell come from that file unless the options say otherwise. Raises
    ConfigError for a bad setting, InputError for a bad file.
    """
    tree = apply_overrides(options, overrides)
    settings = convert(tree, StillsSettings, source_of("the command line", overrides))
    if source is None:
        return settings, None
    reference = read_source(source, settings.d_min_A)
    cell = tuple(float(v) for v in reference.cell)
    from_file = {"space_group": reference.space_group, "unit_cell": cell}
    missing = {key: value for key, value in from_file.items() if key not in tree}
    return msgspec.structs.replace(settings, **missing), reference


def read_source(path: Path, d_min_A: float) -> ReferenceSet:
    """Intensities of a merged set (MTZ, mmCIF), or calculated from coordinates (PDB, mmCIF)."""
    suffix = path.suffix.lower()
    if suffix in MODEL_SUFFIXES or (suffix in CIF_SUFFIXES and not _holds_reflections(path)):
        return intensities_from_model(path, d_min_A)
    return read_reference(path)


def _holds_reflections(path: Path) -> bool:
    try:
        return "_refln." in path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(
            f"--from: '{path}' cannot be read: {error.strerror}. Give an MTZ, mmCIF or PDB file."
        ) from error


def simulate(
    out: Path, settings: StillsSettings, reference: ReferenceSet | None, overwrite: bool, log: Log
) -> str:
    """Simulate, write `out` in the format of its suffix and the truth beside it.

    Returns the closing sentence. Raises OutputError for a suffix that cannot be written and for
    files that exist, unless they may be overwritten.
    """
    fmt = WRITERS.get(out.suffix.lower())
    if fmt is None or fmt.write is None:
        raise OutputError(
            f"Stills cannot be written as '{out.name}': its suffix must be one of "
            f"{', '.join(WRITERS)}."
        )
    truth = truth_path(out)
    files = [out, truth, *(out.with_suffix(s) for s in fmt.suffixes)]
    if not overwrite and (existing := [path for path in files if path.exists()]):
        raise OutputError(
            f"'{existing[0]}' exists. Choose another name, or add --overwrite to replace it."
        )
    log(f"simulating {settings.n_crystals:,} crystals in {settings.space_group}")
    made = simulate_stills(settings, reference)
    log(f"writing {fmt.name}")
    fmt.write(out, made.stills)
    write_truth(truth, made.truth.columns(), msgspec.json.encode(settings).decode())
    return (
        f"Wrote {len(made.stills.crystals):,} crystals with {len(made.stills.observations):,} "
        f"reflections to '{out}' and their truth to '{truth}'. `sfxproc show {out}` describes "
        "them."
    )


def simulated_inputs(
    settings: StillsSettings | None, inputs: Input, checkpoint: JobCheckpoint, log: Log
) -> Input:
    """The inputs as they are, or those simulated into the job's folder if there are settings for
    it, with their truth beside them; a job that goes on keeps those that it has."""
    if settings is None:
        return inputs
    out = checkpoint.folder / "simulated.h5"
    if checkpoint.comm.rank == 0:
        checkpoint.begin()
        if checkpoint.resumed and out.exists() and truth_path(out).exists():
            log(f"the input was simulated before: '{out}', its truth '{truth_path(out)}'")
        else:
            log(simulate(out, settings, None, True, log))
        merged = checkpoint.folder / "merged.mtz"
        log(f"`sfxproc compare {merged} --truth {truth_path(out)}` will score the result")
    checkpoint.comm.barrier()
    return msgspec.structs.replace(inputs, paths=[str(out)])
