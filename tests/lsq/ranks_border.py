"""Run under mpiexec by test_border_mpi: a bordered problem solved, with its covariances.

Prints, on rank 0, a digest of all bits that came out. Argument: threads.
"""

import hashlib
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from sfxproc.lsq import LevenbergMarquardt, Loss
from sfxproc.lsq.covariance import exact
from sfxproc.parallel.comm import world
from tests.lsq.bordered import Size, bordered

comm, digest = world(), hashlib.sha256()
for size in (Size(k=40, w=9, patterns=40, each=30), Size(p=0), Size(shared=11)):
    engine, model, start = bordered(size, comm, threads=int(sys.argv[1]))
    result = LevenbergMarquardt(loss=Loss("huber", 1.0)).solve(engine, model, start)
    assert result.converged
    found = exact(engine, engine.linearise(result.model, result.point, Loss()))
    local, blocks = (engine.sums.gathered(a) for a in (result.point.local, found.local))
    if local is not None and blocks is not None:
        parts = (
            local,
            blocks,
            result.point.shared,
            result.point.border,
            found.border,
            found.from_local,
            np.array([result.objective, result.chi2, len(result.iterations)]),
        )
        for part in parts:
            digest.update(np.ascontiguousarray(part).tobytes())
if comm.rank == 0:
    print(digest.hexdigest())
