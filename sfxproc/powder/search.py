"""The search for a cell over all lattices, as tasks that depend on their number alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sfxproc.data import Floats
from sfxproc.powder.generators import GENERATORS
from sfxproc.powder.lattices import LATTICES
from sfxproc.powder.optimise import SETTINGS, Optimised, distinct, optimise
from sfxproc.powder.references import references

BATCH = 1000
KEPT = 15
WAVES = (
    ("cP", "cI", "cF", "tP", "tI", "hP", "hR"),
    ("oP", "oC", "oI", "oF"),
    ("mP", "mC"),
    ("aP",),
)
BATCHES = {1: 1, 2: 2, 3: 6, 4: 20, 6: 40}


class Task(NamedTuple):
    """A batch of candidates of one lattice."""

    lattice: str
    batch: int


def search(q2: Floats, sigma: Floats, task: Task, seed: int) -> dict[str, Floats]:
    lattice = LATTICES[task.lattice]
    reference = references(lattice.symbol)
    settings = SETTINGS[lattice.n_parameters]
    number = list(LATTICES).index(task.lattice)
    rng = np.random.default_rng([seed, number, task.batch])
    generate = GENERATORS["volumes"]
    starts = generate(reference, q2, BATCH, settings, rng)
    fresh = generate(reference, q2, BATCH, settings, rng)
    found = optimise(
        reference.forms, lattice.basis, q2, sigma, starts, fresh, settings,
        seed=seed * 64 + number, first=task.batch * BATCH,
    )
    best = np.argsort(-found.information, kind="stable")[: 6 * KEPT]
    found = distinct(Optimised(found.x[best], found.information[best], found.iterations[best], found.number[best]))
    return {"x": found.x[:KEPT], "information": found.information[:KEPT]}
