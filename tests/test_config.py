"""Job files: every mistake is told with its place; what is resolved reads back as it was."""

from __future__ import annotations

import math
import tomllib
from enum import Enum
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest
from msgspec import Meta

from sfxproc.config import apply_overrides, convert, load, read_toml, resolved_toml
from sfxproc.errors import ConfigError


class Loss(Enum):
    SQUARED = "squared"
    HUBER = "huber"


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Sphere(Section, frozen=True, tag_field="kind", tag="sphere"):
    radius: float = 0.01


class Gauss(Section, frozen=True, tag_field="kind", tag="gauss"):
    width: float = 0.02


class Input(Section, frozen=True):
    paths: list[str] = []
    strict: bool = False


class Symmetry(Section, frozen=True):
    space_group: str | int
    unit_cell: Annotated[list[float], Meta(min_length=6, max_length=6)] | None = None


class Selection(Section, frozen=True):
    d_min_A: Annotated[float, Meta(gt=0)] | None = None
    share: Annotated[float, Meta(ge=0, le=1)] = 0.5
    min_observations: Annotated[int, Meta(ge=1)] = 3


class Solver(Section, frozen=True):
    method: Literal["cg", "dense"] = "cg"
    loss: Loss = Loss.SQUARED
    model: Sphere | Gauss = Sphere()
    weights: dict[str, float] = {}


class Config(Section, frozen=True):
    symmetry: Symmetry
    job: Literal["demo"] = "demo"
    input: Input = Input()
    selection: Selection = Selection()
    solver: Solver = Solver()


class Range(Section, frozen=True):
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if self.low >= self.high:
            raise ValueError("low must be less than high")


class Outer(Section, frozen=True):
    range: Range = Range()


GOOD = 'job = "demo"\n[symmetry]\nspace_group = "P1"\n'


def message(text: str, overrides: list[str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(text, overrides or [], Config)
    assert "\n\n" not in str(caught.value)
    return str(caught.value)


def test_a_good_file_gives_the_config(tmp_path: Path) -> None:
    path = tmp_path / "demo.toml"
    path.write_text(GOOD + "[selection]\nd_min_A = 2\n[solver]\nloss = 'huber'\n")
    config = load(path, [], Config)
    assert config == Config(
        Symmetry("P1"), selection=Selection(d_min_A=2.0), solver=Solver(loss=Loss.HUBER)
    )
    assert isinstance(config.selection.d_min_A, float)


@pytest.mark.parametrize(
    ("extra", "parts"),
    [
        # unknown keys
        ("[selecton]\nshare = 1\n", ["'selecton'", "did you mean 'selection'"]),
        ("[selection]\nd_mn_A = 2\n", ["'selection.d_mn_A'", "did you mean 'selection.d_min_A'"]),
        ("[input]\nd_min_A = 2\n", ["'input.d_min_A'", "did you mean 'selection.d_min_A'"]),
        ("[input]\nzzz = 2\n", ["'input.zzz'", "[input] knows paths, strict"]),
        ("[solver.model]\nkind='gauss'\nradius=1\n", ["'solver.model.radius'", "knows width"]),
        # wrong type
        ("[selection]\nd_min_A = '2'\n", ['selection.d_min_A = "2"', "a number above 0"]),
        ("[selection]\nmin_observations = 2.5\n", ["= 2.5", "a whole number at least 1"]),
        ("[input]\nstrict = 1\n", ["input.strict = 1", "true or false"]),
        ("[input]\npaths = 'a.stream'\n", ['= "a.stream"', "a list of values, each a text"]),
        ("[input]\npaths = ['a', 3]\n", ['input.paths = ["a", 3]', "a list"]),
        ("selection = 3\n", ["selection = 3", "a table of d_min_A, share, min_observations"]),
        ("[solver]\nweights = {a = 'x'}\n", ["solver.weights", "every value is a number"]),
        # bad value
        ("[solver]\nmethod = 'gc'\n", ['solver.method = "gc"', 'one of "cg", "dense"']),
        ("[solver]\nloss = 'cauchy'\n", ['= "cauchy"', 'one of "squared", "huber"']),
        ("[solver.model]\nkind = 'cube'\n", ["solver.model", 'kind one of "sphere", "gauss"']),
        ("[selection]\nshare = 1.5\n", ["share = 1.5", "at least 0 and at most 1"]),
        ("[selection]\nd_min_A = 0\n", ["d_min_A = 0", "above 0"]),
        ("[selection]\nshare = nan\n", ["share = nan", "a number"]),
    ],
)
def test_a_mistake_is_told_with_its_path_and_what_is_allowed(extra: str, parts: list[str]) -> None:
    base = {"selection = 3\n": 'symmetry = {space_group = "P1"}\n'}.get(extra, GOOD)
    text = message(base + extra)
    assert text.startswith("In the given text: ")
    for part in parts:
        assert part in text


def test_all_mistakes_are_told_at_once() -> None:
    text = message("jop = 'demo'\n[selection]\nd_mn_A = 2\nshare = 2\n[solver]\nmethod = 3\n")
    assert text.startswith("5 mistakes in the given text:")
    expected = ["'jop'", "'selection.d_mn_A'", "selection.share", "solver.method"]
    for part in [*expected, "symmetry.space_group is missing: add it under [symmetry]"]:
        assert part in text


def test_a_list_of_the_wrong_length() -> None:
    text = message("[symmetry]\nspace_group = 5\nunit_cell = [1, 2, 3]\n")
    assert "symmetry.unit_cell = [1, 2, 3]: must be a list of 6 values, each a number" in text


def test_a_check_of_the_struct_itself_is_told() -> None:
    with pytest.raises(ConfigError, match="In x: range: low must be less than high"):
        convert({"range": {"low": 2}}, Outer, "x")


def test_toml_syntax_error_names_file_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "demo.toml"
    path.write_text('job = "demo"\n[symmetry]\nspace_group = P1\n')
    with pytest.raises(ConfigError) as caught:
        read_toml(path)
    assert f"'{path}' is not valid TOML: line 3, column 15" in str(caught.value)
    assert "`space_group = P1`" in str(caught.value)
    path.write_text('job = "demo')
    with pytest.raises(ConfigError, match="line 1, column 12"):
        read_toml(path)


def test_a_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "scale.toml").touch()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigError, match=r"scael\.toml' does not exist\. .*'scale\.toml'\."):
        read_toml(tmp_path / "scael.toml")
    with pytest.raises(ConfigError, match=r"nor does its folder"):
        read_toml(tmp_path / "none" / "scale.toml")


def test_a_file_that_is_no_text_and_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "demo.toml"
    path.write_bytes(b"job = \xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_toml(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_toml(tmp_path)


def test_overrides_are_toml_values_or_texts() -> None:
    tree = tomllib.loads(GOOD)
    overrides = [
        "selection.d_min_A=1.8",
        "input.strict = true",
        "input.paths=x.stream",
        "symmetry.space_group='P 43 21 2'",
        "symmetry.unit_cell=[79, 79, 38, 90, 90, 90]",
        "solver.method=dense",
        "solver.weights.a=2.0",
    ]
    config = convert(apply_overrides(tree, overrides), Config, "x")
    assert config.selection.d_min_A == 1.8
    assert config.input == Input(["x.stream"], True)
    assert config.symmetry == Symmetry("P 43 21 2", [79.0, 79.0, 38.0, 90.0, 90.0, 90.0])
    assert config.solver == Solver("dense", weights={"a": 2.0})
    assert tree == tomllib.loads(GOOD)  # the tree given is left as it was


def test_the_last_override_wins_and_dates_are_texts() -> None:
    overrides = ["input.paths=a", "input.paths=2024-01-01", "symmetry.space_group=a=b"]
    config = load(GOOD, overrides, Config)
    assert config.input.paths == ["2024-01-01"]
    assert config.symmetry.space_group == "a=b"


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("selection.share", "expected key=value"),
        ("=3", "expected key=value"),
        ("selection..share=3", "expected key=value"),
        ("job.kind=3", "'job' is a value"),
        ("input.paths=[a.stream, b.stream]", "is not a TOML value"),
        ("selection.shar=0.1", "did you mean 'selection.share'"),
        ("selection.share=2", "In the given text with --set selection.share=2: selection.share"),
        ("selection.share=much", '= "much": must be a number'),
    ],
)
def test_a_bad_override_is_told(override: str, part: str) -> None:
    text = message(GOOD, [override])
    assert part in text
    assert override in text


def test_resolved_toml_reads_back_as_an_equal_config() -> None:
    config = Config(
        Symmetry('P "1"\\\n\x7f ü', [79.03, 1e-8, 1e300, -0.0, 1 / 3, math.inf]),
        input=Input(["a b.stream", ""], True),
        selection=Selection(share=0.1),
        solver=Solver("dense", Loss.HUBER, Gauss(1e16), {"a.b": 1.0, "c": 2.0}),
    )
    text = resolved_toml(config, "made by a test\n\nsecond line")
    assert text.startswith("# made by a test\n#\n# second line\n")
    assert "d_min_A" not in text  # None is left out
    assert load(text, [], Config) == config
    assert load(resolved_toml(Config(Symmetry(19))), [], Config) == Config(Symmetry(19))
