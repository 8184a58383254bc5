"""Run under mpiexec by test_mpi: one rank meets a bug while the others wait for it."""

from sfxproc.parallel.comm import world

comm = world()
if comm.rank == comm.size - 1:
    raise ZeroDivisionError("a bug on the last rank")
comm.allgather("never all here")
