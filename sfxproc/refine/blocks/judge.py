"""Crystals that disagree with all others, left out between rounds of strategy "blocks"."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Reason
from sfxproc.models.agreement import Agreement, judged
from sfxproc.parallel.combine import Found
from sfxproc.refine.blocks.rounds import BlockScaling
from sfxproc.refine.blocks.tasks import AGREEMENT
from sfxproc.refine.judge import NAMES, TOLD, criteria_of, tell_left_out
from sfxproc.settings.sections import Rejection

I1 = NDArray[np.int8]
U1 = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Judged:
    """What came of the crystals, in the order of the blocks.

    reason : (n,) of those left out. half : (n,) half sets, −1 for those left out. columns : of
    frames.h5; of a crystal that was left out as it was then.
    """

    reason: U1
    half: I1
    columns: Found


def refined_without_bad(blocks: BlockScaling, wanted: Rejection, half: I1) -> Judged:
    """Rounds go on without crystals that disagree, until none does. half : (n_crystals,)."""
    reason = np.full(blocks.n_crystals, Reason.NONE, dtype=np.uint8)
    now = compared(blocks, half)
    then = {name: now[name] for name in TOLD}
    for _ in range(wanted.passes if wanted.reject else 0):
        columns = {name: now[name] for name in AGREEMENT}
        found = judged(Agreement(**columns, n_crystals=blocks.n_crystals), criteria_of(wanted))
        used = blocks.state["refined"] & ~blocks.lost_crystals()
        bad = used & (found != Reason.NONE)
        if not bad.any():
            break
        reason, half = np.where(bad, found, reason), np.where(bad, np.int8(-1), half)
        tell_left_out(found[bad], blocks.log)
        blocks.without(bad, int(now["n_rows"][bad].sum()))
        blocks.go_on()
        now = compared(blocks, half)
        gone = reason != Reason.NONE
        then = {name: np.where(gone, then[name], now[name]) for name in TOLD}
    return Judged(reason, half, {NAMES.get(name, name): then[name] for name in TOLD})


def compared(blocks: BlockScaling, half: I1) -> Found:
    """How each crystal agrees with the merge of those in use."""
    blocks.state = blocks.state.with_arrays(half=half)
    blocks.state = blocks.state.with_arrays(moments=blocks.stage("moments")["sums"])
    return blocks.stage("agreement")
