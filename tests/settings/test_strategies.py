"""Every setting × every way of working: read while a job runs, idle and told, or refused.

That a setting has its effect is for the tests of what it does. Here every one that counts as
honoured is shown to be looked at while a job of each way runs: the attributes of settings are
watched, and who only reads, checks or estimates them does not count.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import inspect
from rich.console import Console

from sfxproc.config import leaves, load, spelled
from sfxproc.errors import ConfigError
from sfxproc.formats.hdf5 import write as write_h5
from sfxproc.jobs import JOBS
from sfxproc.parallel.comm import SerialComm
from sfxproc.report.log import ConsoleLog
from sfxproc.settings.postrefine import PostrefineConfig
from sfxproc.settings.scale import ScaleConfig
from sfxproc.settings.strategies import (
    HONOURED,
    NOT_HONOURED,
    Way,
    idle_settings,
    require_honoured,
    value_at,
    verdict,
    ways_of,
)
from sfxproc.simulate.settings import StillsSettings
from sfxproc.simulate.stills import simulate_stills

JOB = 'job = "{}"\n[symmetry]\nspace_group = "P 43 21 2"\n'
BLOCKS = ("parallel.strategy=blocks", "parallel.block_size=40", "parallel.overlap=20")
AVERAGES = (*BLOCKS, "parallel.rounds_mode=average", "scaling.error_model=scatter")
JOBS_OF_EACH_WAY = {
    "scale, global": ("scale",),
    "scale, blocks": ("scale", *BLOCKS),
    "scale, averages of blocks": ("scale", *AVERAGES),
    "postrefine, joint": ("postrefine",),
    "postrefine, cycles": ("postrefine", "postrefine.scheme=cycles"),
    "postrefine, crystal by crystal": ("postrefine", "postrefine.scheme=crystal-by-crystal"),
    "postrefine, blocks": ("postrefine", *BLOCKS),
    "postrefine, averages of blocks": ("postrefine", *AVERAGES),
}
"""The kind of job and the settings that choose the way."""

STILLS = StillsSettings(
    n_crystals=60,
    d_min_A=3.5,
    profile_radius=0.0024,
    partiality="xsphere",
    bandwidth=1e-3,
    photons=300.0,
    seed=11,
)
FROM_FILES = (
    "input.paths=data.h5",
    "selection.min_partiality=0.01",
    "scaling.partiality=recorded",
    "scaling.covariance=sampled",
    "corrections.polarisation_fraction=0.9",
    "output.overwrite=true",
    "postrefine.cell=true",
    "postrefine.wavelength=true",
)
GOING_ON = ("input.paths=data.h5", "start.frames=files/frames.h5")
SIMULATED = (
    *(f"simulate.{name}={getattr(STILLS, name)}" for name in ("n_crystals", "d_min_A", "photons")),
    "simulate.profile_radius=0.0024",
    "simulate.reindexed_fraction=0.1",
    'simulate.reindexing="k,h,-l"',
)
VARIANTS = {"files": FROM_FILES, "again": GOING_ON, "simulated": SIMULATED}
"""Jobs that together look at every setting: some are looked at only beside others."""

NO_USE = (
    "sfxproc.config",
    "sfxproc.settings.",
    "sfxproc.refine.check",
    "sfxproc.refine.estimate",
    "sfxproc.simulate.sense",
)
"""Modules that look at settings without doing what they say."""
TELL = ("sfxproc.results.", "sfxproc.runs.")
"""Modules whose only own settings are those of the output."""


def config_of(kind: str, *settings: str) -> Any:
    return load(JOB.format(kind), settings, JOBS[kind].config)


# ---- what a running job looks at ---------------------------------------------------------------


def tables(info: Any, path: str = "") -> Iterator[tuple[type[msgspec.Struct], str]]:
    """The types of a configuration's tables, each with its path."""
    yield info.cls, path
    for field in info.fields:
        for member in getattr(field.type, "types", (field.type,)):
            if isinstance(member, inspect.StructType):
                yield from tables(member, f"{path}{field.name}.")


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The settings that the program has looked at to use them."""
    found: set[str] = set()

    def watched(path: str, names: set[str]) -> Callable[[Any, str], Any]:
        def get(self: Any, name: str) -> Any:
            if name in names:
                who = str(sys._getframe(1).f_globals.get("__name__"))
                tells = who.startswith(TELL) and path != "output."
                if who.startswith("sfxproc.") and not who.startswith(NO_USE) and not tells:
                    found.add(path + name)
            return object.__getattribute__(self, name)

        return get

    for config in (ScaleConfig, PostrefineConfig):
        for table, path in tables(inspect.type_info(config)):
            names = {field.encode_name for field in msgspec.structs.fields(table)}
            monkeypatch.setattr(table, "__getattribute__", watched(path, names), raising=False)
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 60 stills, not corrected for anything."""
    path = tmp_path_factory.mktemp("data") / "data.h5"
    write_h5(path, replace(simulate_stills(STILLS).stills, corrected=frozenset()))
    return path


@pytest.mark.parametrize("way", JOBS_OF_EACH_WAY)
def test_what_counts_as_honoured_is_looked_at(
    way: str, data: Path, looked_at: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, *chosen = JOBS_OF_EACH_WAY[way]
    ways = ways_of(config_of(kind, *chosen))
    verdicts = {s: [verdict(w, s) for w in ways] for s in leaves(JOBS[kind].config)}
    refused = {s for s, found in verdicts.items() if any(v.kind == "refused" for v in found)}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.h5").symlink_to(data)
    (tmp_path / "files").mkdir()
    for result in ("statistics.json", "DONE"):  # of a job of ours, to be overwritten
        (tmp_path / "files" / result).touch()
    for name, settings in VARIANTS.items():
        if name == "again" and "start.frames" in refused:
            continue
        given = [s for s in settings if s.partition("=")[0] in verdicts.keys() - refused]
        to = ("parallel.threads=1", f"output.folder={name}")
        log = ConsoleLog(Console(file=io.StringIO()), speaks=False)
        JOBS[kind].run(config_of(kind, *chosen, *given, *to), SerialComm(), log)
    honoured = {s for s, found in verdicts.items() if all(v == HONOURED for v in found)}
    assert honoured - looked_at == set()
    assert len(honoured) > 70


# ---- every setting, changed ----------------------------------------------------------------------


def changed(info: Any, value: Any) -> Any:
    """Another value of a setting's type than its default."""
    match info:
        case inspect.Metadata():
            return changed(info.type, value)
        case inspect.UnionType():
            return changed(
                next(m for m in info.types if not isinstance(m, inspect.NoneType)), value
            )
        case inspect.BoolType():
            return not value
        case inspect.IntType():
            return (value or 0) + 1
        case inspect.FloatType():
            return 0.5 * value if value else 0.25
        case inspect.StrType():
            return "other"
        case inspect.LiteralType():
            return next(v for v in info.values if v != value)
        case inspect.ListType():
            return [changed(info.item_type, None)]
        case inspect.TupleType():
            return [0.5 + v for v in value]
        case inspect.DictType():
            return {"name": "other"}
    raise AssertionError(info)


def override(setting: str, value: Any) -> str:
    """The setting as on the command line."""
    text = '{name = "other"}' if isinstance(value, dict) else msgspec.json.encode(value).decode()
    return f"{setting}={text}"


def type_at(info: Any, setting: str) -> Any:
    """The type of a setting by its path."""
    name, _, rest = setting.partition(".")
    found = next(field.type for field in info.fields if field.encode_name == name)
    if not rest:
        return found
    members = getattr(found, "types", (found,))
    return type_at(next(m for m in members if isinstance(m, inspect.StructType)), rest)


@pytest.mark.parametrize("way", JOBS_OF_EACH_WAY)
def test_a_setting_that_is_changed_is_taken_or_told_or_refused(way: str) -> None:
    kind, *chosen = JOBS_OF_EACH_WAY[way]
    ways = ways_of(config_of(kind, *chosen))
    counts = {"honoured": 0, "idle": 0, "refused": 0}
    for setting, default in leaves(JOBS[kind].config).items():
        if setting in {w.setting for w in ways}:
            continue  # that would be another way
        which, found = next(
            ((w, v) for w in ways if (v := verdict(w, setting)) != HONOURED), (None, HONOURED)
        )
        value = changed(type_at(inspect.type_info(JOBS[kind].config), setting), default)
        if found.values:
            value = found.values[0]
        config = config_of(kind, *chosen, override(setting, value))
        counts[found.kind] += 1
        told = [s for s in idle_settings(config) if s.startswith(f"{setting} = ")]
        if found.kind == "refused":
            with pytest.raises(ConfigError) as refusal:
                require_honoured(config)
            said = f"{setting} = {spelled(value)} does not go with {which}: {found.word}"
            assert str(refusal.value) == said
        else:
            require_honoured(config)
        if found.kind == "idle":
            assert told == [
                f"{setting} = {spelled(value)} has no effect with {which}: {found.word}."
            ]
        else:
            assert told == []
    assert counts["honoured"] > 70


def test_several_refused_settings_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as refusal:
        require_honoured(config_of("scale", *BLOCKS, "solver.method=lbfgs", "start.refine=false"))
    said = str(refusal.value).splitlines()
    assert said[0] == "2 settings do not go with others:"
    assert [line.partition(" = ")[0] for line in said[1:]] == ["- start.refine", "- solver.method"]


def test_the_log_says_once_what_has_no_effect(tmp_path: Path) -> None:
    said = io.StringIO()
    simulated = [s for s in SIMULATED if "reindex" not in s]
    config = config_of(
        "postrefine", *simulated, "parallel.rounds=3", f"output.folder={tmp_path / 'out'}"
    )
    JOBS["postrefine"].check(config, ConsoleLog(Console(file=said, width=200), speaks=True))
    sentence = 'parallel.rounds = 3 has no effect with parallel.strategy = "global": it is about'
    assert said.getvalue().count(sentence) == 1
    assert said.getvalue().count("has no effect") == 1


# ---- the table -----------------------------------------------------------------------------------


def test_the_table_names_settings_and_ways_that_there_are() -> None:
    settings = leaves(PostrefineConfig)
    info = inspect.type_info(PostrefineConfig)
    for way, entries in NOT_HONOURED.items():
        assert way.value in type_at(info, way.setting).values, way
        for setting, found in entries.items():
            assert setting in settings
            assert found.word.endswith(".") == (found.kind == "refused"), (way, setting)
            for value in found.values:
                config_of("postrefine", override(setting, value))


def test_what_the_table_does_not_name_is_honoured() -> None:
    assert verdict(Way("parallel.strategy", "blocks"), "selection.d_min_A") == HONOURED
    assert verdict(Way("parallel.strategy", "blocks"), "solver.method").kind == "refused"
    assert verdict(Way("parallel.strategy", "global"), "solver.method") == HONOURED


def test_values_are_found_by_their_path() -> None:
    config = config_of("scale", "selection.d_min_A=2.5")
    assert value_at(config, "selection.d_min_A") == 2.5
    assert value_at(config, "simulate.seed") is None
