"""Synthetic stills with their truth, written to files or as a job's own input."""

from __future__ import annotations

from pathlib import Path

import msgspec

from sfxproc.data import ReferenceSet
from sfxproc.errors import OutputError
from sfxproc.formats import FORMATS
from sfxproc.formats.truth import truth_path, write_truth
from sfxproc.report.log import Log
from sfxproc.runs.names import MERGED, SIMULATED_DATA
from sfxproc.runs.run import Run
from sfxproc.settings.sections import Input
from sfxproc.simulate.settings import StillsSettings
from sfxproc.simulate.stills import simulate_stills

WRITERS = {suffix: f for f in FORMATS if f.write for suffix in f.suffixes}


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


def simulated_inputs(settings: StillsSettings | None, inputs: Input, run: Run) -> Input:
    """The inputs as they are, or those simulated into the job's folder if there are settings for
    it, with their truth beside them; a job that goes on keeps those that it has."""
    if settings is None:
        return inputs
    out, truth = (run.folder / name for name in SIMULATED_DATA)
    if run.comm.rank == 0:
        if run.resumed and out.exists() and truth.exists():
            run.log(f"the input was simulated before: '{out}', its truth '{truth}'")
        else:
            for name in SIMULATED_DATA:
                run.new(name)
            run.log(simulate(out, settings, None, True, run.log))
        run.log(f"`sfxproc compare {run.folder / MERGED[0]} --truth {truth}` will score the result")
    run.comm.barrier()
    return msgspec.structs.replace(inputs, paths=[str(out)])
