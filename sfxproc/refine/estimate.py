"""What a scaling job will need: memory, CPU and wall time, from a look at its inputs.

The constants were measured on one thread of a shared machine of two processors, on simulated sets
of 500 to 20,000 crystals and up to 8e6 observations (peak resident memory and CPU time of
`sfxproc run`; benchmarks/README.md for the solver alone up to 1e8). They are meant to be right
within a factor of two; many iterations, as poor data need them, are not foreseen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from sfxproc.formats.base import Contents, by_size
from sfxproc.formats.hdf5 import FORMAT as NATIVE
from sfxproc.formats.inputs import InputFile, list_inputs
from sfxproc.parallel.blocks import plan_blocks
from sfxproc.parallel.chunks import plan_chunks
from sfxproc.parallel.comm import SerialComm
from sfxproc.report.terminal import counts_table
from sfxproc.settings.postrefine import PostrefineConfig
from sfxproc.settings.scale import ScaleConfig
from sfxproc.simulate.sense import expected_reflections
from sfxproc.symmetry import possible, reciprocal_matrix, space_group

F8 = NDArray[np.float64]
MB = 1_000_000

# memory
BASE_bytes = 260 * MB  # interpreter, compiled kernels, buffers
THREAD_bytes = 8 * MB  # stack and buffers of each further thread: a bound, too small to be seen
CRYSTAL_bytes = 400  # a row of the crystals' table with its names, on every rank
REFLECTION_bytes = 300  # some 40 arrays of float64, on every rank
ROW_bytes = 70  # of an observation where it is refined
READING_bytes = 30  # of an observation where it is read, beside the bytes of its file
BLOCK_ROW_bytes = 60  # of an observation in a block
NATIVE_ROW_bytes = 28  # of an observation in a simulated file
PART_rows = 1 << 22  # observations that are sorted at a time for blocks
RESULT_bytes = 16  # of a reflection in a task's result; rank 0 may keep one of each rank waiting

# CPU seconds
START_s = 1.0  # imports; compiling the kernels once in the life of an installation is left out
CRYSTAL_SIMULATED_s, ROW_SIMULATED_s = 0.3e-3, 0.9e-6
SET_UP_s = 0.15e-6  # of an observation
ITERATION_s = 0.08e-6  # of an observation: linearising, a CG step or two, the objective
ITERATIONS = 6
FINISH_s = 0.28e-6  # of an observation: sampled covariances, merging
WRITE_s = 6e-6  # of a reflection, on rank 0
EXACT_CRYSTALS, EXACT_s = 1000, 2.7  # covariances by dense factors: seconds for so many crystals
SORT_s = 0.15e-6  # of an observation, for blocks
REFINE_s, GRADIENT_s, STEP_s = 0.6e-6, 0.08e-6, 0.08e-6  # of an observation in a task
POSTREFINE_s = 6e-6  # of an observation, two passes; "sphere" takes more, "lorentzian" less
ROUNDS = 4  # that blocks commonly take after the first

PEEKED = 200  # files looked into; others are taken to be like them
TYPICAL_MULTIPLICITY = 50
MOST_POSSIBLE = 1e7  # unique reflections that are worth listing to count them
SHELLS = 20
RANKS = (1, 4, 16, 64)  # that the table shows


@dataclass(frozen=True)
class Estimate:
    """What a job is expected to need.

    guesses : which of the numbers are no better than that. n_pieces : chunks or blocks, of which
    one rank and thread (chunks) or one rank (blocks) does one at a time. n_tasks : chunks, or
    tasks a round. reading_s, solving_s, serial_s : CPU seconds that spread over files, over pieces
    and not at all. dense_bytes : matrices of exact covariances, on rank 0. file_rows, file_bytes :
    of the largest input that one rank reads as a whole.
    """

    n_crystals: int
    n_observations: int
    n_reflections: int
    guesses: tuple[str, ...]
    strategy: Literal["global", "blocks"]
    n_pieces: int
    n_tasks: int
    block_crystals: int
    dense_bytes: int
    n_files: int
    file_rows: int
    file_bytes: int
    all_bytes: int
    reading_s: float
    solving_s: float
    serial_s: float

    @property
    def cpu_s(self) -> float:
        """Expected work of the whole job on one rank."""
        return self.reading_s + self.solving_s + self.serial_s

    def useful_ranks(self, threads: int = 1) -> int:
        """How many ranks of so many threads find work."""
        return max(self.n_pieces // (threads if self.strategy == "global" else 1), 1)

    def bytes_per_rank(self, ranks: int, threads: int = 1) -> int:
        """Highest resident memory of the rank that needs most."""
        # a rank reads whole files, so one of them, or its share of all
        part = max(1.0 / ranks, 1.0 / self.n_files)
        rows = max(part * self.n_observations, self.file_rows)
        reading = READING_bytes * rows + max(part * self.all_bytes, self.file_bytes)
        if self.strategy == "global":
            working = ROW_bytes * self.n_observations / min(ranks, self.n_pieces)
            working += self.dense_bytes
        else:  # one file, part or block at a time
            reading = READING_bytes * self.file_rows + self.file_bytes
            block = self.n_observations * self.block_crystals / max(self.n_crystals, 1)
            sorting = ROW_bytes * min(PART_rows, self.n_observations)
            waiting = RESULT_bytes * self.n_reflections * min(ranks, self.n_pieces)
            working = max(BLOCK_ROW_bytes * block, sorting) + waiting
        tables = CRYSTAL_bytes * self.n_crystals + REFLECTION_bytes * self.n_reflections
        return int(BASE_bytes + THREAD_bytes * (threads - 1) + tables + max(reading, working))

    def wall_s(self, ranks: int, threads: int = 1) -> float:
        """Expected time of the job, communication left out."""
        at_once = ranks * (threads if self.strategy == "global" else 1)
        # the last round of pieces is as long as the others, however few are left
        turns = math.ceil(self.n_pieces / at_once) / self.n_pieces
        solving = self.solving_s * turns / (threads if self.strategy == "blocks" else 1)
        largest = min(self.file_rows / max(self.n_observations, 1), 1.0)
        return self.serial_s + self.reading_s * max(1.0 / ranks, largest) + solving


def estimate(config: ScaleConfig) -> Estimate:
    """The needs of a job, told by its settings and a look into its inputs.

    Raises ConfigError for a wrong space group, InputError for inputs that do not exist.
    """
    if config.simulate is not None:
        files, found = [], _simulated(config)
    else:
        files = list_inputs(config.input.paths, config.input.exclude, Path.cwd())
        found = [_peek(file) for file in _chosen(files)]
    return _estimated(config, _all(files, found), files)


def needs_table(needs: Estimate, threads: int = 1) -> Table:
    """The estimate for the terminal; memory and time of each of some numbers of ranks."""
    rows: dict[str, object] = {}
    for name, value in (
        ("crystals", needs.n_crystals),
        ("observations", needs.n_observations),
        ("unique reflections", needs.n_reflections),
    ):
        rows[name] = f"about {value:,}" if name in needs.guesses else value
    if needs.strategy == "blocks":
        rows["blocks"], rows["tasks a round"] = needs.n_pieces, needs.n_tasks
    else:
        rows["chunks"] = needs.n_pieces
    rows["CPU time"] = _duration(needs.cpu_s)
    most = needs.useful_ranks(threads)
    for ranks in RANKS:
        many = f"{ranks} rank{'s' if ranks > 1 else ''} of {threads} thread{'s' * (threads > 1)}"
        slow = f"as with {most}" if ranks > most else _duration(needs.wall_s(ranks, threads))
        rows[many] = f"{needs.bytes_per_rank(ranks, threads) / 1e9:.2g} GB at most, {slow}"
    return counts_table("Expected, within a factor of two or so", rows, "left")


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _chosen(files: Sequence[InputFile]) -> list[InputFile]:
    """At most PEEKED of the files, from all over the list."""
    return list(files[:: -(-len(files) // PEEKED)])


def _peek(file: InputFile) -> Contents:
    try:
        return file.format.peek(file.path)
    except (OSError, ValueError, LookupError, RuntimeError, TypeError):
        return by_size(file.path)  # reading it will tell what is wrong


def _simulated(config: ScaleConfig) -> list[Contents]:
    settings = config.simulate
    assert settings is not None
    n = max(round(settings.n_crystals * expected_reflections(settings)), 0)
    s2 = np.linspace(settings.d_max_A**-2, settings.d_min_A**-2, 1000) / 4.0
    return [Contents(settings.n_crystals, n, False, np.array(settings.unit_cell), s2)]


def _bytes(file: InputFile) -> int:
    return sum(member.stat().st_size for member in file.members if member.exists())


def _all(files: Sequence[InputFile], found: Sequence[Contents]) -> Contents:
    """The contents of all files from those of the chosen ones."""
    chosen = _chosen(files) if files else []
    more = sum(map(_bytes, files)) / max(sum(map(_bytes, chosen)), 1) if files else 1.0
    cells = np.array([c.cell for c in found if np.isfinite(c.cell).all()]).reshape(-1, 6)
    rows = sum(c.n_observations for c in found)
    return Contents(
        round(more * sum(c.n_crystals for c in found)),
        round(more * rows),
        len(chosen) == len(files) and all(c.exact for c in found),
        np.median(cells, axis=0) if len(cells) else np.full(6, np.nan),
        np.concatenate([c.s2 for c in found]),
        sum(c.n_observations * c.read_s for c in found) / max(rows, 1),
    )


def _estimated(config: ScaleConfig, found: Contents, files: Sequence[InputFile]) -> Estimate:
    """The estimate for known contents."""
    guesses = () if found.exact else ("crystals", "observations")
    inside = _within_limits(config, found)
    n, rows = max(found.n_crystals, 1), inside.n_observations
    n_reflections, guessed = _unique(config, inside)
    parallel = config.parallel
    sizes = [_bytes(file) for file in files] or [NATIVE_ROW_bytes * found.n_observations]
    # for blocks, native files are read in parts
    whole = [f.format is not NATIVE or parallel.strategy == "global" for f in files] or [True]
    largest = max(size for size, wanted in zip([*sizes, 0], [*whole, True], strict=True) if wanted)
    block_crystals, set_up = n, SET_UP_s + FINISH_s
    more = POSTREFINE_s if isinstance(config, PostrefineConfig) else 0.0
    if parallel.strategy == "blocks":
        plan = plan_blocks(n, parallel.block_size, parallel.overlap, config.seed)
        n_pieces, n_segments = len(plan.blocks), len(plan.segments) - 1
        n_tasks, block_crystals = n_pieces + n_segments, min(parallel.block_size, n)
        in_blocks = rows * float(np.diff(plan.bounds).sum()) / n
        solving = rows * (SORT_s + set_up) + (REFINE_s + more) * in_blocks
        solving += min(parallel.rounds, ROUNDS) * (GRADIENT_s * rows + STEP_s * in_blocks)
    else:
        each = np.full(n, max(rows // n, 1))
        n_pieces = n_tasks = len(plan_chunks(each, n_reflections, SerialComm()).bounds) - 1
        solving = rows * (set_up + ITERATIONS * ITERATION_s + more)
    serial = START_s + WRITE_s * n_reflections
    exact = _exact(config, n)
    if exact:
        serial += EXACT_s * (n / EXACT_CRYSTALS) ** 2
    if config.simulate is not None:
        serial += CRYSTAL_SIMULATED_s * n + ROW_SIMULATED_s * found.n_observations
    return Estimate(
        n_crystals=found.n_crystals,
        n_observations=rows,
        n_reflections=n_reflections,
        guesses=(*guesses, *(("unique reflections",) if guessed else ())),
        strategy=parallel.strategy,
        n_pieces=n_pieces,
        n_tasks=n_tasks,
        block_crystals=block_crystals,
        dense_bytes=8 * (2 * n) ** 2 if exact else 0,
        n_files=len(sizes),
        file_rows=round(found.n_observations * largest / max(sum(sizes), 1)),
        file_bytes=largest,
        all_bytes=sum(sizes),
        reading_s=found.read_s * found.n_observations,
        solving_s=solving,
        serial_s=serial,
    )


def _exact(config: ScaleConfig, n_crystals: int) -> bool:
    """Whether covariances will be exact."""
    kind = config.scaling.covariance
    few = n_crystals <= EXACT_CRYSTALS and config.parallel.strategy == "global"
    return kind == "exact" or (kind == "auto" and few)


def _within_limits(config: ScaleConfig, found: Contents) -> Contents:
    """The contents between the resolution limits of the job."""
    low, high = config.selection.d_max_A, config.selection.d_min_A
    kept = np.ones(len(found.s2), dtype=bool)
    if high is not None:
        kept &= found.s2 <= 0.25 / high**2
    if low is not None:
        kept &= found.s2 >= 0.25 / low**2
    if not kept.any():
        return found
    n = round(found.n_observations * float(np.mean(kept)))
    return replace(found, n_observations=n, s2=found.s2[kept])


def _unique(config: ScaleConfig, found: Contents) -> tuple[int, bool]:
    """How many unique reflections to expect, and whether that is a mere guess.

    In a shell with p possible reflections n observations, drawn at random, show p(1 − exp(−n/p)).
    """
    symmetry = config.symmetry
    cell = found.cell if symmetry.unit_cell is None else np.array(symmetry.unit_cell)
    group = space_group(symmetry.space_group)
    s = np.sqrt(found.s2)
    known = len(s) > 0 and bool(np.isfinite(cell).all())
    volume_A3 = 1.0 / float(np.linalg.det(reciprocal_matrix(cell))) if known else 0.0
    points = volume_A3 * 4.0 / 3.0 * math.pi * float(2.0 * s.max(initial=0.0)) ** 3
    if not known or points > MOST_POSSIBLE * len(group.rotations):
        return max(found.n_observations // TYPICAL_MULTIPLICITY, 1), True
    d_min_A, d_max_A = 0.5 / float(s.max()), 0.5 / max(float(s.min()), 1e-6)
    table = possible(group, cell, d_min_A, d_max_A, symmetry.anomalous)
    edges = np.linspace(0.0, float(s.max()) * (1.0 + 1e-9), SHELLS + 1)
    p: F8 = np.maximum(np.histogram(np.sqrt(table.s2), edges)[0], 1e-9)
    shown: F8 = np.histogram(s, edges)[0] * (found.n_observations / len(s))
    return max(round(float(np.sum(p * -np.expm1(-shown / p)))), 1), False
