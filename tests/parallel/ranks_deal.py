"""Run under mpiexec by test_coordinator, or alone: deals tasks in the way its argument names.

Rank 0 prints what came of it as one line of JSON.
"""

import json
import sys
import time

import numpy as np

from sfxproc.errors import InputError
from sfxproc.parallel.comm import world
from sfxproc.parallel.coordinator import Stage, deal

how, n_tasks = sys.argv[1], 12
comm = world()
tried = []


class Kept(dict):
    """A store in memory; tasks 0 and 5 are in it from the start."""

    def save(self, key, arrays):
        self[key] = arrays

    def load(self, key):
        return self.get(key)


def work(task):
    tried.append(task)
    time.sleep(0.05 if how == "halt" else 0.002 * (task % 3))
    if how == "mistake" and task == 4:
        raise InputError("the file of task 4 is no good")
    if how == "twice" and task in (0, 7):
        raise ValueError(f"task {task} never works")
    if how == "once" and task == 5 and first_try():
        raise MemoryError("not here")
    return {"square": np.full(50_000, task**2), "task": np.array([task])}


def first_try():
    """Whether no rank has tried task 5 before: the first one says so by a file."""
    try:
        with open(sys.argv[2], "x"):
            return True
    except FileExistsError:
        return False


order, total = [], np.zeros(50_000)


def consume(task, arrays):
    order.append(task)
    assert arrays["task"].tolist() == [task]
    global total
    total = total + arrays["square"]


store = None
if how == "kept":
    store = Kept(
        {f"toy/{t:06d}": {"square": np.full(50_000, t**2), "task": np.array([t])} for t in (0, 5)}
    )
done = []
outcome = deal(
    comm,
    Stage("toy", work),
    n_tasks,
    consume,
    store=store,
    stop=lambda: how == "halt" and comm.rank == comm.size - 1 and len(tried) >= 1,
    progress=done.append,
)
everybody = comm.allgather(tried)
if comm.rank == 0:
    told = {
        "order": order,
        "total": float(total[-1]),
        "failed": {str(k): v for k, v in outcome.failed.items()},
        "halted": outcome.halted,
        "tried": sorted(t for one in everybody for t in one),
        "by_rank": everybody,
        "progress": sum(done),
    }
    print(json.dumps(told))
else:
    assert (order, done) == ([], [])
comm.barrier()
