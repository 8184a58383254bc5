"""Baseline: the search for a cell as in SVD-Index (Coelho, J. Appl. Cryst. 36 (2003) 86).

Random shapes are scaled to a volume that grows from trial to trial,

    V = f n/(K q_n³),    ln f from least to most in equal steps,

and improved in rounds of least squares with weights of a random exponent (`kernels.svd_index`).
Waves, weighing and ranking are those of `indexing`, so that what differs is the search alone; and
it takes as many assignments of lines a task (candidates times iterations), which are what costs.
Intensities, which scale the weights in the paper, are taken as equal: lists may have none.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from sfxproc.data import Floats
from sfxproc.kernels import powder as kernels
from sfxproc.kernels.svd_index import trials
from sfxproc.powder.cells import volumes
from sfxproc.powder.generators import N_SHAPES, shapes
from sfxproc.powder.indexing import index
from sfxproc.powder.lattices import LATTICES
from sfxproc.powder.optimise import SETTINGS, line_density
from sfxproc.powder.ranking import Cell, Lines
from sfxproc.powder.references import references
from sfxproc.powder.search import (
    SIZES,
    UNKNOWN_SCALE,
    IndexSettings,
    Task,
    best_of,
    waves,
)

ROUNDS = 20
MOST = 1000  # candidates of a task that are weighed


def svd_index(lines: Lines, settings: IndexSettings | None = None) -> list[Cell]:
    """The best cells, best first; settings.effort multiplies the number of trials."""
    settings = settings or IndexSettings()
    n_tasks = Counter(task.lattice for wave in waves(settings) for task in wave)

    def searched(lines: Lines, task: Task, settings: IndexSettings) -> dict[str, Floats]:
        return search(lines, task, settings, n_tasks[task.lattice])

    return index(lines, settings, search=searched)


def search(lines: Lines, task: Task, settings: IndexSettings, n_tasks: int) -> dict[str, Floats]:
    """The best cells of one of the lattice's n_tasks tasks, as `powder.search.search` gives them.
    Volumes grow within a task and from each to the next."""
    lattice = LATTICES[task.lattice]
    number = list(LATTICES).index(task.lattice)
    reference = references(lattice.symbol)
    few = lines.first(settings.n_lines)
    rules = SETTINGS[lattice.n_parameters]
    n = SIZES[lattice.n_parameters] * rules.iterations // ROUNDS
    rng = np.random.default_rng([settings.seed, number, task.batch])
    every = shapes(lattice.symbol)
    starts = every[rng.integers(N_SHAPES, size=n)]
    step = (task.batch + (np.arange(n) + 0.5) / n) / n_tasks
    fill = rules.least_fill * (rules.most_fill / rules.least_fill) ** step
    density = line_density(reference.forms, lattice.basis, every)
    volume = fill * len(few.q2) / (density * few.q2[-1] ** 1.5)
    starts = starts * ((volumes(lattice, starts) / volume) ** (2.0 / 3.0))[:, None]
    x, information = np.empty_like(starts), np.empty(n)
    scale = 1.0 if few.known else UNKNOWN_SCALE
    trials(
        kernels.reference_lines(reference.forms, lattice.basis),
        kernels.observed_lines(few.q2, scale * few.sigma),
        ROUNDS,
        starts,
        settings.seed * len(LATTICES) + number,
        task.batch * n,
        x,
        information,
    )
    best = np.argsort(-information, kind="stable")[:MOST]
    return best_of(reference, x[best], lines, few, settings)
