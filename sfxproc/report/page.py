"""A page of tables and plots that needs nothing but a browser, for any kind of job.

plotly.js is put into the page, which is therefore 5 MB, and loads nothing from anywhere. The same
content gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from sfxproc.report.plots import Plot


@dataclass(frozen=True)
class Grid:
    """A table as text; the first column names the rows."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """One part of the page."""

    id: str
    title: str
    grids: Sequence[Grid] = ()
    plots: Sequence[Plot] = ()
    text: str = ""


def page_html(
    *,
    title: str,
    sentence: str,
    figures: Sequence[tuple[str, str]],
    sections: Sequence[Section],
    config_text: str,
    log_text: str,
    template: str = "page.html.j2",
    **more: Any,
) -> str:
    """The page as text, to be written in UTF-8; sections with nothing in them are left out.

    sentence : what came of the job. figures : a handful for the head, what and how much.
    config_text, log_text : job.resolved.toml and log.txt. more : what the template asks for
    besides.
    """
    environment = Environment(
        loader=PackageLoader("sfxproc", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {
        "allow_nan": False,
        "separators": (",", ":"),
        "sort_keys": True,
    }
    shown = [s for s in sections if s.grids or s.plots or s.text]
    return environment.get_template(template).render(
        title=title,
        sentence=sentence,
        figures=figures,
        sections=shown,
        drawn=[
            {"id": plot.id, "data": plot.traces, "layout": plot.layout}
            for section in shown
            for plot in section.plots
        ],
        config_text=config_text,
        log_text=log_text,
        plotly=get_plotlyjs(),
        **more,
    )
