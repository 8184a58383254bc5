"""Batch scripts: the templates of `slurm/` with the values of one job filled in.

A template is plain bash that runs as it stands. Filling replaces the value of a line
`#SBATCH --name=value` or `name=value` in its upper parts, and what the file says at its top.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import sfxproc
from sfxproc.errors import ConfigError, InputError, UserError
from sfxproc.refine.estimate import estimate
from sfxproc.runs.names import home_expanded
from sfxproc.settings.scale import ScaleConfig

TEMPLATES = ("job", "array", "requeue")
SITE = "# ---- the site"
FOLDERS = ("slurm_templates", "../slurm")  # of a wheel, of a checkout
GB = 1e9
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def batch_script(
    template: str,
    job_file: Path,
    config: Any,
    overrides: Sequence[str],
    options: Mapping[str, object],
    list_file: Path | None = None,
) -> tuple[str, list[str]]:
    """A batch script ready for sbatch, and what may be wrong with it, a sentence each.

    options : SLURM's by name, None where the template's own value stands. overrides : settings
    as after --set. list_file : for an array, data sets, one a line. Raises ConfigError, InputError.
    """
    given = {name: _word(name, value) for name, value in options.items() if value is not None}
    if (template == "array") != (list_file is not None):
        raise ConfigError(
            "--template array needs --list FILE, a text with one data set a line: a file, folder, "
            "glob or list. The other templates take none: their input is the job file's."
        )
    variables = {
        "sfxproc": shlex.quote(str(Path(sys.executable).with_name("sfxproc"))),
        "job": shlex.quote(str(job_file)),
        "settings": f"({shlex.join(part for o in overrides for part in ('--set', o))})",
        "out": shlex.quote(str(home_expanded(config.output.folder))),
    }
    if list_file is not None:
        given["array"] = f"1-{_count(list_file)}"
        variables["list"] = shlex.quote(str(list_file))
    text = filled(template_text(template), given, variables)
    head, site, rest = text.partition(SITE)
    source = f"slurm/{template}.sbatch of sfxproc {sfxproc.__version__}"
    head = f"#!/bin/bash\n# {job_file} under SLURM, made from {source}. Submit it with sbatch.\n#\n"
    told = dict(re.findall(r"^#SBATCH --([a-z-]+)=(\S+)", text, re.M))
    threads, memory = int(told["cpus-per-task"]), bytes_of(told["mem-per-cpu"])
    warnings = _time_warnings(told)
    if list_file is None and isinstance(config, ScaleConfig):  # parts of an array differ
        ranks = int(told["nodes"]) * int(told["ntasks-per-node"])
        warnings += warnings_of(config, ranks, threads * memory, threads)
    return head + site + rest, warnings


def template_text(name: str) -> str:
    """A template of `TEMPLATES`, from the installed package or from the checkout."""
    package = Path(sfxproc.__file__).parent
    paths = [package / folder / f"{name}.sbatch" for folder in FOLDERS]
    return next(path for path in paths if path.is_file()).read_text(encoding="utf-8")


def filled(text: str, options: Mapping[str, str], variables: Mapping[str, str]) -> str:
    """The script with the values of #SBATCH options (also of those commented out) and of shell
    variables replaced. Each must have its line."""
    lines = {rf"##?SBATCH --{n}=.*": f"#SBATCH --{n}={v}" for n, v in options.items()}
    lines |= {rf"{name}=.*": f"{name}={value}" for name, value in variables.items()}
    for pattern, line in lines.items():
        found = re.search(f"^{pattern}$", text, re.M)
        assert found is not None, pattern
        text = text[: found.start()] + line + text[found.end() :]
    return text


# ---- sense and nonsense ----------------------------------------------------------------------


def warnings_of(config: Any, ranks: int, memory_bytes: int, threads: int = 1) -> list[str]:
    """What is doubtful about a job of so many ranks, each with so many threads and so much
    memory; a sentence each. config : settings of the job."""
    try:
        needs = estimate(config)
    except UserError as error:
        return [f"What the job needs could not be estimated. {error}"]
    out = []
    useful = needs.useful_ranks(threads)
    if ranks > useful:
        out.append(
            f"{ranks} ranks (threads of each: {threads}) are more than the job can feed: with "
            f'parallel.strategy = "{needs.strategy}" it is cut into {needs.n_pieces} pieces, and '
            f"from {useful + 1} ranks on some find nothing to do."
        )
    needed = needs.bytes_per_rank(ranks, threads)
    if needed > memory_bytes:
        out.append(
            f"A rank is expected to need {needed / GB:.2g} GB, within a factor of two or so, and "
            f"has {memory_bytes / GB:.2g} GB. Give more with --mem-per-cpu or --cpus-per-task."
        )
    return out


def _time_warnings(options: Mapping[str, str]) -> list[str]:
    lead_s = int(options.get("signal", "@0").rpartition("@")[2])
    if seconds_of(options["time"]) >= 2 * lead_s:
        return []
    return [
        f"--time {options['time']} leaves little before the signal to save and stop, which comes "
        f"{lead_s} s before its end. Give a longer time."
    ]


def seconds_of(time: str) -> float:
    """A time limit as sbatch takes it, in seconds. Raises ConfigError.

    minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes,
    days-hours:minutes:seconds, or UNLIMITED.
    """
    if time.upper() in ("UNLIMITED", "INFINITE"):
        return float("inf")
    if not re.fullmatch(r"\d+-\d+(:\d+){0,2}|\d+(:\d+){0,2}", time):
        raise ConfigError(
            f"--time '{time}' is not a time SLURM knows. Give minutes, hours:minutes:seconds or "
            "days-hours:minutes:seconds, for example --time 2:00:00."
        )
    days, dash, clock = time.rpartition("-")
    numbers = [int(part) for part in clock.split(":")]
    if not dash and len(numbers) < 3:
        numbers.insert(0, 0)  # without days the first of two is minutes
    hours, minutes, seconds = (*numbers, 0, 0)[:3]
    total = ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
    if total == 0:
        raise ConfigError(f"--time '{time}' is no time at all. Give for example --time 2:00:00.")
    return float(total)


def bytes_of(memory: str) -> int:
    """A memory size as sbatch takes it (2G, 500M; megabytes without a unit), in bytes.

    Raises ConfigError.
    """
    match = re.fullmatch(r"(\d+)([KMGT]?)B?", memory, re.I)
    if match is None or int(match[1]) == 0:
        raise ConfigError(
            f"--mem-per-cpu '{memory}' is not a size SLURM knows. Give a whole number with a unit, "
            "for example --mem-per-cpu 2G."
        )
    return int(match[1]) * UNITS[match[2].upper() or "M"]


def _word(name: str, value: object) -> str:
    if not re.fullmatch(r"[^\s'\"\\#]+", str(value)):
        raise ConfigError(f"--{name} '{value}': expected one word without blanks and quotes.")
    return str(value)


def _count(list_file: Path) -> int:
    """How many data sets a list names: its lines that are not empty, as the template counts."""
    try:
        n = sum(line != "" for line in list_file.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"The list '{list_file}' cannot be read ({error}). Give a text, one data set a line."
        ) from error
    if n == 0:
        raise InputError(f"The list '{list_file}' is empty. Put one data set on each line.")
    return n
