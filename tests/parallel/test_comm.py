"""Communicators without a launcher: the serial twin, and how a launch is judged."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sfxproc.errors import LaunchError
from sfxproc.parallel.comm import SerialComm, launched_tasks, pieces, world

LAUNCHES = [
    {"PMI_SIZE": "4", "PMI_RANK": "1"},
    {"OMPI_COMM_WORLD_SIZE": "4"},
    {"PMIX_SIZE": "4"},
    {"MV2_COMM_WORLD_SIZE": "4"},
    {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "4"},
]
ALONE = [
    {},
    {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "7"},  # the shell of a batch script
    {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1"},
    {"SLURM_STEP_ID": "0"},
    {"HOME": "/somewhere"},
]


@pytest.fixture
def mpi(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """An mpi4py whose world has `size` ranks; importing it is noted."""
    state = SimpleNamespace(size=1)
    communicator = SimpleNamespace(
        Get_rank=lambda: 0, Get_size=lambda: state.size, Dup=lambda: communicator
    )

    class MPI(ModuleType):
        COMM_WORLD = communicator

        @staticmethod
        def Get_library_version() -> str:
            return "PretendMPI 9.9 of today"

    package = ModuleType("mpi4py")
    package.MPI = MPI("mpi4py.MPI")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mpi4py", package)
    monkeypatch.setitem(sys.modules, "mpi4py.MPI", package.MPI)  # type: ignore[attr-defined]
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # world() may set it
    return state


@pytest.mark.parametrize("environment", LAUNCHES, ids=lambda e: next(iter(e)))
def test_ranks_that_do_not_see_each_other_are_refused(
    mpi: SimpleNamespace, environment: dict[str, str]
) -> None:
    with pytest.raises(LaunchError) as caught:
        world(environment)
    message = str(caught.value)
    assert "4 processes" in message
    assert "PretendMPI" in message
    assert "mpiexec" in message
    assert "srun" in message


@pytest.mark.parametrize("environment", LAUNCHES, ids=lambda e: next(iter(e)))
def test_ranks_that_see_each_other_are_not(
    mpi: SimpleNamespace, environment: dict[str, str]
) -> None:
    mpi.size = 4
    comm = world(environment)
    assert (comm.rank, comm.size) == (0, 4)


@pytest.mark.parametrize("environment", LAUNCHES, ids=lambda e: next(iter(e)))
def test_a_launch_without_mpi4py_is_refused(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    monkeypatch.setitem(sys.modules, "mpi4py", None)  # importing it fails
    with pytest.raises(LaunchError, match=r"sfxproc\[mpi\]"):
        world(environment)


@pytest.mark.parametrize("environment", ALONE, ids=str)
def test_a_process_of_its_own_does_not_touch_mpi(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    assert isinstance(world(environment), SerialComm)


@pytest.mark.parametrize("size_variable", ["PMI_SIZE", "OMPI_COMM_WORLD_SIZE"])
def test_one_rank_under_a_launcher_is_serial(
    mpi: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, size_variable: str
) -> None:
    assert isinstance(world({size_variable: "1"}), SerialComm)
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    assert isinstance(world({size_variable: "1"}), SerialComm)


def test_launched_tasks() -> None:
    assert launched_tasks({}) == 1
    assert launched_tasks({"PMI_SIZE": "rubbish"}) == 1
    assert launched_tasks({"PMI_SIZE": "2", "SLURM_STEP_ID": "1", "SLURM_STEP_NUM_TASKS": "3"}) == 3


def test_serial_verbs() -> None:
    comm, rows = SerialComm(), np.arange(6).reshape(3, 2)
    comm.barrier()
    assert comm.bcast("x") == "x"
    assert comm.allgather(3) == [3]
    for found in (comm.allgather_rows(rows), comm.bcast_array(rows), comm.exchange([rows])[0]):
        np.testing.assert_array_equal(found, rows)
    gathered = comm.gather_arrays(rows)
    assert gathered is not None
    np.testing.assert_array_equal(gathered[0], rows)
    assert [comm.any_true(flag) for flag in (False, True)] == [False, True]
    assert comm.probe() is None
    for send in (
        lambda: comm.send_array(rows, 0),
        lambda: comm.receive_array(rows, 0),
        lambda: comm.send_object("x", 0),
        lambda: comm.receive_object(0),
    ):
        with pytest.raises(ValueError, match="nobody"):
            send()
    with pytest.raises(SystemExit) as ended:
        comm.abort(3)
    assert ended.value.code == 3


def test_pieces_are_views_that_cover_an_array(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfxproc.parallel.comm.PIECE_bytes", 7)
    array = np.arange(6, dtype=np.int16).reshape(2, 3)
    found = pieces(array)
    assert [len(piece) for piece in found] == [7, 5]
    assert b"".join(piece.tobytes() for piece in found) == array.tobytes()
    assert all(np.shares_memory(piece, array) for piece in found)
    assert pieces(array[:0]) == pieces(np.empty((3, 0))) == []
    with pytest.raises(ValueError, match="contiguous"):
        pieces(array.T)


def test_pretended_ranks_fail_where_mpi_would() -> None:
    """The tests' own communicator refuses rows of unequal shape."""
    from tests.problems import on_ranks

    def work(comm: Any) -> Any:
        return comm.allgather_rows(np.zeros((0, 2) if comm.rank else (0,)))

    with pytest.raises(AssertionError):
        on_ranks(2, work)
