"""How many threads a rank takes."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest

from sfxproc.parallel.comm import SerialComm
from sfxproc.parallel.threads import threads_of


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the processors of the host and those this process may use."""

    def build(host: int, usable: int) -> None:
        monkeypatch.setattr(os, "cpu_count", lambda: host)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(usable)), raising=False)

    return build


def ranks(size: int) -> Any:
    return SimpleNamespace(rank=0, size=size)


def test_what_is_asked_for_is_taken(machine: Any) -> None:
    machine(8, 8)
    assert threads_of(3, SerialComm(), {}) == 3
    assert threads_of(100, ranks(4), {}) == 100


def test_one_process_takes_all_it_may_use(machine: Any) -> None:
    machine(16, 16)
    assert threads_of(0, SerialComm(), {}) == 16
    machine(16, 5)
    assert threads_of(0, SerialComm(), {}) == 5


def test_ranks_share_a_host(machine: Any) -> None:
    machine(16, 16)
    assert threads_of(0, ranks(4), {}) == 4
    assert threads_of(0, ranks(5), {}) == 3
    assert threads_of(0, ranks(40), {}) == 1


@pytest.mark.parametrize(
    "name", ["MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_NTASKS_PER_NODE"]
)
def test_ranks_on_several_hosts_share_with_those_on_their_own(machine: Any, name: str) -> None:
    machine(16, 16)
    assert threads_of(0, ranks(8), {name: "2"}) == 8
    assert threads_of(0, ranks(8), {name: "2(x4)"}) == 2  # not understood: as on one host


def test_a_rank_that_is_pinned_has_its_share_already(machine: Any) -> None:
    machine(16, 4)
    assert threads_of(0, ranks(4), {"MPI_LOCALNRANKS": "4"}) == 4


def test_without_affinity_the_count_of_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert threads_of(0, SerialComm(), {}) == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert threads_of(0, SerialComm(), {}) == 1
