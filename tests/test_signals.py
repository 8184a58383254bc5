"""Signals: noted or heeded, and never lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from sfxproc import signals

ALL = ("SIGTERM", "SIGUSR1", "SIGINT")


@pytest.fixture(autouse=True)
def _installed() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    signals.install()
    yield
    signals.restore()
    signal.signal(signal.SIGINT, before)


def send(name: str) -> None:
    os.kill(os.getpid(), signal.Signals[name])


@pytest.mark.parametrize("name", ALL)
def test_while_loading_a_signal_is_noted_and_ends_the_run_afterwards(name: str) -> None:
    send(name)
    assert signals.requested() == name
    with pytest.raises(signals.StopNow, match=f"stopped by {name}. Nothing was kept yet"):
        signals.loaded()


@pytest.mark.parametrize("name", ALL)
def test_then_it_ends_the_run_at_once_and_nobody_swallows_it(name: str) -> None:
    def careless() -> None:
        try:
            send(name)
        except Exception:
            pytest.fail("taken for an error")

    signals.loaded()
    with pytest.raises(signals.StopNow, match=f"stopped by {name}. .*--resume"):
        careless()


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Errors in destructors that were complained of."""
    heard: list[object] = []
    signals.restore()
    monkeypatch.setattr(sys, "unraisablehook", lambda found: heard.append(found.exc_type))
    signals.install()
    return heard


def test_what_a_signal_cut_off_does_not_complain(heard: list[object]) -> None:
    """As llvmlite's objects do, if a kernel was being compiled."""

    class Half:
        def __init__(self) -> None:
            send("SIGINT")
            self.whole = True

        def __del__(self) -> None:
            assert self.whole

    signals.loaded()
    Half.__new__(Half)
    assert heard == [AttributeError]
    try:
        Half()
    except signals.StopNow:
        signals.ignore()
    assert heard == [AttributeError]
    signals.restore()
    Half.__new__(Half)
    assert heard == [AttributeError] * 2


def test_an_end_without_a_signal_hides_nothing(heard: list[object]) -> None:
    class Faulty:
        def __del__(self) -> None:
            raise ZeroDivisionError

    signals.loaded()
    signals.ignore()
    Faulty()
    assert heard == [ZeroDivisionError]


@pytest.mark.parametrize("name", ALL)
def test_deferred_signals_are_for_the_job_to_heed(name: str) -> None:
    def job() -> None:
        with signals.deferred():
            assert signals.requested() is None
            send(name)
            assert signals.requested() == name
            raise ZeroDivisionError

    signals.loaded()
    with pytest.raises(ZeroDivisionError):  # what the job ends with counts
        job()
    with pytest.raises(signals.StopNow):
        send("SIGTERM")


def test_what_the_job_did_not_get_to_heed_ends_it_when_nothing_is_deferred_any_more() -> None:
    inside = False

    def job() -> None:
        nonlocal inside
        with signals.deferred():
            with signals.deferred():
                send("SIGTERM")
            inside = True

    signals.loaded()
    with pytest.raises(signals.StopNow):
        job()
    assert inside


def test_one_that_meets_a_destructor_is_remembered_quietly(heard: list[object]) -> None:
    class Doomed:
        def __del__(self) -> None:
            send("SIGUSR1")
            pytest.fail("went on")

    signals.loaded()
    doomed = Doomed()
    del doomed
    assert heard == []
    with pytest.raises(signals.StopNow), signals.deferred():
        assert signals.requested() == "SIGUSR1"


def test_a_second_interruption_does_not_wait() -> None:
    def job() -> None:
        with signals.deferred():
            send("SIGTERM")
            send("SIGINT")
            assert signals.requested() == "SIGINT"
            send("SIGINT")

    signals.loaded()
    with pytest.raises(KeyboardInterrupt):
        job()


def test_it_is_told_what_was_kept() -> None:
    signals.loaded()
    signals.keeping("out/checkpoint")
    with pytest.raises(signals.StopNow) as stop:
        send("SIGTERM")
    assert str(stop.value) == (
        "stopped by SIGTERM. What was done so far is kept in 'out/checkpoint'; go on with "
        "`sfxproc run JOB --resume` and the same settings."
    )
    assert signals.farewell("after tea").startswith("stopped by SIGTERM after tea. What")


def test_handlers_are_put_back_and_what_is_ignored_stays_ignored() -> None:
    signals.restore()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for jobs in the background
    before = signal.getsignal(signal.SIGTERM)
    signals.install()
    assert signal.getsignal(signal.SIGTERM) is not before
    send("SIGINT")
    send("SIGUSR1")
    assert signals.requested() == "SIGUSR1"
    signals.ignore()
    send("SIGTERM")
    signals.restore()
    assert signal.getsignal(signal.SIGTERM) is before
    assert signals.requested() is None


# ---- of the program ---------------------------------------------------------------------------

SENDING = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
import sfxproc.__main__, sfxproc.config
number = getattr(signal, sys.argv.pop())
def read(path):
    os.kill(os.getpid(), number)
    return {"job": "scale", "symmetry": {"space_group": "P 1"}}
sfxproc.config.read_toml = read
sfxproc.__main__.main()
"""


@pytest.mark.parametrize(
    ("verb", "name", "status", "err"),
    [
        ("run", "SIGINT", 75, "sfxproc: stopped by SIGINT. Nothing was kept yet; begin again with"),
        ("run", "SIGTERM", 75, "sfxproc: stopped by SIGTERM. Nothing was kept yet"),
        ("check", "SIGINT", 130, "sfxproc: interrupted\n"),
        ("check", "SIGTERM", -signal.SIGTERM, ""),
        ("check", "SIGUSR1", -signal.SIGUSR1, ""),
    ],
)
def test_signals_are_those_of_a_run_only(verb: str, name: str, status: int, err: str) -> None:
    """Sent while the job file is read."""
    command = [sys.executable, "-c", SENDING, verb, "job.toml", name]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == status
    assert done.stderr.startswith(err)
    assert err or not done.stderr
