"""The global strategy: all ranks hold their crystals in memory and step together on one problem."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Status
from sfxproc.formats.mtz_scaled import ScaledObservations
from sfxproc.intake.reading import Dataset
from sfxproc.lsq import Engine, Result
from sfxproc.models.agreement import Agreement, agreement_of
from sfxproc.models.error_model import ErrorModel, refits_of
from sfxproc.models.postrefine import PostrefineModel
from sfxproc.models.scale import B, ScaleModel
from sfxproc.models.scale_merge import merge_sums, weighted_sums
from sfxproc.models.scale_start import ScaleProblem
from sfxproc.refine.choices import loss_of
from sfxproc.refine.covariance import covariance_of
from sfxproc.refine.merging_job import CrystalModel, MergingJob
from sfxproc.refine.postrefine_setup import moved_columns
from sfxproc.refine.refined import F8, I1, I4, Fates, Mask, Sums, Uncertain
from sfxproc.refine.solve import solve
from sfxproc.results.exports import gathered_observations


@dataclass(frozen=True, eq=False)
class Together:
    """A solved problem of all crystals (`Refined`). data : as it was set up."""

    job: MergingJob
    data: Dataset
    fates: Fates
    engine: Engine
    result: Result[CrystalModel]

    @property
    def model(self) -> CrystalModel:
        """What was solved."""
        return self.result.model

    @property
    def scale(self) -> ScaleModel:
        """The scaling model in it, its partialities those of any point."""
        return self.model.scale if isinstance(self.model, PostrefineModel) else self.model

    @property
    def scale_here(self) -> ScaleModel:
        """The scaling model with the partialities of the point."""
        return self.model.at(self.result.point)

    @property
    def own(self) -> slice:
        """This rank's crystals among those of the job."""
        return self.data.chunks.crystals

    @property
    def errors(self) -> ErrorModel:
        """The error model."""
        return self.model.errors

    @property
    def in_use(self) -> Mask:
        """(n_crystals,) whose parameters are refined."""
        return np.asarray(self.data.status == Status.USED)

    @property
    def shared(self) -> F8:
        """(n_reflections,) the intensities."""
        return self.result.point.shared

    @property
    def set_of_reflection(self) -> I4:
        """(n_reflections,) the set each is in."""
        return self.scale.set_of_reflection

    @property
    def n_sets(self) -> int:
        """How many sets there are."""
        return self.model.layout.n_components

    def agreement(self, half: I1) -> Agreement | None:
        """How all crystals agree with the merge of the others, on rank 0."""
        own = agreement_of(
            self.scale_here, self.result.point, loss_of(self.job.config), half[self.own]
        )
        names = [f.name for f in fields(Agreement) if f.name != "n_crystals"]
        rows = self._gathered(np.stack([getattr(own, name) for name in names], axis=1))
        if rows is None:
            return None
        columns = dict(zip(names, np.ascontiguousarray(rows.T), strict=True))
        return Agreement(**columns, n_crystals=own.n_crystals)

    def without(self, crystals: Mask, refit: bool = True) -> Self:
        """The same without some crystals."""
        refits = refits_of(self.job.config.scaling.error_model) if refit else 0
        model = self.model.without(crystals[self.own])
        model = model.with_errors(replace(model.errors, refits=refits))
        return replace(self, result=replace(self.result, model=model))

    def continued(self, name: str) -> Self:
        """Solved from where it is."""
        job = self.job
        result = solve(self.engine, self.model, self.result.point, job.config, job.run, name)
        iterations = (*self.result.iterations, *result.iterations)
        return replace(self, result=replace(result, iterations=iterations))

    def to_zero_mean(self) -> F8:
        """(n_sets, 2) what brings mean ln G and B of the crystals of each set to zero."""
        return self.scale.to_zero_mean(self.result.point)

    def towards(self, other: Self, crystals: Mask) -> F8:
        """(n_sets, 2) what brings the mean ln G and B of some crystals of each set to those of
        another refinement."""
        inside = crystals[self.own, None]
        off = (other.result.point.local - self.result.point.local)[:, : B + 1]
        layout = self.model.layout
        count = self.engine.component_sums(layout, inside.astype(np.float64))
        total = self.engine.component_sums(layout, np.where(inside, off, 0.0))
        return np.asarray(total / np.maximum(count, 1.0))

    def shifted(self, shift: F8) -> Self:
        """With ln G and B of each set changed by shift (n_sets, 2), the intensities to match."""
        point = self.scale.gauged(self.result.point, *shift.T)
        return replace(self, result=replace(self.result, point=point))

    def weighted_sums(self, half: I1) -> F8:
        """(6, n_reflections) of models.scale_merge."""
        loss = loss_of(self.job.config)
        return weighted_sums(self.scale_here, self.result.point, loss, half[self.own])

    def sums(self, halves: I1) -> Sums | None:
        """What merging needs, on rank 0."""
        uncertain = self._uncertain()
        scale, point, loss = self.scale_here, self.result.point, loss_of(self.job.config)
        each = [merge_sums(scale, point, loss, half[self.own]) for half in halves]
        crystal_cc = self._gathered(each[0][1])
        pulls = scale.pulls_in_bins(point)
        if crystal_cc is None or uncertain is None:
            return None
        return Sums(tuple(sums for sums, _ in each), crystal_cc, uncertain, *pulls)

    def _uncertain(self) -> Uncertain | None:
        model, point = self.model, self.result.point
        covariance = covariance_of(self.engine, model, point, self.job.config, self.job.log)
        local = self._gathered(point.local)
        sigma = self._gathered(np.sqrt(np.einsum("mii->mi", covariance.local)))
        columns = {}
        if isinstance(model, PostrefineModel):
            moved = moved_columns(model.geometry, point)
            columns = {name: self._gathered(rows) for name, rows in moved.items()}
        if local is None or sigma is None:
            return None
        told = {name: rows for name, rows in columns.items() if rows is not None}
        return Uncertain(
            model.layout.parameters,
            local,
            sigma,
            told,
            covariance.from_local,
            covariance.relative_error,
        )

    def scaled_observations(self, half: I1) -> ScaledObservations | None:
        """All scaled observations in the order of the job's crystals, on rank 0."""
        left = np.diff(self.model.layout.start) > 0  # others were left out while refining
        observations = self.data.observations
        observations = observations.take(left[observations.crystal])
        status = np.where(half < 0, np.uint8(Status.LEFT_OUT), self.data.status)
        data = replace(self.data, observations=observations, status=status)
        return gathered_observations(
            data, self.scale_here, self.result.point, loss_of(self.job.config)
        )

    def summary(self) -> Mapping[str, Any]:
        """Plain numbers and text on how it was solved, for statistics.json."""
        return {"method": self.job.config.solver.method, **self.result.as_dict()}

    def _gathered(self, rows: NDArray[Any]) -> NDArray[Any] | None:
        """Rows of all ranks' crystals on rank 0."""
        return self.engine.sums.gathered(np.ascontiguousarray(rows))


def fates_of(job: MergingJob, problem: ScaleProblem) -> Fates:
    """What became of all crystals when the problem was set up."""
    reasons, n_overlaps = (
        job.comm.allgather_rows(rows) for rows in (problem.reasons, problem.n_overlaps)
    )
    return Fates(reasons, n_overlaps, np.zeros(len(reasons), dtype=bool), problem.set_sizes)
