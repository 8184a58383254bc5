"""The command line: parses, calls into `sfxproc.jobs`, prints. It does no work itself.

Imports that cost time happen inside the commands, so that `sfxproc --help` answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sfxproc import __version__, signals
from sfxproc.errors import ConfigError

if TYPE_CHECKING:
    from sfxproc.jobs import Job

app = typer.Typer(
    help="Scaling, refinement and merging of serial crystallography stills.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: loading what draws boxes takes as long as all the rest
    context_settings={"help_option_names": ["-h", "--help"]},
)
simulate_app = typer.Typer(help="Make synthetic data with known truth.", no_args_is_help=True)
app.add_typer(simulate_app, name="simulate")

JobFile = Annotated[Path, typer.Argument(metavar="JOB.toml", help="Job file.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, e.g. output.folder=out2."),
]
MoreSettings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any other setting of the simulation."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")]
Seed = Annotated[int | None, typer.Option(help="Of the random numbers.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sfxproc {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Scaling, refinement and merging of serial crystallography stills."""


@app.command()
def run(
    job_file: JobFile,
    overrides: Overrides = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Write into an existing output folder.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a job that was stopped, if there is one.")
    ] = False,
) -> None:
    """Do the job a file describes."""
    from sfxproc.parallel.comm import world
    from sfxproc.report.log import open_log

    comm = world()
    flags = {"output.overwrite=true": overwrite, "output.resume=true": resume}
    settings = [*(overrides or []), *(setting for setting, given in flags.items() if given)]
    job, config = _load(job_file, settings)
    signals.loaded()
    log = open_log(comm.rank)
    job.run(config, comm, log)


@app.command(short_help="Tell what a job would do, without doing it.")
def check(job_file: JobFile, overrides: Overrides = None) -> None:
    """Read a job file and its inputs and tell what would be done, without doing it."""
    from sfxproc.report.log import open_log

    job, config = _load(job_file, overrides or [])
    log = open_log()
    job.check(config, log)


def _load(path: Path, overrides: list[str]) -> tuple[Job[Any], Any]:
    """The job a file asks for by its `job` key, and its configuration."""
    import difflib

    from sfxproc.config import apply_overrides, convert, read_toml, source_of
    from sfxproc.jobs import JOBS

    tree = apply_overrides(read_toml(path), overrides)
    source = source_of(f"'{path}'", overrides)
    kind = tree.get("job")
    names = ", ".join(f'"{name}"' for name in JOBS)
    if kind is None:
        raise ConfigError(
            f"In {source}: the kind of job is missing. Add `job = …` at the top, one of {names}."
        )
    if not isinstance(kind, str) or kind not in JOBS:
        near = difflib.get_close_matches(str(kind), list(JOBS), n=1)
        hint = f'did you mean "{near[0]}"?' if near else f"known are {names}."
        raise ConfigError(f'In {source}: there is no job "{kind}"; {hint}')
    return JOBS[kind], convert(tree, JOBS[kind].config, source)


@app.command()
def show(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE…", help="Data files, globs or list files.")
    ],
) -> None:
    """Tell what data files hold."""
    from rich.console import Console

    from sfxproc.commands.show import show as show_files

    show_files(files, Console())


@app.command(short_help="Compare merged sets, or one with the truth.")
def compare(
    a: Annotated[
        Path, typer.Argument(metavar="A", help="Merged set (MTZ, mmCIF, .hkl) or output folder.")
    ],
    b: Annotated[
        Path | None, typer.Argument(metavar="B", help="Merged set to compare with.")
    ] = None,
    truth: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Compare with the truth of simulated data instead of B, and with their ideal "
            "merge; once for each part of a set.",
        ),
    ] = None,
    space_group: Annotated[
        str | None, typer.Option(help="Space group of both (default: as the files say).")
    ] = None,
    unit_cell: Annotated[
        str | None,
        typer.Option(metavar='"A B C α β γ"', help="Å and degrees, of files without (.hkl)."),
    ] = None,
    shells: Annotated[int, typer.Option(min=1, help="Resolution shells.")] = 10,
    d_min: Annotated[
        float | None, typer.Option(min=0.1, metavar="Å", help="High-resolution limit.")
    ] = None,
    json: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Write the figures as JSON, too.")
    ] = None,
) -> None:
    """Compare two merged sets, or one with the truth: correlation, and R after fitting scale
    and B."""
    from rich.console import Console

    from sfxproc.commands.compare import Given
    from sfxproc.commands.compare import compare as compare_files
    from sfxproc.commands.compare_truth import compare_truth

    if (b is None) == (not truth):
        raise ConfigError(
            "compare needs one thing to compare A with: another merged set, `sfxproc compare A B`, "
            "or the truth of simulated data, `sfxproc compare A --truth FILE`."
        )
    if truth and space_group:
        raise ConfigError(
            "--space-group has no place beside --truth, which is compared in the space group of "
            "the simulation. Leave it out."
        )
    if b is not None:
        cell = None if unit_cell is None else tuple(_numbers(unit_cell, "--unit-cell"))
        if cell is not None and len(cell) != 6:
            raise ConfigError(f"--unit-cell has {len(cell)} numbers. Give six: a b c α β γ.")
        compare_files(a, b, Given(space_group, cell, shells, d_min), json, Console())
    else:
        compare_truth(a, truth or [], shells, d_min, json, Console())


@simulate_app.command(short_help="Simulate stills, with their truth.")
def stills(
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="File to write; its suffix chooses the format.")
    ],
    n_crystals: Annotated[int | None, typer.Option("--crystals", help="How many.")] = None,
    space_group: Annotated[str | None, typer.Option(help="Symbol or number.")] = None,
    unit_cell: Annotated[
        str | None, typer.Option(metavar='"A B C α β γ"', help="Å and degrees.")
    ] = None,
    d_min_A: Annotated[float | None, typer.Option("--d-min", help="Resolution, Å.")] = None,
    wavelength_A: Annotated[float | None, typer.Option("--wavelength", help="Å.")] = None,
    profile_radius: Annotated[
        float | None, typer.Option(help="Radius of a reciprocal-lattice point, Å⁻¹.")
    ] = None,
    partiality: Annotated[str | None, typer.Option(help="Partiality model.")] = None,
    sigma_ln_G: Annotated[
        float | None, typer.Option("--sigma-ln-g", help="Spread of the logarithm of the scales.")
    ] = None,
    sigma_B_A2: Annotated[
        float | None, typer.Option("--sigma-b", help="Spread of the B factors, Å².")
    ] = None,
    photons: Annotated[float | None, typer.Option(help="Mean counts of a reflection.")] = None,
    background_counts: Annotated[
        float | None, typer.Option("--background", help="Counts under a peak.")
    ] = None,
    outlier_fraction: Annotated[
        float | None, typer.Option("--outliers", help="Share of spoilt observations.")
    ] = None,
    orientation_error_mrad: Annotated[
        float | None, typer.Option("--orientation-error", help="mrad about each axis.")
    ] = None,
    seed: Seed = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="Take intensities, space group and cell from this "
            "merged set (MTZ, mmCIF) or model (PDB, mmCIF).",
        ),
    ] = None,
    overrides: MoreSettings = None,
    overwrite: Overwrite = False,
) -> None:
    """Simulate stills of randomly oriented crystals; the truth goes to OUT's stem.truth.h5."""
    from sfxproc.commands.simulate import simulate, stills_settings
    from sfxproc.report.log import open_log

    options = {
        "n_crystals": n_crystals,
        "space_group": space_group,
        "unit_cell": None if unit_cell is None else _numbers(unit_cell, "--unit-cell"),
        "d_min_A": d_min_A,
        "wavelength_A": wavelength_A,
        "profile_radius": profile_radius,
        "partiality": partiality,
        "sigma_ln_G": sigma_ln_G,
        "sigma_B_A2": sigma_B_A2,
        "photons": photons,
        "background_counts": background_counts,
        "outlier_fraction": outlier_fraction,
        "orientation_error_mrad": orientation_error_mrad,
        "seed": seed,
    }
    given = {key: value for key, value in options.items() if value is not None}
    settings, reference = stills_settings(given, overrides or [], source)
    log = open_log()
    log(simulate(out, settings, reference, overwrite, log))


@simulate_app.command(name="powder", short_help="Simulate the lines of a powder pattern.")
def powder_lines(
    out: Annotated[
        Path, typer.Argument(metavar="OUT.txt", help="List of lines to write.", show_default=False)
    ],
    lattice: Annotated[
        str | None, typer.Option(help="Bravais lattice of a random structure, such as mP.")
    ] = None,
    number: Annotated[int | None, typer.Option(help="Which of its structures.")] = None,
    wavelength_A: Annotated[float | None, typer.Option("--wavelength", help="Å.")] = None,
    sigma_two_theta_deg: Annotated[
        float | None, typer.Option("--sigma-two-theta", help="Errors of the lines, degrees.")
    ] = None,
    n_contaminants: Annotated[
        int | None, typer.Option("--contaminants", help="Foreign lines.")
    ] = None,
    seed: Seed = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE", help="Take the structure in this CIF or POSCAR."),
    ] = None,
    overrides: MoreSettings = None,
    overwrite: Overwrite = False,
) -> None:
    """Simulate the lines of a powder pattern; the truth goes to OUT's stem.truth.json."""
    from sfxproc.commands.simulate_powder import pattern_settings, simulate
    from sfxproc.report.log import open_log

    options = {
        "lattice": lattice,
        "number": number,
        "wavelength_A": wavelength_A,
        "sigma_two_theta_deg": sigma_two_theta_deg,
        "n_contaminants": n_contaminants,
        "seed": seed,
    }
    given = {key: value for key, value in options.items() if value is not None}
    settings = pattern_settings(given, overrides or [])
    open_log()(simulate(out, settings, source, overwrite))


def _numbers(text: str, option: str) -> list[float]:
    try:
        return [float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise ConfigError(
            f"{option} '{text}': expected numbers divided by spaces, in quotes, for example "
            f'{option} "79.1 79.1 38.2 90 90 90".'
        ) from None


@app.command(short_help="Print a batch script for SLURM.")
def slurm(
    job_file: JobFile,
    nodes: Annotated[int | None, typer.Option(min=1, help="How many.")] = None,
    ntasks_per_node: Annotated[int | None, typer.Option(min=1, help="Ranks of each.")] = None,
    cpus_per_task: Annotated[int | None, typer.Option(min=1, help="Threads of a rank.")] = None,
    mem_per_cpu: Annotated[str | None, typer.Option(metavar="SIZE", help="Such as 2G.")] = None,
    time: Annotated[
        str | None, typer.Option(metavar="TIME", help="Limit, such as 2:00:00 (hours first).")
    ] = None,
    account: Annotated[str | None, typer.Option(help="Who pays.")] = None,
    partition: Annotated[str | None, typer.Option(help="Which nodes.")] = None,
    template: Annotated[
        Literal["job", "array", "requeue"],
        typer.Option(help="One job, one on each data set, or one that queues itself again."),
    ] = "job",
    list_file: Annotated[
        Path | None,
        typer.Option("--list", metavar="FILE", help="Data sets of an array, one a line."),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Print a batch script for SLURM: `sfxproc slurm my.toml --nodes 2 | sbatch`."""
    from sfxproc.commands.slurm import SlurmOptions, batch_script

    _, config = _load(job_file, overrides or [])
    options = SlurmOptions(
        nodes, ntasks_per_node, cpus_per_task, mem_per_cpu, time, account, partition
    )
    script, warnings = batch_script(template, job_file, config, overrides or [], options, list_file)
    for warning in warnings:
        typer.echo(f"sfxproc: {warning}", err=True)
    typer.echo(script, nl=False)


@app.command()
def status(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Output folder of a job.")],
) -> None:
    """Tell how far a job is. Exit status 0: finished; 1: not yet; 2: not a job's folder."""
    from sfxproc.commands.status import status_of

    told = status_of(folder)
    typer.echo(told.text)
    raise typer.Exit(0 if told.finished else 1)
