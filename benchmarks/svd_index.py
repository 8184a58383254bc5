"""Baseline: the search for a cell as in SVD-Index (Coelho, J. Appl. Cryst. 36 (2003) 86).

Random shapes are scaled to a volume that grows from trial to trial,

    V = f n/(K q_n³),    ln f from least to most in equal steps,

and improved in rounds of least squares. In each, every observed line is assigned the nearest
calculated one, and

    x ← x + (Σ w² f fᵀ)⁻¹ Σ w² f Δ,    Δ_k = q²_k − f_k·x,    w_k = d_k^m |Δ(2θ)_k|

over all lines, with m drawn from [0, 4] in each round; Δ(2θ) ≈ λ d Δ/2 (small angles), so that
w² is proportional to Δ²/(q²)^(m+1). The x of most information (`kernels.powder`) is kept. Waves,
weighing and ranking are those of `indexing`, so that what differs is the search alone; and it takes
as many assignments of lines a task (candidates times iterations), which are what costs.
Intensities, which scale the weights in the paper, are taken as equal: lists may have none.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from sfxproc.data import Floats
from sfxproc.kernels import powder as kernels
from sfxproc.kernels.compiled import compiled
from sfxproc.kernels.powder import (
    add_row,
    assign,
    determinant,
    information_of,
    solve,
    stream,
    unit,
    workspace,
)
from sfxproc.kernels.splitmix64 import GOLDEN, mixed
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
LARGEST_EXPONENT = 4.0


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


@compiled
def trials(reference, lines, rounds, starts, seed, first, out, information):  # type: ignore[no-untyped-def]
    """Improve the cells `starts` (c, p), numbered from `first`, by at most so many rounds: out
    (c, p) and its information (c,) in nats, −1 where the start is no cell."""
    each, n = reference.each, len(lines.q2)
    p = len(each)
    work = workspace(reference.columns.shape[1], n)
    near, delta = np.zeros(n, np.int64), np.zeros(n)
    A, x = np.zeros((p, p + 1)), np.zeros(p)
    for c in range(len(starts)):
        x[:] = starts[c]
        out[c] = x
        information[c] = -1.0
        for iteration in range(rounds):
            if determinant(reference.basis, x, each) <= 0.0:
                break
            count = assign(reference, lines, x, work, near, delta)
            now = information_of(lines, count, delta)
            if now > information[c]:
                information[c] = now
                out[c] = x
            m = LARGEST_EXPONENT * unit(mixed(stream(seed, first + c, iteration) + GOLDEN))
            A[:] = 0.0
            for k in range(n):
                w2 = (delta[k] / lines.q2[k]) ** 2 * (lines.q2[n - 1] / lines.q2[k]) ** (m - 1.0)
                add_row(A, reference.forms[near[k]], w2, delta[k], each)
            solve(A, x, each)
