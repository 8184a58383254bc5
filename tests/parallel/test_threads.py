"""How many threads a rank takes."""

from __future__ import annotations

import os
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from sfxproc.parallel.comm import SerialComm
from sfxproc.parallel.threads import threads_of, usable_processors


@pytest.fixture
def processors(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the processors that this process may use."""

    def build(n: int) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(n)), raising=False)

    return build


def ranks(*places: tuple[str, range]) -> Any:
    """A communicator whose other ranks are at these places (host, processors)."""
    others = [(host, tuple(usable)) for host, usable in places]
    return SimpleNamespace(rank=0, allgather=lambda own: [own, *others])


def test_what_is_asked_for_is_taken(processors: Any) -> None:
    processors(8)
    assert threads_of(3, SerialComm()) == 3
    assert threads_of(100, ranks(("elsewhere", range(8)))) == 100


def test_one_process_takes_all_it_may_use(processors: Any) -> None:
    processors(16)
    assert threads_of(0, SerialComm()) == 16
    processors(5)
    assert threads_of(0, SerialComm()) == 5


def test_ranks_on_the_same_processors_share_them(processors: Any) -> None:
    processors(16)
    here = (socket.gethostname(), range(16))
    assert threads_of(0, ranks(here, here, here)) == 4
    assert threads_of(0, ranks(*[here] * 4)) == 3
    assert threads_of(0, ranks(*[here] * 39)) == 1


def test_ranks_on_other_hosts_do_not_count(processors: Any) -> None:
    processors(16)
    here, there = (socket.gethostname(), range(16)), ("elsewhere", range(16))
    assert threads_of(0, ranks(here, there, there)) == 8


def test_a_rank_with_processors_of_its_own_has_them_all(processors: Any) -> None:
    processors(4)
    pinned = [(socket.gethostname(), range(4 * k, 4 * k + 4)) for k in (1, 2, 3)]
    assert threads_of(0, ranks(*pinned)) == 4


def test_without_affinity_the_count_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert usable_processors() == tuple(range(6))
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert threads_of(0, SerialComm()) == 1
