"""Everything compiled that a task of a search needs."""

from __future__ import annotations

import numpy as np

from sfxproc.powder.cells import random_cells, x_from_cells
from sfxproc.powder.indexing import lines_of
from sfxproc.powder.lattices import LATTICES
from sfxproc.powder.optimise import SETTINGS, optimise
from sfxproc.powder.references import references
from sfxproc.powder.search import IndexSettings, best_of


def compile_search(settings: IndexSettings) -> None:
    """Compile it, on made-up lines, for each number of parameters of the lattices wanted."""
    lines, rng = lines_of(np.linspace(0.01, 0.1, 12)), np.random.default_rng(0)
    for symbol in {LATTICES[s].n_parameters: s for s in settings.lattices}.values():
        reference, lattice = references(symbol), LATTICES[symbol]
        x = 0.01 * x_from_cells(lattice, random_cells(lattice, 2, rng))  # about 1000 Å³
        rules = SETTINGS[lattice.n_parameters]
        given = reference.forms, lattice.basis, lines.q2, lines.sigma
        optimise(*given, x, x, rules, seed=0)
        best_of(reference, x, lines, lines, settings)
