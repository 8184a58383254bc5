"""From the lines of a powder pattern to a ranked list of cells, all lattices together.

The waves of tasks of `search` are done one after the other; after each, `gathered` puts what it
found among the best cells. The search ends early when the first of these is beyond doubt: it
explains nearly all lines far better than chance, and no other lattice of points comes near. A cell
that is nearly of higher symmetry often has a multiple that seems to be of it, and explains as many
lines with other indices; so the class of lattices below that of the first cell must have been
looked at, too. All that is done here follows from the results of the tasks, not from their order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from sfxproc.data import Floats
from sfxproc.powder.optimise import checked_lines
from sfxproc.powder.ranking import Cell, Lines, distinct, ranked
from sfxproc.powder.references import lines_of_cell
from sfxproc.powder.search import IndexSettings, Task, cells_of, class_below, search, waves

__all__ = [
    "IndexSettings",
    "Task",
    "beyond_doubt",
    "confidences",
    "gathered",
    "index",
    "lines_of",
    "search",
    "settled",
    "waves",
]

Search = Callable[[Lines, Task, IndexSettings], dict[str, Floats]]
"""What does a task."""

SIGMA, SIGMA_RELATIVE = 8.7e-5, 9.2e-4  # σ(q²) = SIGMA Å⁻² + SIGMA_RELATIVE q² of serial data
N_LINES = 60  # that cells are weighed with
CONSIDERED = 60  # cells of a wave
CHANCE = -5.0  # nats; the best of a search with lines of no lattice is -17 to -6, seldom -3
CERTAIN = 12.0  # nats
AHEAD = 5.0  # nats above the next
EXPLAINED = 0.85  # share of the lines
FULL = 4.0  # calculated lines per observed one, up to line N_FULL
N_FULL = 20


def lines_of(
    q2: Floats, sigma: Floats | None = None, n: int = N_LINES, outliers: float = 0.05
) -> Lines:
    """The first n of the lines q2 (m,), ascending; sigma (m,) their standard errors, both Å⁻².

    sigma None: errors in the proportions usual for serial data, of unknown scale.  outliers : the
    share of lines that is thought to be false.  Raises DataError if there are too few lines, or
    they are not ascending.
    """
    known = sigma is not None
    q2 = np.asarray(q2, dtype=np.float64)[:n]
    sigma = SIGMA + SIGMA_RELATIVE * q2 if sigma is None else np.asarray(sigma)[:n]
    return Lines(*checked_lines(q2, sigma), known, outliers)


def index(
    lines: Lines,
    settings: IndexSettings | None = None,
    told: Callable[[Sequence[Task], list[Cell]], None] | None = None,
    search: Search = search,
) -> list[Cell]:
    """The best cells, best first; `told` hears of each wave and the best cells after it."""
    settings = settings or IndexSettings()
    best: list[Cell] = []
    todo = waves(settings)
    while todo:
        wave, *todo = todo
        results = [search(lines, task, settings) for task in wave]
        best = gathered(lines, results, best, settings, todo)
        if told is not None:
            told(wave, best)
        if settings.early_stop and settled(best, lines, todo):
            break
    return best


def gathered(
    lines: Lines,
    results: Sequence[dict[str, Floats]],
    best: Sequence[Cell],
    settings: IndexSettings,
    left: Sequence[Sequence[Task]],
) -> list[Cell]:
    """The best cells so far and those of a wave's results together, best first. At the end, when no
    waves are left, and where the search may end, their sub- and superlattices are tried, too."""
    cells = [*best, *cells_of(lines, results, CONSIDERED)]
    kept = distinct(cells, settings.n_ranked)
    if not left or (settings.early_stop and settled(kept, lines, left)):
        kept = [c for c in ranked(kept, lines, settings.n_ranked) if settings.allows(c.volume)]
    return kept


def settled(best: Sequence[Cell], lines: Lines, left: Sequence[Sequence[Task]]) -> bool:
    """Whether the waves that are left need not be done: the first cell is beyond doubt, and each
    lattice of the class below that is to be tried has been, if not with all candidates."""
    if not beyond_doubt(best, lines):
        return False
    below = class_below(best[0].lattice)
    return not any(task.lattice in below and task.batch == 0 for wave in left for task in wave)


def beyond_doubt(best: Sequence[Cell], lines: Lines) -> bool:
    """Whether the first cell explains nearly all lines, and nothing else comes near."""
    if not best:
        return False
    first = best[0]
    ahead = first.score - best[1].score if len(best) > 1 else np.inf
    return bool(
        first.score > CERTAIN
        and ahead > AHEAD
        and first.explained.mean() >= EXPLAINED
        and _n_calculated(first, lines.q2[:N_FULL][-1]) < FULL * len(lines.q2[:N_FULL])
    )


def _n_calculated(cell: Cell, q2_max: float) -> int:
    return len(lines_of_cell(cell.lattice, cell.x, q2_max)[0])


def confidences(best: Sequence[Cell]) -> Floats:
    """The share (k,) of each cell in the sum of exp(score) over all and over CHANCE."""
    scores = np.array([cell.score for cell in best])
    return np.asarray(np.exp(scores - np.logaddexp.reduce(np.append(scores, CHANCE))))
