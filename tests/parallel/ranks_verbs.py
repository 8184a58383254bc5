"""Run under mpiexec by test_mpi: every verb of the communicator, and sums over chunks.

Prints `fine` on each rank, or ends with the traceback of what was wrong.
"""

import sys

import numpy as np

from sfxproc.parallel.chunks import Chunks, ChunkSums, owned
from sfxproc.parallel.comm import MpiComm, world


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

for n_chunks in (8, 64):
    rng = np.random.default_rng(n_chunks)
    values = rng.normal(size=(n_chunks, 30)) * 10.0 ** rng.uniform(-8, 8, (n_chunks, 30))
    run = owned(n_chunks, rank, size)
    sums = ChunkSums(comm, Chunks(np.arange(n_chunks + 1), *run))
    root = values.copy()
    while len(root) > 1:
        root = root[0::2] + root[1::2]
    assert np.array_equal(sums.shared(values[slice(*run)].copy()), root[0])
    scalars = sums.scalars(values[slice(*run), :2])
    assert np.array_equal(scalars, comm.bcast(scalars))
    gathered = sums.gathered(np.arange(*run))
    assert gathered is None if rank else np.array_equal(gathered, np.arange(n_chunks))
    assert sums.place(run[1] - run[0]) == run[0]

print("fine")
