"""All of a problem on the first process, for methods that cannot be divided.

Local parameters of all processes lie end to end there, in the order of the processes, so that
what is worked out does not depend on how many there are.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sfxproc.lsq.engine import Engine, Linearisation
from sfxproc.lsq.problem import Array, Layout


def whole_layout(engine: Engine, layout: Layout) -> Layout | None:
    """The structure of the whole job as one chunk on the first process, None elsewhere."""
    parts = (
        np.diff(layout.start), layout.shared, layout.free, layout.component,
        layout.prior_centre, layout.prior_weight,
    )  # fmt: skip
    found = [g for part in parts if (g := engine.sums.gathered(part)) is not None]
    if not found:
        return None
    rows, shared, free, component, centre, weight = found
    return replace(
        layout, start=np.concatenate([[0], np.cumsum(rows)]), shared=shared, free=free,
        component=component, prior_centre=centre, prior_weight=weight,
        chunk=np.array([0, len(rows)]),
    )  # fmt: skip


def whole(engine: Engine, lin: Linearisation, layout: Layout | None) -> Linearisation | None:
    """The normal equations of the whole job on the first process, None elsewhere.

    layout : what `whole_layout` gave on this process.
    """
    C, g, e = (engine.sums.gathered(part) for part in (lin.C, lin.g, lin.e))
    if layout is None or C is None or g is None or e is None:
        return None
    return replace(lin, layout=layout, C=C, g=g).with_e(e)


def own_part(engine: Engine, layout: Layout, found: Array | None) -> Array | None:
    """This process's rows of what the first one found for all local blocks; None if it found
    nothing."""
    before = engine.sums.place(layout.n_local)
    told: Array | None = engine.sums.told(found)
    return None if told is None else told[before : before + layout.n_local]
