"""The search for a cell over lattices, cut into tasks.

A task is a batch of candidates of one lattice: drawn, improved (`optimise`), and the best of them
refined and weighed (`ranking`). It depends on the lines, its own name and the settings alone, so
that it may be done anywhere. Waves of tasks follow each other, and after each one looks at what was
found: the same tasks are done however they are dealt out. First a share of the tasks of each class
of lattices is done, high symmetry first, and then the rest of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from sfxproc.data import Floats
from sfxproc.powder.generators import GENERATORS, from_volumes
from sfxproc.powder.lattices import LATTICES, Lattice
from sfxproc.powder.merit import merits
from sfxproc.powder.optimise import SETTINGS, distinct, optimise
from sfxproc.powder.ranking import Cell, Lines, assessed
from sfxproc.powder.references import References, references
from sfxproc.powder.settings import Accept

SIZES = {1: 1000, 2: 2000, 3: 1000, 4: 1000, 6: 1000}  # of a batch, by number of parameters
KEPT = 10  # cells of a batch
BATCHES = {1: 1, 2: 1, 3: 3, 4: 8, 6: 24}  # by number of parameters, at effort 1
STEPS = (0.25, 1.0)  # shares of the batches of each class after which the next has its turn
CLASSES = (
    ("cP", "cI", "cF", "tP", "tI", "hP", "hR"),
    ("oP", "oC", "oI", "oF"),
    ("mP", "mC"),
    ("aP",),
)
COARSE_SCALES = (1.0, 0.2, 0.04)  # of σ, where candidates are compared
UNKNOWN_SCALE = 0.3  # of σ in the search, if only its course is known


@dataclass(frozen=True)
class IndexSettings:
    """How a cell is searched for.

    lattices : Bravais lattices that are tried.  effort : multiplies the number of candidates.
    n_lines : the search is made with the first of them; cells are weighed with all that are
    given.  n_ranked : cells in the answer.  early_stop : end as soon as a cell is beyond doubt, and
    so it is beside those of the class below.
    min_volume_A3, max_volume_A3 : of the conventional cell; 0: no bound.  accept : which steps of a
    candidate are taken (`optimise.Settings`).
    """

    lattices: tuple[str, ...] = tuple(LATTICES)
    effort: float = 1.0
    n_lines: int = 20
    n_ranked: int = 20
    early_stop: bool = True
    seed: int = 1
    min_volume_A3: float = 0.0
    max_volume_A3: float = 0.0
    generators: tuple[str, ...] = ("volumes", "zones")
    accept: Accept = "always"

    def allows(self, volume_A3: float) -> bool:
        """Whether a cell of this volume is wanted."""
        return self.min_volume_A3 <= volume_A3 <= (self.max_volume_A3 or np.inf)


class Task(NamedTuple):
    """A batch of candidates of one lattice."""

    lattice: str
    batch: int


def waves(settings: IndexSettings) -> list[list[Task]]:
    """The tasks, those of one wave independent of each other."""
    found: list[list[Task]] = []
    done = dict.fromkeys(settings.lattices, 0)
    for share in STEPS:
        for symbols in CLASSES:
            wave = []
            for s in (s for s in symbols if s in done):
                n = int(np.ceil(settings.effort * BATCHES[LATTICES[s].n_parameters]))
                upto = int(np.ceil(share * n))
                wave += [Task(s, batch) for batch in range(done[s], upto)]
                done[s] = upto
            found += [wave] if wave else []
    return found


def class_below(lattice: Lattice) -> tuple[str, ...]:
    """Those of CLASSES that are less symmetric by one step; none below aP."""
    own = next(n for n, symbols in enumerate(CLASSES) if lattice.symbol in symbols)
    return CLASSES[own + 1] if own + 1 < len(CLASSES) else ()


def search(lines: Lines, task: Task, settings: IndexSettings) -> dict[str, Floats]:
    """The best cells of a batch, refined: lattice (), its number in the table, x (k, p) in Å⁻²
    and score (k,) in nats, best first."""
    lattice = LATTICES[task.lattice]
    number = list(LATTICES).index(task.lattice)
    reference = references(lattice.symbol)
    rules = replace(SETTINGS[lattice.n_parameters], accept=settings.accept)
    size = SIZES[lattice.n_parameters]
    rng = np.random.default_rng([settings.seed, number, task.batch])
    generator = GENERATORS[settings.generators[task.batch % len(settings.generators)]]
    few = lines.first(round(generator.n_lines * settings.n_lines))
    starts = generator.draw(reference, few.q2, size, rules, rng)
    fresh = from_volumes(reference, few.q2, size, rules, rng)
    found = optimise(
        reference.forms,
        lattice.basis,
        few.q2,
        (1.0 if few.known else UNKNOWN_SCALE) * few.sigma,
        starts,
        fresh,
        rules,
        seed=settings.seed * len(LATTICES) + number,
        first=task.batch * size,
    )
    return best_of(reference, found.x, lines, few, settings)


def best_of(
    reference: References, x: Floats, lines: Lines, few: Lines, settings: IndexSettings
) -> dict[str, Floats]:
    """The best of the candidates x (c, p) of a lattice, refined and weighed, as `search` gives
    them. They are compared by their evidence from `few` lines, at the likeliest of a few scales of
    σ, which tells the right cell from those that come near to most lines far better than the
    information does."""
    lattice = reference.lattice
    figures = [
        merits(
            reference.forms, lattice.basis, few.q2, scale * few.sigma, x, outliers=lines.outliers
        ).evidence
        for scale in (COARSE_SCALES[:1] if lines.known else COARSE_SCALES)
    ]
    rows = distinct(x, np.max(figures, axis=0), lattice.basis, KEPT)
    cells = [assessed(lattice, x[row], lines) for row in rows]
    kept = [c for c in cells if c is not None and settings.allows(c.volume)]
    kept.sort(key=lambda c: -c.score)
    return {
        "lattice": np.array(float(list(LATTICES).index(lattice.symbol))),
        "x": np.array([c.x for c in kept]).reshape(-1, lattice.n_parameters),
        "score": np.array([c.score for c in kept]),
    }


def cells_of(lines: Lines, results: Sequence[dict[str, Floats]], n: int) -> list[Cell]:
    """The n best cells of the results of `search`, whatever their order."""
    names = list(LATTICES)
    rows = [
        (-float(score), int(result["lattice"]), tuple(x))
        for result in results
        for score, x in zip(result["score"], result["x"], strict=True)
    ]
    found = []
    for _, number, x in sorted(rows)[:n]:
        cell = assessed(LATTICES[names[number]], np.array(x), lines, refine=False)
        found += [cell] if cell is not None else []
    return found
