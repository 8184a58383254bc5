"""Run under mpiexec by test_mpi: every verb of the communicator, and sums over chunks.

Prints `fine` on each rank, or ends with the traceback of what was wrong.
"""

import sys
from pathlib import Path

import numpy as np

import sfxproc.parallel.comm as comm_module
from sfxproc.lsq import Engine
from sfxproc.parallel.chunks import Chunks, ChunkSums, owned
from sfxproc.parallel.comm import MpiComm, world

sys.path.append(str(Path(__file__).resolve().parents[2]))  # for the twins of the tests

from tests.twins.arrow import fold


def part(rank, width, dtype):
    """Rows of a rank: rank 1 has none, others several."""
    n = 0 if rank == 1 else 3 + rank
    return (np.arange(n * width).reshape(n, width) + 100 * rank).astype(dtype)


comm = world()
assert isinstance(comm, MpiComm)
rank, size = comm.rank, comm.size
assert size == int(sys.argv[1])
every = range(size)

comm.barrier()
assert comm.bcast({"from": rank}) == {"from": 0}
assert comm.allgather(rank * 2) == [2 * r for r in every]

for dtype in (np.float64, np.float32, np.int16, np.bool_):
    for width in (1, 3, 0):
        expected = np.concatenate([part(r, width, dtype) for r in every])
        found = comm.allgather_rows(part(rank, width, dtype))
        assert found.dtype == dtype
        assert np.array_equal(found, expected), (found, expected)
        gathered = comm.gather_arrays(part(rank, width, dtype))
        assert (gathered is None) == (rank > 0)
        for r, got in enumerate(gathered or []):
            assert np.array_equal(got, part(r, width, dtype))
    flat = comm.allgather_rows(part(rank, 1, dtype)[:, 0])
    assert np.array_equal(flat, np.concatenate([part(r, 1, dtype)[:, 0] for r in every]))

assert comm.allgather_rows(np.empty((0, 4))).shape == (0, 4)
cube = np.full((2, 3, 4), float(rank))
assert np.array_equal(comm.allgather_rows(cube)[::2, 0, 0], np.arange(size))
# columns of a larger array are not contiguous
strided = np.arange(20.0).reshape(10, 2)[::2, 1] + rank
assert np.array_equal(comm.allgather_rows(strided)[:5], np.arange(20.0).reshape(10, 2)[::2, 1])
assert len(comm.gather_arrays(strided) or every) == size

table = np.arange(12.0).reshape(4, 3) * (rank + 1)
assert np.array_equal(comm.bcast_array(table), np.arange(12.0).reshape(4, 3))
assert comm.bcast_array(np.empty(0)).shape == (0,)

# rank a sends (a + 2 b) % 4 rows to rank b, also to itself
parts = [np.full(((rank + 2 * b) % 4, 2), 10 * rank + b, dtype=np.int32) for b in every]
for a, got in enumerate(comm.exchange(parts)):
    assert got.shape == ((a + 2 * rank) % 4, 2)
    assert np.all(got == 10 * a + rank)
assert all(len(p) == 0 for p in comm.exchange([np.empty((0, 2)) for _ in every]))

# messages in pieces too, none of which end where an element does
for comm_module.PIECE_bytes in (1 << 30, 1001):
    # a ring: some receive first, since neither verb returns before the other side is there
    big = np.arange(70_000.0) + rank
    to, source, got = (rank + 1) % size, (rank - 1) % size, np.empty(70_000)
    for sends in (rank % 2 == 0, rank % 2 == 1):
        if sends:
            comm.send_array(big, to)
        else:
            comm.receive_array(got, source)
    assert np.array_equal(got, np.arange(70_000.0) + source)
    assert np.array_equal(comm.bcast_array(big.copy()), np.arange(70_000.0))
    found = comm.exchange([big[: 5000 * (b + 1)] for b in every])
    assert all(np.array_equal(g, np.arange(5000.0 * (rank + 1)) + r) for r, g in enumerate(found))

    # control messages, while arrays are on their way between the same ranks
    fortran = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    mail = {
        "from": rank,
        "big": big,
        "half": big[::2],
        "none": np.empty((0, 3), np.int16),
        "fortran": fortran,
        "flags": np.array([True, False]),
        "names": np.array(["a", "é"], object),
    }
    comm.barrier()
    assert comm.probe() is None
    comm.barrier()
    if rank:
        comm.send_array(big[:5], 0)  # small enough to lie there unreceived
        comm.send_object(mail, 0)
        comm.send_object(("second", rank), 0)
        reply = comm.receive_object(0)
        assert reply == {"to": rank}
    else:
        waiting = set(range(1, size))
        while waiting:
            source = comm.probe()
            if source is None:
                continue
            waiting.discard(source)
            got = comm.receive_object(source)
            assert got["from"] == source
            assert np.array_equal(got["big"], np.arange(70_000.0) + source)
            assert np.array_equal(got["half"], np.arange(70_000.0)[::2] + source)
            assert got["none"].shape == (0, 3)
            assert got["none"].dtype == np.int16
            assert np.array_equal(got["fortran"], fortran)
            assert list(got["names"]) == ["a", "é"]
            got["flags"][0] = False  # a receiver's own
            assert comm.receive_object(source) == ("second", source)
            comm.send_object({"to": source}, source)
        for source in range(1, size):
            assert np.array_equal(comm.receive_array(np.empty(5), source), np.arange(5.0) + source)
    assert comm.probe() is None

assert not comm.any_true(False)
assert comm.any_true(rank == size - 1)
assert comm.any_true(True)


def check_sums(n_chunks):
    """Sums over chunks; also on more ranks than chunks."""
    rng = np.random.default_rng(n_chunks)
    values = rng.normal(size=(n_chunks, 30)) * 10.0 ** rng.uniform(-8, 8, (n_chunks, 30))
    run = owned(n_chunks, rank, size)
    sums = ChunkSums(comm, Chunks(np.arange(n_chunks + 1), *run))

    def fill(chunk, out):
        out += values[run[0] + chunk]

    assert np.array_equal(sums.shared(30, fill, Engine(sums, threads=2).map), fold(values))
    scalars = sums.scalars(values[slice(*run), :2])
    assert np.array_equal(scalars, comm.bcast(scalars))
    gathered = sums.gathered(np.arange(*run))
    assert gathered is None if rank else np.array_equal(gathered, np.arange(n_chunks))
    assert sums.place(run[1] - run[0]) == run[0]
    counts = sums.joined(np.arange(5) + rank, lambda into, other: np.add(into, other, out=into))
    assert np.array_equal(counts, size * np.arange(5) + size * (size - 1) // 2)


check_sums(4)
check_sums(64)
print("fine")
