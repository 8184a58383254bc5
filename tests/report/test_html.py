"""The page says what it was told, whatever is missing, and asks nothing of the network."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfxproc.data import Crystals, Merged, Reason, Reflections, Status
from sfxproc.models.parameters import among
from sfxproc.report.html import N_WORST, Story, crystal_list, key_figures, label, report_html
from sfxproc.report.plots import MOST_POINTS, half_set_plot, histogram, shell_plots

HOSTILE = "/data/<script>alert('x')</script>&\"run\"_é.cxi"
TIMEOUT_s = 60


class Page(HTMLParser):
    """Rows of cells of all tables, texts by the tag around them, attributes and scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: dict[str, list[str]] = {}
        self.scripts: dict[str, str] = {}
        self._open: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
        self._open.append((tag, dict(attrs).get("id") or ""))

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        tag, name = self._open[-1] if self._open else ("", "")
        if tag == "script":
            self.scripts[name] = self.scripts.get(name, "") + data
            return
        self.texts.setdefault(tag, []).append(data)
        if tag in ("td", "th") and self.rows:
            self.rows[-1][-1] += data

    def plots(self) -> dict[str, Any]:
        return {plot["id"]: plot for plot in json.loads(self.scripts["drawn"])}


def shell(d_max_A: float, d_min_A: float, cc_half: float | None) -> dict[str, Any]:
    return {
        "d_max_A": d_max_A, "d_min_A": d_min_A, "n_unique": 1234, "n_possible": 1300,
        "completeness": 0.949, "multiplicity": 12.3, "mean_i_over_sigma": 4.56,
        "cc_half": cc_half, "cc_star": 0.987, "r_split": 0.123, "r_meas": 0.456,
        "cc_reference": None, "r_reference": None, "sigma_cc_half": cc_half and 0.01,
    }  # fmt: skip


BARE: dict[str, Any] = {
    "space_group": "P 43 21 2",
    "unit_cell": [79.1, 79.1, 38.2, 90.0, 90.0, 90.0],
    "overall": shell(20.0, 2.0, 0.9123),
    "shells": [shell(20.0, 2.5, 0.9876), shell(2.5, 2.0, None)],
    "crystals": {"n_crystals": 50, "status": {"used": 38, "fixed": 2, "left_out": 10}},
    "observations": {"read": 4321, "used": 4000, "left_out": {"not finite": 321}},
    "error_model": {"gain": 1.25, "scatter": 0.03125},
    "solver": {
        "converged": True, "objective": 1234.5, "chi2_per_dof": None,
        "iterations": [
            {"number": 1, "objective": 2000.0, "predicted": 700.0, "accepted": True},
            {"number": 2, "objective": 1300.0, "predicted": float("nan"), "accepted": False},
        ],
    },
}  # fmt: skip
OPTIONAL: dict[str, Any] = {
    "wilson": {
        "shells": [
            {"s2": 0.01, "ln_mean_intensity": 7.5, "n": 100},
            {"s2": 0.05, "ln_mean_intensity": 6.1, "n": 100},
            {"s2": 0.06, "ln_mean_intensity": None, "n": 0},
        ],
        "B_A2": 20.0, "ln_k": 8.0,
    },
    "resolution": {"cc_half_fit": {"d_0p3_A": 2.125, "s0": 0.04, "r": 0.01}},
    "cell_clusters": {"clusters": [{"n": 30, "median_A": [79.1, 38.2]}, {"n": 10}]},
    "groups": [{"name": "run <1>", "n_crystals": 20}],
    "second_moment": 1.987,
    "partiality_models": [{"name": "sphere", "excess": 3}, {"name": "unity"}],
}  # fmt: skip


def story(n: int = 50, n_left_out: int = 10, full: bool = False, n_reflections: int = 400) -> Story:
    rng = np.random.default_rng(7)
    crystals = Crystals(
        file=np.array([HOSTILE] * n, dtype=object),
        event=np.array([f"//{i}" for i in range(n)], dtype=object),
        A=np.full((n, 3, 3), np.nan),
        cell=np.array(BARE["unit_cell"]) * np.column_stack([rng.normal(1, 1e-3, (n, 3)),
                                                            np.ones((n, 3))]),
        beam=np.tile([0.0, 0.0, 1.0], (n, 1)),
        wavelength_A=np.full(n, 1.3),
        bandwidth=np.full(n, np.nan),
        profile_radius=np.full(n, np.nan),
    )  # fmt: skip
    out = np.arange(n) < n_left_out

    def refined(mean: float, spread: float) -> Any:
        return np.where(out, np.nan, rng.normal(mean, spread, n))

    frames: dict[str, Any] = {
        "status": np.where(out, int(Status.LEFT_OUT), int(Status.USED)).astype(np.int8),
        "reason": np.where(out, int(Reason.TOO_FEW_OVERLAPS), 0).astype(np.int8),
        "n_observations": rng.integers(0, 900, n),
    }
    if full:
        frames |= {
            "ln_G": refined(0, 0.5), "sigma_ln_G": refined(0.1, 0.01), "B_A2": refined(0, 5),
            "cc_to_merge": refined(0.8, 0.1), "theta_1_mrad": refined(0, 1),
            "theta_2_mrad": refined(0, 1), "size": refined(2e-3, 1e-4),
            "sigma_size": refined(1e-5, 1e-6), "A_refined": crystals.A,
            "cell_refined": crystals.cell * [1.001, 1.001, 1.001, 1, 1, 1],
            "delta_cc_half": refined(0, 1e-4),
            "reindexing": rng.integers(0, 2, n).astype(np.int8),
            "reindexing_margin": refined(9, 2),
        }  # fmt: skip
    intensity = rng.exponential(100, n_reflections)
    intensity[0] = np.nan
    halves = intensity + rng.normal(0, 10, (2, n_reflections))
    index = np.arange(n_reflections)
    merged = Merged(
        Reflections(
            hkl=np.stack([index, index * 0, index * 0], axis=1),
            friedel=np.zeros(n_reflections, dtype=np.int8),
            s2=np.linspace(1e-3, 0.06, n_reflections),
            centric=np.zeros(n_reflections, dtype=bool),
            epsilon=np.ones(n_reflections, dtype=np.int16),
            intensity=intensity,
            sigma=np.full(n_reflections, 10.0),
            n_observations=np.full(n_reflections, 5),
        ),
        half_intensity=halves,
        half_sigma=np.full((2, n_reflections), 14.0),
        half_n=np.full((2, n_reflections), 2),
        sum_intensity=intensity,
        abs_deviation=intensity,
    )
    bins = [{"intensity": v, "chi2": 1.0 + v / 1e4, "n": 50} for v in (-5.0, 10.0, 1000.0)]
    more = OPTIONAL | {"error_model": BARE["error_model"] | {"bins": bins}}
    return Story(
        title="sfxproc scale: out & about",
        sentence="1,234 reflections <to> 2.00 Å.",
        told=BARE | (more if full else {}),
        crystals=crystals,
        frames=frames,
        merged=merged,
        config_text='paths = ["</pre><b>"]',
        log_text="  0.1 s  read </script>",
        parameters=among(frames),
    )


@pytest.fixture(scope="module")
def text() -> str:
    return report_html(story(full=True))


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_figures_are_those_told(page: Page) -> None:
    cells = ["1,234", "1,300", "94.9", "12.3", "4.6", "0.988", "0.987", "12.3", "45.6"]
    assert ["20.00–2.50", *cells] in page.rows
    assert ["2.50–2.00", *cells[:5], "–", *cells[6:]] in page.rows
    assert ["20.00–2.00", *cells[:5], "0.912", *cells[6:]] in page.rows
    assert ["used", "40", "80.0"] in page.rows
    assert ["left out: too few overlaps", "10", "20.0"] in page.rows
    assert ["not finite", "321"] in page.rows
    assert ["gain", "1.25"] in page.rows
    assert ["χ² per degree of freedom", "–"] in page.rows
    assert ["converged", "yes"] in page.rows
    shown = dict(zip(page.texts["dt"], page.texts["dd"], strict=True))
    assert shown["crystals used"] == "40 of 50"
    assert shown["observations used"] == "4,000 of 4,321"
    assert shown["CC½"] == "0.9123"
    assert shown["R_split / %"] == "12.3"
    assert shown["Wilson B / Å²"] == "20.0"
    assert "1,234 reflections <to> 2.00 Å." in page.texts["p"]


def test_what_is_only_sometimes_told(page: Page) -> None:
    assert ["CC½ fit · d where CC½ is 0.3 / Å", "2.125"] in page.rows
    assert ["30", "79.1, 38.2"] in page.rows
    assert ["10", "–"] in page.rows
    assert ["run <1>", "20"] in page.rows
    assert ["sphere", "3"] in page.rows
    assert ["⟨I²⟩/⟨I⟩² of acentric reflections", "1.987"] in page.rows
    without = Page(report_html(story()))
    for title in (
        "Wilson statistics",
        "Clusters of unit cells",
        "Groups",
        "Partiality models tried",
    ):
        assert title in page.texts["h2"]
        assert title not in without.texts["h2"]


def test_every_plot_has_its_place_and_its_numbers(page: Page) -> None:
    plots = page.plots()
    places = {v.removeprefix("plot-") for _, name, v in page.attributes
              if name == "id" and v.startswith("plot-")}  # fmt: skip
    assert places == set(plots)
    assert places >= {
        "cc", "r-split", "completeness", "multiplicity", "i-over-sigma", "wilson", "signal",
        "half-sets", "ln-g", "b-a2", "theta-1-mrad", "size", "cc-to-merge", "delta-cc-half",
        "margin", "cell-1", "cell-2", "cell-3", "ln-g-b", "objective", "predicted", "error-model",
    }  # fmt: skip
    assert "cell-4" not in plots  # every α is 90°
    cc, _, fitted = plots["cc"]["data"]
    assert cc["error_y"]["array"] == [0.01, None]
    assert fitted["name"] == "CC½ fitted"
    assert np.interp(0.16, fitted["x"], fitted["y"]) == pytest.approx(0.5, abs=1e-3)
    assert cc["name"] == "CC½"
    assert cc["y"] == [0.9876, None]
    assert cc["x"] == pytest.approx([(1 / 400 + 1 / 6.25) / 2, (1 / 6.25 + 1 / 4) / 2])
    assert sum(plots["ln-g"]["data"][0]["y"]) == 40
    label = plots["theta-1-mrad"]["layout"]["xaxis"]["title"]["text"]
    assert label == "√(θ₁² + θ₂²) / mrad"
    assert "theta-2-mrad" not in plots  # it is in that of the other
    assert [t["name"] for t in plots["cell-1"]["data"]] == ["recorded", "refined"]
    assert [sum(t["y"]) for t in plots["cell-1"]["data"]] == [40, 40]
    assert plots["objective"]["data"][0]["y"] == [2000, 1300]
    assert plots["predicted"]["data"][0]["y"] == [700, None]
    assert plots["wilson"]["data"][1]["y"] == pytest.approx([7.6, 6.0])
    assert plots["error-model"]["data"][0]["y"] == [0.9995, 1.001, 1.1]
    for plot in plots.values():  # every axis says what it shows
        assert plot["layout"]["xaxis"]["title"]["text"]
        assert plot["layout"]["yaxis"]["title"]["text"]


def test_nothing_is_fetched(page: Page, text: str) -> None:
    links = [v for _, name, v in page.attributes if name in ("src", "href", "action", "data")]
    assert links
    assert all(v.startswith(("#", "data:")) for v in links)
    assert "@import" not in text.split("</style>")[0]
    assert "default-src 'none'" in text


def test_names_from_users_are_text(page: Page) -> None:
    assert page.texts["pre"] == ['paths = ["</pre><b>"]', "  0.1 s  read </script>"]
    assert "b" not in {tag for tag, _, _ in page.attributes}
    rows = json.loads(page.scripts["listed-rows"])
    assert rows[0][0] == f"{HOSTILE}////0"
    assert "<script>" not in page.scripts["listed-rows"]
    assert f"{escape(HOSTILE, quote=False)}////12" in page.plots()["ln-g-b"]["data"][0]["text"]
    assert page.texts["title"] == ["sfxproc scale: out & about"]


def test_same_story_same_bytes(text: str) -> None:
    assert report_html(story(full=True)) == text
    assert len(text.encode()) < 6e6


def test_without_optional_columns() -> None:
    page = Page(report_html(story()))
    assert "ln-g" not in page.plots()
    assert "half-sets" in page.plots()
    assert json.loads(page.scripts["listed-rows"])[0][1] == "left out: too few overlaps"


@pytest.mark.parametrize(("n", "n_left_out"), [(1, 0), (1, 1), (20, 19), (0, 0)])
def test_hardly_any_crystals(n: int, n_left_out: int) -> None:
    page = Page(report_html(story(n, n_left_out, full=True)))
    assert ("ln-g" in page.plots()) == (n > n_left_out)
    assert len(json.loads(page.scripts["listed-rows"])) == n


def test_nothing_merged_and_nothing_told() -> None:
    empty = story()
    nothing = np.full(400, np.nan)
    table = replace(empty.merged.reflections, intensity=nothing, sigma=nothing)
    merged = replace(empty.merged, reflections=table, half_intensity=np.stack([nothing] * 2))
    page = Page(report_html(replace(empty, told={}, merged=merged)))
    assert not {"signal", "half-sets", "cc"} & set(page.plots())
    assert key_figures({}) == []


def test_refinement_that_did_not_converge_is_marked() -> None:
    failed = replace(story(), told=BARE | {"solver": {"converged": False}})
    assert ("p", "class", "sentence warning") in Page(report_html(failed)).attributes
    assert ("p", "class", "sentence warning") not in Page(report_html(story())).attributes


def test_columns_must_fit_the_crystals() -> None:
    with pytest.raises(ValueError, match="ln_G"):
        report_html(replace(story(), frames={**story().frames, "ln_G": np.zeros(3)}))


def test_of_very_many_crystals_the_ones_worth_a_look_are_listed() -> None:
    many = story(20_000, 300, full=True, n_reflections=20_000)
    listed = crystal_list(many.crystals, many.frames, many.parameters)
    assert {"ln G", "B / Å²", "θ₁ / mrad", "size / Å⁻¹", "ΔCC½"} <= set(listed["header"])
    assert "the 300 that were not used" in listed["note"]
    assert len(listed["rows"]) == 300 + N_WORST
    cc = listed["header"].index("CC to merge")
    worst = np.sort(many.frames["cc_to_merge"][300:])[:N_WORST]
    assert sorted(row[cc] for row in listed["rows"][300:]) == pytest.approx(worst, rel=1e-6)
    text = report_html(many)
    assert listed["note"] in text
    assert len(text.encode()) < 8e6
    lost = crystal_list(many.crystals, {**many.frames, "status": np.full(20_000, 2)})
    assert "the first 5,000 of the 20,000 that were not used" in lost["note"]
    assert len(lost["rows"]) == 5000


def test_outliers_do_not_squash_a_histogram() -> None:
    values = np.append(np.random.default_rng(1).normal(0, 1, 1000), [1e6, np.nan])
    (plot,) = histogram("x", "x", "x", {"": values}, "crystals")
    low, high = plot.layout["xaxis"]["range"]
    assert -6 < low < high < 8
    assert sum(plot.traces[0]["y"]) == 1000
    assert plot.note.startswith("1,001 crystals; median ")
    assert f"; 1 beyond the axis (all: {np.nanmin(values):.4g} to 1e+06)" in plot.note


def test_scatter_of_half_sets_keeps_to_its_points() -> None:
    merged = story(n_reflections=3 * MOST_POINTS).merged
    (plot,) = half_set_plot(merged)
    points: Mapping[str, Any] = plot.traces[1]
    assert len(points["x"]) == MOST_POINTS
    row = int(points["text"][17].split()[0])
    assert np.sinh(points["x"][17]) * 28.0 == pytest.approx(merged.half_intensity[0, row], rel=1e-5)
    assert plot.note == "5,000 of 14,999 reflections, drawn at random"


def test_hopeless_r_does_not_hide_the_others() -> None:
    shells = [shell(20.0, 2.5, 0.9), {**shell(2.5, 2.0, 0.1), "r_split": 15.0}]
    plot = next(p for p in shell_plots(shells) if p.id == "r-split")
    assert plot.layout["yaxis"]["range"] == [0, 100]
    assert "beyond" in plot.note


def test_label() -> None:
    keys = ("ln_G", "n_observations", "d_cc_half_A", "cell_spread_percent", "cc_half")
    assert [label(k) for k in keys] == [
        "ln G", "observations", "d CC½ / Å", "cell spread / %", "CC½",
    ]  # fmt: skip


def test_a_browser_draws_every_plot(text: str, page: Page, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("no Chromium to draw the page with")
    (tmp_path / "report.html").write_text(text, encoding="utf-8")
    done = subprocess.run(
        [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
         "--virtual-time-budget=10000", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom",
         (tmp_path / "report.html").as_uri()],
        capture_output=True, text=True, timeout=TIMEOUT_s, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr
    for name in page.plots():
        drawn = done.stdout.split(f'id="plot-{name}"')[1].split("</figure>")[0]
        assert 'class="main-svg"' in drawn
        assert "Share" not in drawn
    assert "50 of 50 found, 50 listed" in done.stdout
