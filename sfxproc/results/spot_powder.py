"""What a spot-powder job leaves: the lines of the pattern, warnings, the list of its files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sfxproc.formats.atomic import write_text
from sfxproc.formats.peak_lists import PeakList, write_peak_list
from sfxproc.powder.settings import SpotPeakSettings
from sfxproc.powder.spots import SpotPowder
from sfxproc.report.log import Log
from sfxproc.report.spot_powder import SpotPowderStory, spot_powder_html
from sfxproc.report.terminal import counts_table
from sfxproc.results.files import PROGRAM, Frame, New, Output
from sfxproc.runs.names import PEAKS, POWDER, POWDER_PAGE
from sfxproc.settings.spot_powder import SpotPowderConfig
from sfxproc.spots import SpotSet

CROWDED = 0.4  # of a ring's σ: lines less certain than that may be several
MANY, FIRST_LINES = 7, 20  # of those that indexing looks at
AT_THE_EDGE = 0.9  # of peaks.centre_reach_mm


@dataclass(frozen=True, eq=False)
class SpotPowderResults:
    """The pattern of spots."""

    spots: SpotSet
    powder: SpotPowder

    def told(self) -> dict[str, object]:
        """What powder.json holds."""
        peaks, powder = self.powder.peaks, self.powder
        q = np.sqrt(peaks.q2)
        return {
            "n_spots": len(self.spots.spots),
            "n_images": self.spots.n_shots,
            "pixel_mm": self.spots.pixel_mm,
            "wavelength_A": float(np.median(self.spots.spots.wavelength_A)),
            "centre_mm": powder.centre_mm.tolist(),
            "ring_sigma_first": float(powder.width.sigma(q[0])),
            "ring_sigma_last": float(powder.width.sigma(q[-1])),
            "lines": {name: values.tolist() for name, values in peaks.columns().items()},
        }

    def summary(self) -> dict[str, object]:
        """The figures of the table and the page."""
        peaks, width = self.powder.peaks, self.powder.width
        q, d_A = np.sqrt(peaks.q2), peaks.q2**-0.5
        return {
            "lines": len(peaks),
            "d": f"{d_A[0]:.3f} to {d_A[-1]:.3f} Å",
            "σ(d)/d, median": f"{np.median(0.5 * peaks.sigma / peaks.q2):.1e}",
            "width σ of rings": f"{width.sigma(q[0]):.2e} to {width.sigma(q[-1]):.2e} Å⁻¹",
            "centre of the beam moved by": "{:.3f}, {:.3f} mm".format(*self.powder.centre_mm),
        }

    def sentence(self, folder: Path) -> str:
        """What came of it, and where it is."""
        d_A = self.powder.peaks.q2**-0.5
        return f"{len(d_A)} lines from {d_A[0]:.2f} to {d_A[-1]:.2f} Å. Results are in '{folder}'."


def tell_pattern(results: SpotPowderResults, settings: SpotPeakSettings, log: Log) -> None:
    """Warnings, and the table of figures."""
    for warning in warnings_of(results.powder, settings):
        log(f"WARNING: {warning}")
    log.show(counts_table("Powder pattern of the spots", results.summary(), justify="left"))


def warnings_of(powder: SpotPowder, settings: SpotPeakSettings) -> Iterator[str]:
    """What may spoil the lines."""
    found_mm, reach_mm = float(np.hypot(*powder.centre_mm)), settings.centre_reach_mm
    if reach_mm > 0 and found_mm > AT_THE_EDGE * reach_mm:
        yield (
            f"the centre of the beam was found {found_mm:.2f} mm from the recorded one, as far off "
            "as it was looked for. Correct the geometry, or raise peaks.centre_reach_mm."
        )
    first = powder.peaks.take(slice(0, FIRST_LINES))
    q = np.sqrt(first.q2)
    uncertain = first.sigma > CROWDED * 2.0 * q * powder.width.sigma(q)
    if (n := int(np.count_nonzero(uncertain))) > MANY:
        yield (
            f"{n} of the first {len(first)} lines overlap with others so that they may be several "
            "lines each; their sigma says so. Indexing needs lines apart: look at powder.html, and "
            "give narrower rings (better geometry, one wavelength) or more stills."
        )


# ---- writers ---------------------------------------------------------------------------------


def _peaks(results: SpotPowderResults, new: New) -> None:
    peaks, spots = results.powder.peaks, results.spots
    lines = PeakList(peaks.q2, peaks.sigma, peaks.intensity)
    comments = (
        f"{PROGRAM}: lines of {len(spots.spots):,} spots on {spots.n_shots:,} images",
        "q2 = 1/d² and its sigma in Å⁻²; intensity: sum over the spots of a line",
    )
    write_peak_list(new(PEAKS), lines, comments)


def _figures(results: SpotPowderResults, new: New) -> None:
    write_text(new(POWDER), json.dumps(results.told(), indent=1, allow_nan=False) + "\n")


def _page(results: SpotPowderResults, frame: Frame) -> str:
    powder = results.powder
    story = SpotPowderStory(
        title=frame.title,
        sentence=frame.sentence,
        figures=results.summary(),
        edges=powder.edges,
        counts=powder.counts,
        model=powder.model,
        background=powder.background,
        lines=powder.peaks.columns(),
        config_text=frame.config_text,
        log_text=frame.log_text,
    )
    return spot_powder_html(story)


OUTPUTS: tuple[Output[SpotPowderResults, SpotPowderConfig], ...] = (
    Output((PEAKS,), _peaks),
    Output((POWDER,), _figures),
    Output((POWDER_PAGE,), html=_page),
)
"""The files of a spot-powder job, in the order of their writing."""
