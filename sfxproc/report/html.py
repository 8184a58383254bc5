"""The report of a merging job: one page with tables and plots (`page`)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Crystals, Merged, Reason, Status
from sfxproc.report import plots
from sfxproc.report.crystal_plots import (
    CELL_NAMES,
    CELL_UNITS,
    Shown,
    cells_of,
    crystal_plots,
)
from sfxproc.report.page import Grid, Section, page_html
from sfxproc.report.plots import plain
from sfxproc.report.pull_plots import partiality_plot
from sfxproc.report.terminal import COLUMNS, DASH, number, resolution_range

MOST_LISTED = 5000  # crystals in the table; of more, those not used and the worst
N_WORST = 500
TITLES = {
    "B_A2": "B / Å²",
    "cc_to_merge": "CC to merge",
    "n_cg_iterations": "steps of conjugate gradients",
    "chi2": "χ²",
    "chi2_per_dof": "χ² per degree of freedom",
    "d_0p143_A": "d where CC½ is 0.143 / Å",
    "d_0p3_A": "d where CC½ is 0.3 / Å",
    "delta_cc_half": "ΔCC½",
    "dof": "degrees of freedom",
    "mean_i_over_naive_sigma": "⟨I/σ⟩ if the scales were known",
    "n": "number",
    "r": "r / Å⁻²",
    "s0": "s0 / Å⁻²",
    "s2": "s² / Å⁻²",
    "second_moment": "⟨I²⟩/⟨I⟩² of acentric reflections",
    "seconds": "time / s",
    "sigma_0p143_A": "its σ / Å",
    "sigma_A": "its σ / Å",
    "sigma_B_A2": "σ(B) / Å²",
}
"""Names of quantities whose key does not read well."""
UNITS = {"_A2": "Å²", "_A": "Å", "_mrad": "mrad", "_percent": "%"}
BLOCKS = {
    "resolution": "Resolution",
    "cell_clusters": "Clusters of unit cells",
    "groups": "Groups",
    "partiality_models": "Partiality models tried",
}
"""Parts of the statistics that are shown where they were told, whatever they hold."""


@dataclass(frozen=True, eq=False)
class Story:
    """What a merging job has to tell.

    told : what statistics.json holds. frames : the columns of frames.h5, a row a crystal;
    `status` and `reason` (codes of `Status` and `Reason`) must be among them. config_text,
    log_text : job.resolved.toml and log.txt. sentence : how good the data are. parameters : what of
    crystals was refined, with columns in frames.
    """

    title: str
    sentence: str
    told: Mapping[str, Any]
    crystals: Crystals
    frames: Mapping[str, NDArray[Any]]
    merged: Merged
    config_text: str
    log_text: str
    parameters: Sequence[Shown] = ()


def report_html(story: Story) -> str:
    """The page as text, to be written in UTF-8. Raises ValueError where `frames` has another
    length than `crystals`."""
    lengths = {name: len(v) for name, v in story.frames.items() if len(v) != len(story.crystals)}
    if lengths:
        raise ValueError(f"columns that do not fit {len(story.crystals)} crystals: {lengths}")
    return page_html(
        template="report.html.j2",
        title=story.title,
        sentence=story.sentence,
        warning=story.told.get("solver", {}).get("converged") is False,
        figures=key_figures(story.told),
        sections=_sections(story),
        crystals=crystal_list(story.crystals, story.frames, story.parameters),
        config_text=story.config_text,
        log_text=story.log_text,
    )


def _sections(story: Story) -> list[Section]:
    """The parts of the page above the list of crystals, in their order, the empty ones too."""
    told = story.told
    solver, errors = dict(told.get("solver") or {}), dict(told.get("error_model") or {})
    iterations = solver.pop("iterations", None) or []
    bins, by_partiality = (errors.pop(k, None) or [] for k in ("bins", "partiality_bins"))
    fit = (told.get("resolution") or {}).get("cc_half_fit")
    by_shell = plots.shell_plots(told.get("shells") or [], fit)
    wilson = dict(told.get("wilson") or {})
    moment = {"second_moment": told["second_moment"]} if "second_moment" in told else {}
    falloff = plots.wilson_plot(wilson.pop("shells", None) or [], wilson)
    optional = [
        Section(key, title, facts(told[key])) for key, title in BLOCKS.items() if told.get(key)
    ]
    if wilson:
        optional.insert(0, Section("wilson", "Wilson statistics", facts(wilson | moment), falloff))
    return [
        Section("shells", "Statistics by resolution", shell_grid(told), by_shell),
        *optional,
        Section(
            "intensities",
            "Merged intensities",
            plots=[*plots.signal_plot(story.merged), *plots.half_set_plot(story.merged)],
        ),
        Section(
            "crystals",
            "Crystals",
            cell_grid(story.crystals, story.frames),
            crystal_plots(story.crystals, story.frames, story.parameters),
            "Crystals that were left out are not counted here.",
        ),
        Section(
            "convergence",
            "Convergence",
            facts(solver),
            plots.convergence_plots(iterations),
            "The error model may be refitted after a step, and then the objective may rise."
            if iterations
            else "",
        ),
        Section(
            "errors",
            "Error model",
            facts(errors),
            [*plots.error_model_plot(bins), *partiality_plot(by_partiality)],
        ),
        Section("fate", "What became of every crystal", fates(story)),
    ]


def key_figures(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A handful of figures for the head of the page: what, and how much."""
    overall = told.get("overall") or {}
    crystals, observations = told.get("crystals") or {}, told.get("observations") or {}
    used = crystals.get("n_crystals", 0) - (crystals.get("status") or {}).get("left_out", 0)
    cell = told.get("unit_cell")
    figures = {
        "space group": told.get("space_group") or DASH,
        "unit cell / Å, °": " ".join(f"{v:.2f}" for v in cell) if cell else DASH,
        "crystals used": f"{used:,} of {crystals['n_crystals']:,}" if crystals else DASH,
        "observations used": (
            f"{observations['used']:,} of {observations['read']:,}" if observations else DASH
        ),
        "resolution / Å": resolution_range(overall.get("d_max_A"), overall.get("d_min_A")),
        "completeness / %": number(overall.get("completeness"), 1, 100),
        "multiplicity": number(overall.get("multiplicity"), 1),
        "⟨I/σ(I)⟩": number(overall.get("mean_i_over_sigma"), 1),
        "CC½": number(overall.get("cc_half"), 4),
        "R_split / %": number(overall.get("r_split"), 1, 100),
        "Wilson B / Å²": number((told.get("wilson") or {}).get("B_A2"), 1),
    }
    return [(name, value) for name, value in figures.items() if value.strip(DASH)]


def shell_grid(told: Mapping[str, Any]) -> list[Grid]:
    """The statistics as on the terminal, the overall ones last."""
    rows = [*(told.get("shells") or []), *([told["overall"]] if told.get("overall") else [])]
    shown = [c for c in COLUMNS if any(number(row.get(c.key)) != DASH for row in rows)]
    if not rows:
        return []
    return [
        Grid(
            ["d / Å", *(c.title.replace("\n", " ") for c in shown)],
            [
                [
                    resolution_range(row.get("d_max_A"), row.get("d_min_A")),
                    *(number(row.get(c.key), c.digits, c.factor) for c in shown),
                ]
                for row in rows
            ],
        )
    ]


def cell_grid(crystals: Crystals, frames: Mapping[str, NDArray[Any]]) -> list[Grid]:
    """Medians of the cells of crystals, and their spread as a σ: interquartile range / 1.349."""
    rows = []
    cells = cells_of(crystals, frames)
    for k, (name, unit) in enumerate(zip(CELL_NAMES, CELL_UNITS, strict=True)):
        row = [f"{name} / {unit}"]
        for values in (v[np.isfinite(v[:, k]), k] for v in cells.values()):
            q25, q50, q75 = np.percentile(values, [25, 50, 75]) if len(values) else [math.nan] * 3
            row += [number(q50, 3), number((q75 - q25) / 1.349, 3)]
        rows.append(row)
    header = [text for kind in cells for text in (f"{kind}: median", "spread (σ)")]
    return [Grid(["unit cell", *header], rows)]


def fates(story: Story) -> list[Grid]:
    """Numbers of crystals by status and reason, of their settings of indexing, and of observations
    left out."""
    status, reason = (np.asarray(story.frames[key]) for key in ("status", "reason"))
    pairs, count = np.unique(np.stack([status, reason], axis=1), axis=0, return_counts=True)
    grids = [
        Grid(
            ["crystals", "number", "%"],
            [
                [_fate(*pair), f"{n:,}", f"{100 * n / len(status):.1f}"]
                for pair, n in zip(pairs.tolist(), count.tolist(), strict=True)
            ],
        )
    ]
    if "reindexing" in story.frames:
        setting, count = np.unique(story.frames["reindexing"], return_counts=True)
        rows = [[f"{s:g}", f"{n:,}"] for s, n in zip(setting, count, strict=True)]
        grids.append(Grid(["setting of indexing", "crystals"], rows))
    if left_out := (story.told.get("observations") or {}).get("left_out"):
        rows = [[name, _value(n)] for name, n in left_out.items()]
        grids.append(Grid(["observations left out", "number"], rows))
    return grids


def _fate(status: int, reason: int) -> str:
    word = Status(status).name.lower().replace("_", " ")
    return word if reason == Reason.NONE else f"{word}: {Reason(reason).text}"


def crystal_list(
    crystals: Crystals, frames: Mapping[str, NDArray[Any]], parameters: Sequence[Shown] = ()
) -> dict[str, Any]:
    """Columns and rows of the list of crystals, and a note on what it does not hold.

    Columns of frames that are tables of their own and standard errors are left out. Of more than
    MOST_LISTED crystals those not used (as many as that) and the N_WORST of least CC are listed.
    """
    names = [
        name
        for name, values in frames.items()
        if name not in ("status", "reason")
        and not name.startswith("sigma_")
        and np.ndim(values) == 1
        and np.issubdtype(np.asarray(values).dtype, np.number)
    ]
    rows, note = np.arange(len(crystals)), ""
    if len(crystals) > MOST_LISTED:
        rows, note = _worth_listing(np.asarray(frames["status"]), frames.get("cc_to_merge"))
    fate = [
        _fate(*pair)
        for pair in zip(
            frames["status"][rows].tolist(), frames["reason"][rows].tolist(), strict=True
        )
    ]
    columns = [plain(np.asarray(frames[name])[rows].tolist()) for name in names]
    titles = {parameter.column: parameter.title for parameter in parameters}
    return {
        "note": note,
        "header": ["crystal", "fate", *(titles.get(name) or label(name) for name in names)],
        "rows": [
            list(row) for row in zip(crystals.take(rows).identity, fate, *columns, strict=True)
        ],
    }


def _worth_listing(status: NDArray[Any], cc: NDArray[Any] | None) -> tuple[NDArray[np.intp], str]:
    """Rows of the crystals to list of very many, ascending, and a note that says so."""
    not_used = np.flatnonzero(status != Status.USED)
    note = f"Of {len(status):,} crystals the {len(not_used):,} that were not used are listed"
    if len(not_used) > MOST_LISTED:
        note = note.replace("the", f"the first {MOST_LISTED:,} of the", 1)
    rows = not_used[:MOST_LISTED]
    if cc is not None:
        used = np.flatnonzero((status == Status.USED) & np.isfinite(cc))
        worst = used[np.argsort(np.asarray(cc)[used], kind="stable")[:N_WORST]]
        rows = np.sort(np.concatenate([rows, worst]))
        note += f", and the {len(worst):,} others that agree least with the merge"
    return rows, f"{note}; frames.h5 has all."


def facts(told: Any) -> list[Grid]:
    """Anything told as tables: one of single values, nested ones under joined names, and one for
    each list of mappings."""
    single: list[list[str]] = []
    lists: list[Grid] = []

    def walk(value: Any, path: tuple[str, ...]) -> None:
        name = " · ".join(label(part) for part in path)
        if isinstance(value, Mapping):
            for key, item in value.items():
                walk(item, (*path, str(key)))
        elif isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
            keys = list(dict.fromkeys(key for row in value for key in row))
            rows = [[_value(row.get(key)) for key in keys] for row in value]
            lists.append(Grid([label(key) for key in keys], rows, name))
        else:
            single.append([name, _value(value)])

    walk(told, ())
    return [*([Grid((), single)] if single else []), *lists]


def label(key: str) -> str:
    """A key of statistics or columns as words, with its unit."""
    if key in TITLES:
        return TITLES[key]
    unit = next((f" / {u}" for end, u in UNITS.items() if key.endswith(end)), "")
    stem = re.sub(f"({'|'.join(UNITS)})$", "", key)
    words = re.sub(r"^n_", "", re.sub(r"cc_half", "CC½", stem)).replace("_", " ")
    return words + unit


def _value(value: Any) -> str:
    """One value as text, numbers with enough digits."""
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return ", ".join(f"{label(str(k))} {_value(v)}" for k, v in value.items()) or DASH
    if isinstance(value, Iterable):
        return ", ".join(_value(v) for v in value) or DASH
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    if not math.isfinite(value):
        return DASH
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.5g}"
