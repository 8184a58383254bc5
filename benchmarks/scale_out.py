"""`python -m benchmarks scale_out`: both strategies on far more ranks than any test has, on paper.

Blocks: a simulation by events. A stage deals independent tasks. All ranks ask rank 0 for work; rank
0 serves one message after another, in the order of arrival, for

    s = handling + bytes/link + bytes/adding        (a result; a bare request has no bytes)

and answers with a task, which reads its crystals and computes for a log-normal time. A stage ends
when the last result is served; its outcome then goes to all ranks along a binomial tree. Ranks work
without loss while a task lasts longer than rank 0 needs to serve all of them: up to task/s ranks.

Global: a linearisation, products with the Schur complement and an objective an iteration. A rank
computes its chunks one after another (log-normal times); sums climb a binary tree level by level, a
node waiting for the later of its two parts, and come back along a binomial tree.
"""

from __future__ import annotations

import argparse
import heapq
import math
from dataclasses import dataclass, field, fields
from itertools import product

import numpy as np
from numpy.typing import NDArray

from benchmarks.runs import Column, Figures, number, table
from sfxproc.parallel.blocks import plan_blocks
from sfxproc.parallel.chunks import owned, plan_chunks
from sfxproc.parallel.comm import SerialComm

F8 = NDArray[np.float64]


def told(default: float, help: str) -> float:
    """A setting that the command line knows, with what it is."""
    value: float = field(default=default, metadata={"help": help})
    return value


@dataclass(frozen=True)
class Settings:
    """What the simulation assumes; each is an option of the command."""

    rows: float = told(1600, "observations of a crystal")
    block_size: float = told(2000, "crystals of a block")
    overlap: float = told(1000, "crystals that neighbouring blocks share")
    rounds: float = told(3, "rounds after the first")
    refine_s: float = told(1.3, "s of a block in the first round")
    gradient_s: float = told(0.19, "s of a segment in a round's first half")
    step_s: float = told(0.25, "s of a block in a round's second half")
    spread: float = told(0.15, "relative spread of the tasks' times (log-normal)")
    row_bytes: float = told(12, "bytes of an observation on disk")
    disk_Bps: float = told(1e9, "bytes/s that a rank reads")
    disks_Bps: float = told(50e9, "bytes/s that the file system gives to all")
    iterations: float = told(8, "Levenberg-Marquardt iterations (global)")
    products: float = told(4, "products with the Schur complement an iteration (global)")
    linearise_ns: float = told(35, "ns an observation, error model refitted (global)")
    product_ns: float = told(4, "ns an observation (global)")
    objective_ns: float = told(10, "ns an observation (global)")
    chunk_spread: float = told(0.03, "relative spread of the chunks' times (global)")
    latency_s: float = told(5e-6, "s of a message on its way")
    link_Bps: float = told(5e9, "bytes/s of a link")
    add_Bps: float = told(2e9, "bytes/s that a rank adds to a sum")
    handling_s: float = told(50e-6, "s that rank 0 spends on any message")
    seed: float = told(1, "of the random times")


# ---- blocks ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """How a stage went: when it ended, for how long rank 0 served, how many results waited at most
    for one with a lower number (they are added in the order of the tasks)."""

    end_s: float
    served_s: float
    waiting: int


def deal(work_s: F8, ranks: int, result_bytes: float, settings: Settings) -> Stage:
    """Deal tasks of known times (n,) to ranks; begins at 0."""
    serve_s = result_bytes / settings.link_Bps + result_bytes / settings.add_Bps
    # (arrival at rank 0, rank, task done or −1)
    arriving = [(0.0 if rank == 0 else settings.latency_s, rank, -1) for rank in range(ranks)]
    heapq.heapify(arriving)
    free_s = served_s = end_s = 0.0
    task = n_done = next_added = most = 0
    done = np.zeros(len(work_s) + 1, dtype=bool)
    while n_done < len(work_s):
        arrival_s, rank, finished = heapq.heappop(arriving)
        service_s = settings.handling_s + (serve_s if finished >= 0 else 0.0)
        free_s = max(arrival_s, free_s) + service_s
        served_s += service_s
        if finished >= 0:
            n_done, end_s, done[finished] = n_done + 1, free_s, True
            while done[next_added]:
                next_added += 1
            most = max(most, n_done - next_added)
        if task < len(work_s):
            way_s = 0.0 if rank == 0 else 2.0 * settings.latency_s  # there and back
            heapq.heappush(arriving, (free_s + way_s + work_s[task], rank, task))
            task += 1
    return Stage(end_s, served_s, most)


def times(mean_s: float, spread: float, n: int, random: np.random.Generator) -> F8:
    """Log-normal times (n,) of this mean and relative spread."""
    sigma2 = math.log1p(spread * spread)
    return np.asarray(mean_s * random.lognormal(-0.5 * sigma2, math.sqrt(sigma2), n))


def broadcast_s(n_bytes: float, ranks: int, settings: Settings) -> float:
    """Time along a binomial tree."""
    return math.ceil(math.log2(ranks)) * (settings.latency_s + n_bytes / settings.link_Bps)


def blocks_job(crystals: int, reflections: int, ranks: int, settings: Settings) -> Figures:
    """All stages of a job in blocks, one after another."""
    random = np.random.default_rng((int(settings.seed), crystals, ranks))
    plan = plan_blocks(crystals, int(settings.block_size), int(settings.overlap), 0)
    segments, blocks = np.diff(plan.segments), np.diff(plan.bounds)[:, 0]
    result_bytes = 16.0 * reflections
    state_bytes = result_bytes + 16.0 * crystals  # and ln G and B of all
    round_ = [(settings.gradient_s, segments), (settings.step_s, blocks)]
    stages = [(settings.refine_s, blocks), *(int(settings.rounds) * round_)]
    wall_s = useful_s = served_s = read_s = unemployed_s = 0.0
    waiting = 0
    for mean_s, sizes in stages:
        n = len(sizes)
        compute_s = times(mean_s, settings.spread, n, random)
        rate = min(settings.disk_Bps, settings.disks_Bps / min(ranks, n))
        reading_s = sizes * settings.rows * settings.row_bytes / rate
        stage = deal(compute_s + reading_s, ranks, result_bytes, settings)
        took_s = stage.end_s + broadcast_s(state_bytes, ranks, settings)
        wall_s += took_s
        useful_s += float(compute_s.sum())
        read_s += float(reading_s.sum())
        unemployed_s += max(ranks - n, 0) * took_s
        served_s += stage.served_s
        waiting = max(waiting, stage.waiting)
    lost = {"few tasks": unemployed_s, "disk": read_s}
    queue = "rank 0" if served_s > 0.5 * wall_s else "last tasks"
    lost[queue] = ranks * wall_s - useful_s - read_s - unemployed_s
    return {
        "crystals": crystals,
        "reflections": reflections,
        "ranks": ranks,
        "pieces": len(blocks),
        "wall_s": wall_s,
        "efficiency": useful_s / (ranks * wall_s),
        "overhead": served_s / wall_s,
        "disk": read_s / (ranks * wall_s),
        "waiting_GB": 1e-9 * waiting * result_bytes,
        "most": max(lost, key=lambda name: lost[name]),
    }


def saturation(mean_s: float, reflections: int, settings: Settings) -> float:
    """Ranks that keep rank 0 busy all the time with tasks of this length."""
    n_bytes = 16.0 * reflections
    service_s = settings.handling_s + n_bytes / settings.link_Bps + n_bytes / settings.add_Bps
    return mean_s / service_s


# ---- global ----------------------------------------------------------------------------------


def climb(ready_s: F8, n_bytes: float, settings: Settings) -> float:
    """When the sum of arrays that ranks (n,) have ready at these times is at the root."""
    move_s = settings.latency_s + n_bytes / settings.link_Bps
    while len(ready_s) > 1:
        pairs = len(ready_s) // 2
        here, sent = ready_s[: 2 * pairs : 2], ready_s[1::2] + move_s
        joined = np.maximum(here, sent) + n_bytes / settings.add_Bps
        ready_s = np.concatenate([joined, ready_s[2 * pairs :]])
    return float(ready_s[0])


def global_job(crystals: int, reflections: int, ranks: int, settings: Settings) -> Figures:
    """All iterations of a joint solution."""
    random = np.random.default_rng((int(settings.seed), crystals, ranks))
    rows = settings.rows * crystals
    each = np.full(crystals, int(settings.rows))
    n_chunks = len(plan_chunks(each, reflections, SerialComm()).bounds) - 1
    used = min(ranks, n_chunks)
    first = [owned(n_chunks, rank, used)[0] for rank in range(used)]
    steps = [(settings.linearise_ns, 2), *(int(settings.products) * [(settings.product_ns, 1)])]
    wall_s = compute_s = useful_s = 0.0
    for _ in range(int(settings.iterations)):
        for ns, arrays in [*steps, (settings.objective_ns, 0)]:
            chunk_s = times(1e-9 * ns * rows / n_chunks, settings.chunk_spread, n_chunks, random)
            rank_s = np.add.reduceat(chunk_s, first)
            n_bytes = 8.0 * arrays * reflections
            wall_s += climb(rank_s, n_bytes, settings) + broadcast_s(n_bytes, used, settings)
            wall_s += 2.0 * broadcast_s(8.0, used, settings)  # scalars: there and back
            compute_s += float(rank_s.max())
            useful_s += float(chunk_s.sum())
    lost = {
        "few chunks": (ranks - used) * wall_s,
        "sums": used * (wall_s - compute_s),
        "uneven chunks": used * compute_s - useful_s,
    }
    return {
        "crystals": crystals,
        "reflections": reflections,
        "ranks": ranks,
        "pieces": n_chunks,
        "wall_s": wall_s,
        "efficiency": useful_s / (ranks * wall_s),
        "overhead": 1.0 - compute_s / wall_s,
        "most": max(lost, key=lambda name: lost[name]),
    }


# ---- the command -----------------------------------------------------------------------------

GLOBAL_COLUMNS: list[Column] = [
    ("crystals", number("crystals")),
    ("reflections", number("reflections")),
    ("ranks", number("ranks")),
    ("chunks", number("pieces")),
    ("wall s", number("wall_s", ".2f")),
    ("efficiency %", number("efficiency", ".1f", 100.0)),
    ("wall on sums %", number("overhead", ".1f", 100.0)),
    ("most is lost to", lambda f: str(f["most"])),
]
BLOCKS_COLUMNS: list[Column] = [
    *GLOBAL_COLUMNS[:3],
    ("blocks", number("pieces")),
    *GLOBAL_COLUMNS[4:6],
    ("rank 0 busy %", number("overhead", ".1f", 100.0)),
    ("waiting GB", number("waiting_GB", ".2f")),
    GLOBAL_COLUMNS[-1],
]


def add_arguments(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command."""
    command = commands.add_parser("scale_out", help="both strategies on many ranks, simulated")
    command.add_argument("--ranks", nargs="+", type=int, default=[64, 1024, 16384])
    command.add_argument("--crystals", nargs="+", type=int, default=[100_000, 300_000, 1_000_000])
    command.add_argument("--reflections", nargs="+", type=int, default=[50_000, 163_000])
    for f in fields(Settings):
        name = f"--{f.name.replace('_', '-')}"
        help = f"{f.metadata['help']} (default {f.default:g})"
        command.add_argument(name, type=float, default=f.default, help=help)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Both tables, and where rank 0 is saturated."""
    settings = Settings(**{f.name: getattr(options, f.name) for f in fields(Settings)})
    cases = list(product(options.crystals, options.reflections, options.ranks))
    print("Blocks:\n")
    print(table([blocks_job(*case, settings) for case in cases], BLOCKS_COLUMNS))
    print()
    kinds = {"refine": settings.refine_s, "others": min(settings.gradient_s, settings.step_s)}
    for reflections in options.reflections:
        found = [f"{k} {saturation(v, reflections, settings):,.0f}" for k, v in kinds.items()]
        print(f"Ranks that saturate rank 0 at {reflections:,} reflections: {', '.join(found)}.")
    print("\nGlobal:\n")
    print(table([global_job(*case, settings) for case in cases], GLOBAL_COLUMNS))
    return 0
