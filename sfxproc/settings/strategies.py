"""What each way of working makes of each setting: strategy × setting → verdict.

A job works in several ways at once, and a setting chooses each of them: its kind, its strategy, how
blocks go on, the scheme of postrefinement of all crystals together (`ways_of`). In each way a
setting is one of

    honoured   it has the effect that the files in jobs/ describe;
    idle       it belongs to another way, to which a job file may be switched by a `--set`: it has
               no effect here, does no harm, and the log says so once;
    refused    it would have no effect, or another one than is meant: ConfigError, with a word on
               what to do instead.

Only what is not honoured is written down. It counts where a setting is not at its default or, if
values are given, where it has one of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from sfxproc.config import leaves, spelled
from sfxproc.errors import ConfigError
from sfxproc.settings.postrefine import AUTO, PostrefineConfig
from sfxproc.settings.scale import ScaleConfig


@dataclass(frozen=True)
class Way:
    """A way of working: the setting that chooses it, and its value."""

    setting: str
    value: str

    def __str__(self) -> str:
        return f"{self.setting} = {spelled(self.value)}"


@dataclass(frozen=True)
class Verdict:
    """What a way of working makes of a setting. word : why, and what to do instead. values : of
    the setting, that this is about; none are named: all but its default."""

    kind: Literal["honoured", "idle", "refused"]
    word: str = ""
    values: tuple[object, ...] = ()


def _idle(word: str, *values: object) -> Verdict:
    return Verdict("idle", word, values)


def _refused(word: str, *values: object) -> Verdict:
    return Verdict("refused", word, values)


HONOURED = Verdict("honoured")
POSTREFINE = Way("job", "postrefine")
GLOBAL, BLOCKS = Way("parallel.strategy", "global"), Way("parallel.strategy", "blocks")
AVERAGE = Way("parallel.rounds_mode", "average")
JOINT, CYCLES, BY_CRYSTAL = (
    Way("postrefine.scheme", name) for name in ("joint", "cycles", "crystal-by-crystal")
)

USE_GLOBAL = 'Use parallel.strategy = "global", which runs on many ranks too, or leave it out.'
OF_BLOCKS = _idle("it is about blocks")
OF_JOINT, OF_CYCLES = (_idle(f"it is about {way}") for way in (JOINT, CYCLES))
KEPT = _idle("no crystal is left out for disagreeing with the others", True)
NOT_REJECTED = {
    "rejection.reject": KEPT,
    **{
        f"rejection.{name}": _idle(KEPT.word)
        for name in ("false_alarms", "unrelated_signal", "min_cc", "passes")
    },
}

NOT_HONOURED: dict[Way, dict[str, Verdict]] = {
    POSTREFINE: {
        "scaling.partiality": _refused("partialities are worked out there. Leave it out."),
        "selection.min_partiality": _refused("partialities are worked out there. Leave it out."),
        "corrections.lorentz": _refused(
            "partialities tell how much of each reflection a still shows. Leave it out."
        ),
    },
    GLOBAL: {
        "parallel.block_size": OF_BLOCKS,
        "parallel.overlap": OF_BLOCKS,
        "parallel.rounds": OF_BLOCKS,
        "parallel.rounds_mode": OF_BLOCKS,
        "parallel.round_tolerance_sigma": OF_BLOCKS,
    },
    BLOCKS: {
        "scaling.covariance": _refused(
            f"correlations between crystals are left out of uncertainties. {USE_GLOBAL}"
        ),
        "start.frames": _refused(f"all crystals begin anew. {USE_GLOBAL}"),
        "start.refine": _refused(f"all crystals are refined. {USE_GLOBAL}"),
        "solver.method": _refused(f'blocks are solved by "schur-cg". {USE_GLOBAL}'),
        "output.checkpoint_interval_s": _idle("each task is kept when it is done"),
        "postrefine.partiality": _refused(
            'name a model, or use parallel.strategy = "global", which runs on many ranks too.',
            AUTO,
        ),
        "postrefine.scheme": _refused(
            f"within blocks all parameters are refined together. {USE_GLOBAL}"
        ),
        "postrefine.cycles": OF_CYCLES,
    },
    JOINT: {
        "postrefine.cycles": OF_CYCLES,
        "rejection.passes": _refused(
            "crystals are judged after each of postrefine.passes. Set that, or leave it out."
        ),
    },
    CYCLES: {"postrefine.passes": OF_JOINT, **NOT_REJECTED},
    BY_CRYSTAL: {
        "postrefine.passes": OF_JOINT,
        "postrefine.cycles": OF_CYCLES,
        **NOT_REJECTED,
    },
}


def verdict(way: Way, setting: str) -> Verdict:
    """What a way of working makes of a setting, such as "solver.method"."""
    return NOT_HONOURED.get(way, {}).get(setting, HONOURED)


def ways_of(config: ScaleConfig) -> list[Way]:
    """The ways a job works in."""
    settings = ["job", "parallel.strategy"]
    if config.parallel.strategy == "blocks":
        settings.append("parallel.rounds_mode")
    elif isinstance(config, PostrefineConfig):
        settings.append("postrefine.scheme")
    return [Way(setting, str(value_at(config, setting))) for setting in settings]


def require_honoured(config: ScaleConfig) -> None:
    """Raise ConfigError if a setting is refused in the way the job works; all of them are told."""
    problems = list(_told(config, "refused", "does not go with"))
    if len(problems) == 1:
        raise ConfigError(problems[0])
    if problems:
        listed = "".join(f"\n- {problem}" for problem in problems)
        raise ConfigError(f"{len(problems)} settings do not go with others:{listed}")


def idle_settings(config: ScaleConfig) -> list[str]:
    """A sentence about each setting that belongs to another way of working."""
    return [f"{sentence}." for sentence in _told(config, "idle", "has no effect with")]


def _told(config: ScaleConfig, kind: Literal["idle", "refused"], verb: str) -> Iterator[str]:
    """Setting, value, way and word of each verdict of a kind that counts in this job."""
    for setting, default in leaves(type(config)).items():
        value = value_at(config, setting)
        for way in ways_of(config):
            found = verdict(way, setting)
            counts = value in found.values if found.values else value != default
            if found.kind == kind and counts:
                yield f"{setting} = {spelled(value)} {verb} {way}: {found.word}"
                break


def value_at(config: ScaleConfig, setting: str) -> object:
    """The value of a setting by its path; None within a table that is not there."""
    value: object = config
    for name in setting.split("."):
        value = getattr(value, name, None)
    return value
