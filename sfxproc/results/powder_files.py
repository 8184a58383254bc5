"""What a powder job leaves: how the search went, and the list of its files."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sfxproc import __version__
from sfxproc.formats.cell_files import write_cells, write_crystfel_cell, write_dials_cell
from sfxproc.formats.peak_lists import PeakList
from sfxproc.powder.indexing import lines_of
from sfxproc.powder.ranking import Cell, Lines
from sfxproc.report.log import Log
from sfxproc.report.powder import PowderStory, cells_table, powder_html
from sfxproc.results.files import Frame, New, Output
from sfxproc.results.powder import calculated_lines, cell_file, place_of, sentence_of, told_of
from sfxproc.runs.names import CELL_FILES, CELLS, POWDER_PAGE, SIMULATED_LINES
from sfxproc.settings.powder import PowderConfig

DRAWN = 5  # cells on the page


@dataclass(frozen=True)
class Search:
    """How the search went. best : best first. n_done, n_planned : tasks, of lattices `tried`."""

    best: list[Cell]
    tried: tuple[str, ...]
    n_done: int
    n_planned: int


@dataclass(frozen=True, eq=False)
class PowderResults:
    """What was searched with, of all the lines that there are, and what was found."""

    config: PowderConfig
    peaks: PeakList
    lines: Lines
    search: Search

    @cached_property
    def told(self) -> dict[str, Any]:
        """What cells.json holds."""
        config, peaks, search = self.config, self.peaks, self.search
        everything = lines_of(peaks.q2, peaks.sigma, len(peaks.q2), config.search.outliers)
        return {
            "sfxproc": __version__,
            "source": Path(peaks.source).name,
            "notes": list(peaks.notes),
            "lattices_tried": list(search.tried),
            "tasks_done": search.n_done,
            "tasks_planned": search.n_planned,
            **told_of(search.best, config.search.n_cells, self.lines, everything, peaks.intensity),
        }

    def sentence(self, folder: Path) -> str:
        """What came of it, and where it is."""
        return sentence_of(self.search.best, self.lines, self.search.tried, folder)


def tell_cells(results: PowderResults, folder: Path, log: Log) -> None:
    """The table of cells, and where the true one is among them, if it is known."""
    if results.search.best:
        log.show(cells_table(results.told["cells"]))
    if results.config.peaks.path is None:
        log(place_of(folder / SIMULATED_LINES[0], results.search.best))


# ---- writers ---------------------------------------------------------------------------------


def _cells(results: PowderResults, new: New) -> None:
    write_cells(new(CELLS), results.told)


def _cell_files(results: PowderResults, new: New) -> None:
    best = results.search.best[: results.config.output.cell_files]
    for number, cell in enumerate(best, 1):
        stem, unit = f"{CELL_FILES}{number:02d}-{cell.lattice.symbol}", cell_file(cell)
        write_crystfel_cell(new(f"{stem}.cell"), unit)
        write_dials_cell(new(f"{stem}.phil"), unit)


def _page(results: PowderResults, frame: Frame) -> str:
    best = results.search.best[:DRAWN]
    story = PowderStory(
        title=frame.title,
        sentence=frame.sentence,
        told=results.told,
        calculated=[calculated_lines(cell, results.lines) for cell in best],
        config_text=frame.config_text,
        log_text=frame.log_text,
    )
    return powder_html(story)


OUTPUTS: tuple[Output[PowderResults, PowderConfig], ...] = (
    Output((CELLS,), _cells),
    Output((CELL_FILES,), _cell_files, when=lambda config: config.output.cell_files > 0),
    Output((POWDER_PAGE,), html=_page),
)
"""The files of a powder job, in the order of their writing."""
