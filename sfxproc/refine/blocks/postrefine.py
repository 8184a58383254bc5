"""Postrefinement in blocks: what their crystals are modelled by."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Observations
from sfxproc.intake import pieces
from sfxproc.intake.selection import Inventory
from sfxproc.kernels.postrefine import LN_SIZE
from sfxproc.lsq import Loss, Point, Result
from sfxproc.models.error_model import refits_of
from sfxproc.models.parameters import names_of
from sfxproc.models.postrefine import Geometry, PostrefineModel, extended, postrefine_model
from sfxproc.models.postrefine_passes import CrystalModelT, Refinement, jointly
from sfxproc.models.postrefine_strayed import Typical, strayed_anew, turns_and_sizes
from sfxproc.models.scale import LN_G, ScaleModel
from sfxproc.models.scale_start import ScaleProblem
from sfxproc.partiality import PARTIALITIES, Partiality
from sfxproc.refine.blocks.run import in_blocks
from sfxproc.refine.blocks.state import Common, Surveyed
from sfxproc.refine.blocks.work import Model, Table, Work
from sfxproc.refine.merging_job import MergingJob, MergingOutcome
from sfxproc.refine.postrefine_setup import (
    Recorded,
    geometry_of,
    moved_columns,
    require_shown,
    scaled_and_refined,
)
from sfxproc.report.log import Log
from sfxproc.settings.postrefine import PostrefineConfig

F8 = NDArray[np.float64]

NO_HKL = np.empty((0, 3), dtype=np.int16)


def postrefined_in_blocks(job: MergingJob, config: PostrefineConfig) -> MergingOutcome | None:
    """Postrefine and merge in blocks; None on other ranks than 0."""

    def modelling(data: Inventory, plan: pieces.Plan) -> Postrefining:
        crystals = data.crystals.take(plan.crystal_at)
        geometry, size = geometry_of(data, crystals, NO_HKL, config.postrefine)
        nothing = Point(np.zeros((len(size), 2)), np.empty(0))
        return Postrefining(
            config.postrefine.partiality,
            geometry,
            extended(nothing, size, geometry).local,
            config.scaling.b_factor,
            config.postrefine.passes,
        )

    return in_blocks(job, modelling, oriented=True)


@dataclass(frozen=True, eq=False)
class Postrefining:
    """Scales, orientations, sizes and what else is to be refined.

    partiality : name of the model. geometry : of all crystals in the order of the blocks, without
    observations. begin : (n, p) with the sizes that crystals begin with.
    """

    partiality: str
    geometry: Geometry
    begin: F8
    b_factor: bool
    passes: int

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of a crystal's parameters."""
        return names_of(self.geometry.parameters)

    @property
    def n_free(self) -> int:
        """Parameters of a crystal that are free."""
        moved = [p for p in self.geometry.parameters if p.group != "scale"]
        return 1 + self.b_factor + sum(p.free(self.geometry.settings) for p in moved)

    @property
    def shape(self) -> Partiality:
        """The partiality model."""
        return PARTIALITIES[self.partiality]

    def geometry_at(self, table: Table, first: int, last: int) -> Geometry:
        """Of some crystals and their observations."""
        assert isinstance(table, Observations)
        part = self.geometry.of(np.arange(first, last), np.empty(0, dtype=np.int64))
        return replace(part, hkl=np.ascontiguousarray(table.hkl, dtype=np.int16))

    def recorded(self, table: Table, first: int, last: int) -> Recorded:
        """Some crystals with their observations."""
        geometry = self.geometry_at(table, first, last)
        return Recorded(geometry, np.exp(self.begin[first:last, LN_SIZE]), self.shape)

    def shown(self, table: Table, first: int, last: int) -> tuple[Table, int]:
        """Observations with the partialities that recorded orientations give."""
        assert isinstance(table, Observations)
        return self.recorded(table, first, last).shown(table)

    def require_shown(self, n: int, n_shown: int, log: Log) -> None:
        """Raise DataError if too little is shown."""
        require_shown(n, n_shown, np.exp(self.begin[:, LN_SIZE]), log)

    def solved(
        self,
        work: Work,
        state: Surveyed | Common,
        problem: ScaleProblem,
        table: Table,
        first: int,
        last: int,
    ) -> Result[PostrefineModel]:
        """Scaled with the orientations as recorded, then all together."""
        engine = problem.model.engine

        def solve(model: CrystalModelT, point: Point, key: str) -> Result[CrystalModelT]:
            return work.solver.solve(engine, model, point)

        refits = refits_of(work.settings.variances)
        if isinstance(state, Common):
            way = Refinement(engine, solve, work.loss, 0, self.passes)
            scale = replace(problem.model, errors=state.errors)
            return jointly(way, self.model(scale, table, state, first), state.point(first, last))
        way = Refinement(engine, solve, work.loss, refits, self.passes)
        return scaled_and_refined(self.recorded(table, first, last), problem, way)

    def model(self, scale: ScaleModel, table: Table, state: Common, first: int) -> PostrefineModel:
        """Held to the priors of the state."""
        last = first + scale.layout.n_local
        assert state.centre is not None
        centre = state.centre[first:last]
        geometry = self.geometry_at(table, first, last)
        start = Point(centre, state.shared)
        model = postrefine_model(scale, geometry, self.shape, start)
        layout = replace(model.layout, prior_centre=centre)
        return replace(model, scale=replace(model.scale, layout=layout))

    def second_chance(
        self, model: Model, state: Common, first: int, last: int, loss: Loss
    ) -> Point:
        """From the recorded orientation, with the median size of all."""
        assert isinstance(model, PostrefineModel)
        point = state.point(first, last)
        found = turns_and_sizes(state.local, self.begin)
        typical = Typical.of(found[state.refined])
        if typical is None:
            return point
        start = Point(self.begin[first:last], point.shared)
        return strayed_anew(model, point, start, typical, loss)[0]

    def held(self, state: Common) -> Common:
        """Scales to those of the block's scaling, cells to the mean of all; the rest to what was
        recorded."""
        local = state.local
        if state.centre is not None:
            centre = state.centre.copy()
        else:
            centre = self.begin.copy()
            centre[:, LN_G] = local[:, LN_G] - state.pulled
        recorded = self.geometry.strain
        if recorded is not None:
            cells = self.geometry.strains
            now = (local[:, cells] + recorded)[state.refined]
            centre[:, cells] = now.mean(axis=0) - recorded
        return replace(state, centre=centre)

    def columns(self, local: F8) -> dict[str, F8]:
        """What came of orientations, cells and wavelengths."""
        return moved_columns(self.geometry, Point(local, np.empty(0)))
