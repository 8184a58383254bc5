"""Crystals led astray while intensities were poor, which begin anew."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sfxproc.kernels.postrefine import LN_SIZE, THETA_1, THETA_2
from sfxproc.lsq import Engine, Loss, Point
from sfxproc.lsq.rounds import local_objectives, refit_local
from sfxproc.models.postrefine import PostrefineModel
from sfxproc.models.scale import LN_G, B
from sfxproc.parallel.chunks import ChunkSums, plan_chunks
from sfxproc.parallel.comm import SerialComm

F8 = NDArray[np.float64]

WORTH = 1.0  # of ½ χ², by which a crystal must be better off elsewhere
FAR = 4.0  # times the median rotation, or spread of ln r₀, of a crystal that strayed
LEAST_SPREAD = 0.05


def second_chance(
    model: PostrefineModel, point: Point, start: Point, loss: Loss
) -> tuple[Point, int]:
    """The point with strayed crystals refitted anew, where that is better, and their number in the
    whole job."""
    free = model.layout.free[:, LN_G]
    gathered = model.scale.engine.sums.gathered(turns_and_sizes(point.local, start.local)[free])
    typical = model.scale.engine.sums.told(None if gathered is None else Typical.of(gathered))
    if typical is None:
        return point, 0
    point, won = strayed_anew(model, point, start, typical, loss)
    better = won.astype(np.float64)[:, None]
    return point, int(model.scale.engine.dots(model.layout, better, better)[0])


def turns_and_sizes(local: F8, start: F8) -> F8:
    """(n, 2) how far crystals turned from their start, rad, and ln r₀."""
    turned = np.hypot(*(local - start)[:, THETA_1 : THETA_2 + 1].T)
    return np.stack([turned, local[:, LN_SIZE]], axis=1)


@dataclass(frozen=True)
class Typical:
    """Of most crystals: median rotation, rad, ln of the size and its spread."""

    turn: float
    ln_size: float
    spread: float

    @classmethod
    def of(cls, found: F8) -> Typical | None:
        """From `turns_and_sizes`; None of no crystals."""
        if not len(found):
            return None
        turn, ln_size = np.median(found, axis=0)
        return cls(turn, ln_size, float(np.median(np.abs(found[:, 1] - ln_size))))


def strayed_anew(
    model: PostrefineModel, point: Point, start: Point, typical: Typical, loss: Loss
) -> tuple[Point, NDArray[np.bool_]]:
    """The point with this process's strayed crystals refitted anew, and where (n,) that was better.

    While intensities are still poor a crystal can be led astray, to an orientation far off whose
    partialities are all alike. With the intensities as they are now it begins again from its start,
    with the median size of the others. Strayed are those that turned much farther than most, or are
    much larger or smaller.
    """
    turned, size = turns_and_sizes(point.local, start.local).T
    spread = max(typical.spread, LEAST_SPREAD)
    strayed = (turned > FAR * typical.turn) | (np.abs(size - typical.ln_size) > FAR * spread)
    rows = np.flatnonzero(strayed & model.layout.free[:, LN_G])
    better = np.zeros(len(size), dtype=bool)
    local = point.local.copy()
    if len(rows):
        some = part_of(model, rows)
        engine = some.scale.engine
        now = local_objectives(engine, some, Point(local[rows], point.shared), loss)
        anew = start.local[rows].copy()
        anew[:, : B + 1], anew[:, LN_SIZE] = local[rows, : B + 1], typical.ln_size
        anew = refit_local(engine, some, Point(anew, point.shared), loss).local
        then = local_objectives(engine, some, Point(anew, point.shared), loss)
        won = then < now - WORTH
        local[rows[won]] = anew[won]
        better[rows[won]] = True
    return Point(local, point.shared), better


def part_of(model: PostrefineModel, crystals: NDArray[np.int64]) -> PostrefineModel:
    """The model of some of this process's crystals, alone. crystals : increasing."""
    old, scale, g = model.layout, model.scale, model.geometry
    counts = np.diff(old.start)[crystals]
    rows = np.concatenate([np.arange(*old.start[m : m + 2]) for m in crystals])
    chunks = plan_chunks(counts, old.n_shared, SerialComm())
    layout = replace(
        old,
        start=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        shared=old.shared[rows],
        chunk=chunks.local_bounds,
        free=old.free[crystals],
        prior_centre=old.prior_centre[crystals],
        prior_weight=old.prior_weight[crystals],
        component=old.component[crystals],
    )
    engine = Engine(ChunkSums(SerialComm(), chunks), scale.engine.threads)
    smaller = replace(
        scale,
        layout=layout,
        engine=engine,
        observed=scale.observed[rows],
        background=scale.background[rows],
    )
    return PostrefineModel(smaller, g.of(crystals, rows), model.partiality)
