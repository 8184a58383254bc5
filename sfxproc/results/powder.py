"""What a powder job tells of the cells it found, as plain numbers and in words.

Standard errors of a cell c(x) follow from the lines, weighted by the probability p_k that line k is
the cell's, with the covariance of the parameters

    cov(x) = (Σ_k p_k f_k f_kᵀ/(s σ_k)²)⁻¹,    σ²(c_i) = (J cov(x) Jᵀ)_ii,    J = ∂c/∂x

f_k: the linear form of the line's hkl, s: the factor by which all σ were found to be wrong.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sfxproc.data import Floats, Ints
from sfxproc.formats.cell_files import CellFile
from sfxproc.intake.simulated_powder import truth_path
from sfxproc.powder.absences import candidates
from sfxproc.powder.cells import (
    cells_from_x,
    multiple,
    reduced_cell,
    same_lattice,
    standard_cells,
    x_from_cells,
)
from sfxproc.powder.indexing import CHANCE, beyond_doubt, confidences
from sfxproc.powder.lattices import LATTICES
from sfxproc.powder.merit import merits
from sfxproc.powder.ranking import LIMIT, SAME_DEG, SAME_PERCENT, Cell, Lines, assessed
from sfxproc.powder.references import lines_of_cell
from sfxproc.reduction import niggli_cell
from sfxproc.report.powder import constants

N_GROUPS = 3  # cells whose space groups are looked for
SURE, LIKELY = 0.95, 0.5  # confidence
STEP = 1e-6  # relative, of differences


def in_standard_setting(cell: Cell, lines: Lines) -> Cell:
    """The same cell on the axes of the lattice's standard setting, its lines indexed anew."""
    lattice = cell.lattice
    x = x_from_cells(lattice, standard_cells(lattice, cell.conventional))
    turned = assessed(lattice, x, lines, refine=False)
    return cell if turned is None else replace(turned, alternatives=cell.alternatives)


def told_of(
    best: Sequence[Cell], n_cells: int, lines: Lines, everything: Lines, intensity: Floats | None
) -> dict[str, Any]:
    """The lines and the first n_cells of the cells, best first, as cells.json holds them.

    everything : all lines there are, of which `lines` are the first; absences are looked for among
    them. intensity : of all of them.
    """
    n, shares = len(lines.q2), confidences(best).tolist()
    told = best[:n_cells]
    return {
        "beyond_doubt": beyond_doubt(best, lines),
        "sigma_known": lines.known,
        "lines": {
            "q2": lines.q2.tolist(),
            "sigma": lines.sigma.tolist(),
            "d_A": (lines.q2**-0.5).tolist(),
            "intensity": None if intensity is None else intensity[:n].tolist(),
        },
        "cells": [
            {
                "rank": rank,
                **told_cell(cell, lines),
                "multiple_of": told_multiple(cell, told[: rank - 1]),
                "confidence": share,
                "space_groups": told_groups(cell, everything) if rank <= N_GROUPS else [],
            }
            for rank, cell, share in zip(range(1, n_cells + 1), told, shares, strict=False)
        ],
    }


def told_cell(cell: Cell, lines: Lines) -> dict[str, Any]:
    """One cell: lengths in Å, angles in degrees, q² and residuals in Å⁻²."""
    return {
        "lattice": cell.lattice.symbol,
        "system": cell.lattice.system,
        "cell": cell.conventional.tolist(),
        "sigma_cell": [v if np.isfinite(v) else None for v in cell_sigmas(cell, lines).tolist()],
        "volume_A3": cell.volume,
        "reduced_cell": reduced_cell(cell.lattice, cell.conventional).tolist(),
        "score": cell.score,
        "m20": m20(cell, lines),
        "sigma_factor": cell.scale,
        "n_explained": int(cell.explained.sum()),
        "n_calculated": cell.n_calculated,
        "superstructure": cell.superstructure,
        "alternatives": list(cell.alternatives),
        "lines": {
            "hkl": cell.hkl.tolist(),
            "q2_calculated": (lines.q2 - cell.delta).tolist(),
            "residual": cell.delta.tolist(),
            "probability": cell.right.tolist(),
        },
    }


def told_multiple(cell: Cell, better: Sequence[Cell]) -> dict[str, float] | None:
    """The first of the better cells that this one is a multiple or a part of, and how many times as
    large it is, primitive cells compared."""
    for rank, other in enumerate(better, 1):
        times = multiple(cell.primitive, other.primitive, SAME_PERCENT, SAME_DEG)
        if times is not None:
            return {"rank": rank, "times": times}
    return None


def told_groups(cell: Cell, lines: Lines) -> list[dict[str, Any]]:
    """The classes of space groups with the same absences, the likeliest first, each with its share
    of all likelihood."""
    found = candidates(cell, lines)
    if not found:
        return []
    scores = np.array([c.score for c in found])
    shares = np.exp(scores - np.logaddexp.reduce(scores))
    return [
        {
            "space_groups": [group.hm for group in c.groups],
            "share": float(share),
            "n_violations": c.n_violations,
            "n_absent_tested": c.n_absent_tested,
        }
        for c, share in zip(found, shares, strict=True)
    ]


def cell_sigmas(cell: Cell, lines: Lines) -> Floats:
    """Standard errors (6,) of a conventional cell, Å and degrees; 0 of what the lattice fixes,
    infinite where the lines do not fix the cell."""
    forms = cell.lattice.forms(cell.hkl)
    normal = (forms.T * (cell.right / (cell.scale * lines.sigma) ** 2)) @ forms
    size = np.sqrt(np.diag(normal))
    if not (size > 0.0).all():
        return np.full(6, np.inf)
    scaled = normal / np.outer(size, size)
    if np.linalg.cond(scaled) > 1e12:
        return np.full(6, np.inf)
    step = STEP * np.abs(cell.x).max()
    moved = cell.x + step * np.concatenate([np.eye(len(cell.x)), -np.eye(len(cell.x))])
    up, down = np.split(cells_from_x(cell.lattice, moved), 2)
    J = (up - down).T / (2.0 * step)
    variance = np.einsum("ip,pq,iq->i", J / size, np.linalg.inv(scaled), J / size)
    fixed = np.abs(J).max(axis=1) * np.abs(cell.x).max() < 1e-6
    return np.where(fixed, 0.0, np.sqrt(variance))


def calculated_lines(cell: Cell, lines: Lines) -> tuple[Ints, Floats]:
    """All lines of a cell up to a little beyond the last one observed: hkl (m, 3), and q² (m,)."""
    hkl, forms = lines_of_cell(cell.lattice, cell.x, LIMIT * float(lines.q2[-1]))
    return hkl, np.asarray(forms @ cell.x)


def m20(cell: Cell, lines: Lines) -> float:
    """De Wolff's figure of merit M20 of the first 20 lines (M_N of N if there are fewer)."""
    _, forms = lines_of_cell(cell.lattice, cell.x, LIMIT * float(lines.q2[-1]))
    sigma = cell.scale * lines.sigma
    return float(merits(forms, cell.lattice.basis, lines.q2, sigma, cell.x[None]).m20[0])


def cell_file(cell: Cell) -> CellFile:
    """The cell as a file for other programs takes it."""
    lattice = cell.lattice
    return CellFile(lattice.system, lattice.centring, tuple(cell.conventional.tolist()))


# ---- in words --------------------------------------------------------------------------------


def in_words(cell: Cell, lines: Lines) -> str:
    """A cell in one line: lattice, constants, and how well it does."""
    return (
        f"{cell.lattice.symbol} {constants(cell.conventional.tolist())}, "
        f"{cell.explained.sum()} of {len(lines.q2)} lines explained by {cell.n_calculated}, score "
        f"{cell.score:.1f}"
    )


def so_far(best: Sequence[Cell], lines: Lines) -> str:
    """The best cell in the course of a search."""
    if not best or best[0].score <= CHANCE:
        return "nothing better than chance yet"
    return f"best so far {in_words(best[0], lines)}"


def place_of(list_of_lines: Path, best: Sequence[Cell]) -> str:
    """Where the cell of a simulated pattern stands among those found."""
    truth = json.loads(truth_path(list_of_lines).read_text(encoding="utf-8"))
    true = niggli_cell(truth["cell"], LATTICES[truth["lattice"]].centring)
    places = [n for n, cell in enumerate(best, 1) if same_lattice(cell.primitive, true)]
    return f"the true cell is number {places[0]}" if places else "the true cell is not among them"


def sentence_of(best: Sequence[Cell], lines: Lines, tried: Sequence[str], folder: Path) -> str:
    """What came of it all, and where it is."""
    place = f"Results are in '{folder}'."
    if not best or best[0].score <= CHANCE:
        return (
            f"No cell is better than chance: {len(lines.q2)} lines, lattices {' '.join(tried)}. "
            "Check the wavelength, the zero of 2θ and foreign lines, give more lines or smaller "
            f"errors, or raise search.effort. {place}"
        )
    share, cell = float(confidences(best)[0]), in_words(best[0], lines)
    if beyond_doubt(best, lines):
        return f"The cell is beyond doubt: {cell}. {place}"
    if share >= SURE:
        return f"One cell is much better than all others: {cell}; confidence {share:.2f}. {place}"
    if share >= LIKELY:
        return f"Probable, but not certain: {cell}; confidence {share:.2f}. {place}"
    return (
        f"Several cells explain the lines about equally well, the first of them {cell}, with a "
        f"confidence of {share:.2f}. More lines or smaller errors could tell them apart. {place}"
    )
