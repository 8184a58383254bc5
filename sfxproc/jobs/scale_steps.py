"""The steps of the scaling job, in the order in which `scale.run` takes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from sfxproc import signals
from sfxproc.data import Reason, ReferenceSet, Status
from sfxproc.errors import ConfigError, DataError, OutputError
from sfxproc.formats.inputs import list_inputs
from sfxproc.jobs.checkpoints import JobCheckpoint, arrays_of, state_of, stop_wanted, stopped
from sfxproc.jobs.estimate import estimate, needs_table
from sfxproc.jobs.outputs import refusal
from sfxproc.jobs.reading import Dataset
from sfxproc.jobs.reindexing import ambiguity_reference, reference_in_group
from sfxproc.jobs.scale_config import ScaleConfig
from sfxproc.jobs.scale_reference import reference_scales
from sfxproc.jobs.selection import Inventory
from sfxproc.jobs.settings import Merging, Start
from sfxproc.jobs.status import write_progress
from sfxproc.lsq import SOLVERS, Engine, Iteration, LevenbergMarquardt, Loss, Model, Point, Result
from sfxproc.lsq.covariance import Covariance, exact
from sfxproc.lsq.lm import State
from sfxproc.lsq.sampled import sampled
from sfxproc.merging.halves import half_of
from sfxproc.models.error_model import ErrorModel
from sfxproc.models.postrefine import PostrefineModel
from sfxproc.models.scale import ScaleModel
from sfxproc.models.scale_start import ScaleSettings
from sfxproc.report.log import Log
from sfxproc.report.terminal import counts_table
from sfxproc.symmetry import require_cell, space_group

F8 = NDArray[np.float64]
InventoryT = TypeVar("InventoryT", bound=Inventory)

EXACT_PARAMETERS = 2000  # of crystals; beyond this covariances are sampled
STRATA = 20  # shells of equal numbers of reflections, for calibrating sampled variances

CrystalModel = ScaleModel | PostrefineModel


class WithErrors(Model, Protocol):
    """A model whose error model can be exchanged."""

    @property
    def errors(self) -> ErrorModel:
        """The error model."""

    def with_errors(self, errors: ErrorModel) -> Self:
        """The model with another one."""


CrystalModelT = TypeVar("CrystalModelT", bound=WithErrors)

SOLVE = "lm"  # key of the solver's state in the checkpoint

TOLD_ALL, TOLD_EVERY = 10, 10
"""Of the solver's iterations the first TOLD_ALL are told, then each TOLD_EVERYth."""


def require_sense(config: ScaleConfig) -> None:
    """Raise ConfigError for settings that are valid one by one but not together."""
    if config.solver.method not in SOLVERS:
        names = ", ".join(f'"{m}"' for m in SOLVERS)
        raise ConfigError(
            f'solver.method = "{config.solver.method}" is not a solver; choose one of {names}.'
        )
    low, high = config.selection.d_max_A, config.selection.d_min_A
    if low is not None and high is not None and low <= high:
        raise ConfigError(
            f"selection.d_max_A = {low:g} is not larger than selection.d_min_A = {high:g}: no "
            "reflection would be left. d_max_A is the low-resolution limit, the larger number."
        )
    if config.simulate is not None and config.input.paths:
        raise ConfigError(
            "Both input.paths and a [simulate] table are given, so it is not clear what to read. "
            "Remove the [simulate] table to process the files, or input.paths to simulate."
        )
    if config.simulate is None and not config.input.paths:
        raise ConfigError(
            "input.paths is empty: name the files to read, for example "
            "`--set input.paths=run1/*.stream`, or add a [simulate] table."
        )
    if config.symmetry.ambiguity == "ignore" and config.symmetry.ambiguity_reference is not None:
        raise ConfigError(
            'symmetry.ambiguity_reference has no effect with symmetry.ambiguity = "ignore". Leave '
            "one of them out."
        )
    if config.selection.min_partiality > 0 and config.scaling.partiality == "ignore":
        raise ConfigError(
            f"selection.min_partiality = {config.selection.min_partiality:g} has no effect with "
            'scaling.partiality = "ignore". Set scaling.partiality = "recorded", or leave '
            "selection.min_partiality out."
        )
    parallel = config.parallel
    if parallel.strategy == "blocks":
        for section, default in (("merging", Merging()), ("start", Start())):
            if getattr(config, section) != default:
                raise ConfigError(
                    f'[{section}] asks for what parallel.strategy = "blocks" does not do. Use '
                    'parallel.strategy = "global", which runs on many ranks too, or leave it out.'
                )
        if config.output.unmerged:
            raise ConfigError(
                'output.unmerged needs parallel.strategy = "global": in blocks observations stay '
                "where they are. Change one of them."
            )
    if parallel.strategy == "blocks" and parallel.overlap >= parallel.block_size:
        raise ConfigError(
            f"parallel.overlap = {parallel.overlap} must be smaller than parallel.block_size = "
            f"{parallel.block_size}: each block would hold nothing new. Half the block is usual."
        )
    group = space_group(config.symmetry.space_group)
    if config.symmetry.unit_cell is not None:
        require_cell(group, config.symmetry.unit_cell)


def check(config: ScaleConfig, log: Log) -> str:
    """Validate without reading data: settings, input files, reference, output folder; and tell what
    the job will need."""
    require_sense(config)
    folder = Path(config.output.folder)
    if problem := refusal(config.output):
        raise OutputError(problem)
    if config.reference.path is not None:
        reference_of(config)
    ambiguity_reference(config.symmetry, None)
    if config.simulate is None:
        files = list_inputs(config.input.paths, config.input.exclude, Path.cwd())
        log.show(counts_table("Inputs", {f.label: f.format.name for f in files}))
    log.show(needs_table(estimate(config), max(config.parallel.threads, 1)))
    if config.simulate is not None:
        return f"The job is valid: {config.simulate.n_crystals} stills would be simulated."
    return f"The job is valid: {len(files)} input files, results would go to '{folder}'."


def reference_of(config: ScaleConfig) -> ReferenceSet | None:
    """The reference set, if one is given, in the job's own asymmetric unit.

    Raises InputError if it cannot be read, ConfigError if its Laue group is another.
    """
    if config.reference.path is None:
        return None
    group = space_group(config.symmetry.space_group)
    d_min_A = config.selection.d_min_A
    return reference_in_group(config.reference.path, "reference.path", group, d_min_A)


def columns_wanted(config: ScaleConfig) -> frozenset[str]:
    """Optional columns of the observations that this job uses."""
    return frozenset({"partiality"} if config.scaling.partiality == "recorded" else ())


def scale_settings(config: ScaleConfig) -> ScaleSettings:
    """The model's choices."""
    scaling = config.scaling
    return ScaleSettings(
        b_factor=scaling.b_factor,
        b_prior_A2=scaling.b_prior_A2,
        gain=scaling.gain,
        variances=scaling.error_model,
        outliers=scaling.loss != "none",
        min_overlaps=scaling.min_overlaps,
    )


def loss_of(config: ScaleConfig) -> Loss:
    """The robust loss."""
    return Loss(config.scaling.loss, config.scaling.loss_scale)


def with_fixed(
    data: InventoryT,
    own: NDArray[np.uint8],
    n_overlaps: NDArray[np.int64],
    set_sizes: NDArray[np.int64],
    log: Log,
) -> InventoryT:
    """The data with the crystals marked that keep their start values.

    own : (n_crystals,) why each does, if it does. set_sizes : crystals in each connected set.
    Raises DataError if no crystal shares enough reflections with others to be scaled.
    """
    status, reason = data.status.copy(), data.reason.copy()
    fixed = (status == Status.USED) & (own != Reason.NONE)
    status[fixed], reason[fixed] = Status.FIXED, own[fixed]
    if not np.any(status == Status.USED):
        raise DataError(
            f"No crystal has enough reflections in common with the others to be scaled (the best "
            f"has {int(n_overlaps.max(initial=0))}; scaling.min_overlaps asks for more). The data "
            "are too few, or symmetry.space_group is of too low symmetry."
        )
    if fixed.any():
        log(
            f"{int(fixed.sum()):,} crystals keep their start scale: too few reflections in common "
            "with others, or no signal."
        )
    sets = [int(n) for n in set_sizes if n > 1]
    if len(sets) > 1:
        log(
            f"WARNING: the crystals fall into {len(sets)} sets without any reflection in common "
            f"(of {', '.join(str(n) for n in sets[:5])} crystals{' …' if len(sets) > 5 else ''}). "
            "Each has a scale of its own, and their merged intensities cannot be compared; give a "
            "reference.path to join them."
        )
    return replace(data, status=status, reason=reason)


def solve(
    engine: Engine,
    model: CrystalModelT,
    start: Point,
    config: ScaleConfig,
    checkpoint: JobCheckpoint,
    log: Log,
    key: str = SOLVE,
) -> Result[CrystalModelT]:
    """Refine all crystals and intensities together, from where a checkpoint has them if it does.

    key : of the solve, in the checkpoint. Raises Stopped if a signal asked for it; only
    Levenberg–Marquardt keeps its state before.
    """
    solver = SOLVERS[config.solver.method](
        loss=loss_of(config),
        max_iterations=config.solver.max_iterations,
        tolerance=config.solver.tolerance,
    )

    tell = teller(checkpoint, log)
    if isinstance(solver, LevenbergMarquardt):
        state = kept_state(engine, model, checkpoint, log, key)

        def keep(state: State[CrystalModelT]) -> None:
            if checkpoint.asked():
                keep_state(engine, state, checkpoint, key)
                if stop_wanted(checkpoint.comm):
                    raise stopped(
                        checkpoint.comm,
                        checkpoint.folder,
                        f"after iteration {len(state.iterations)}",
                    )

        with signals.deferred():
            result = solver.solve(engine, model, start, tell, state=state, keep=keep)
    else:
        result = solver.solve(engine, model, start, tell)
    log(f"{len(result.iterations)} iterations. {result.termination}")
    return result


def teller(checkpoint: JobCheckpoint, log: Log) -> Callable[[Iteration], None]:
    """What tells of iterations: in the log, of many only some, and in the folder for `status`."""
    comm = checkpoint.comm

    def tell(i: Iteration) -> None:
        if comm.rank == 0:
            write_progress(
                checkpoint.folder, "solve", 0, 0, comm.size,
                iteration=i.number, objective=i.objective,
            )  # fmt: skip
        if i.number <= TOLD_ALL or i.number % TOLD_EVERY == 0:
            refused = "" if i.accepted else ", step refused"
            log(f"iteration {i.number:3d}: objective {i.objective:.6g}{refused}")

    return tell


def keep_state(
    engine: Engine, state: State[WithErrors], checkpoint: JobCheckpoint, key: str
) -> None:
    """Keep where the solve stands, its error model too. On all ranks."""
    arrays = arrays_of(state, engine)
    if arrays is not None:
        arrays["errors"] = np.array(astuple(state.model.errors), dtype=np.float64)
    checkpoint.save(key, arrays)


def kept_state(
    engine: Engine,
    model: CrystalModelT,
    checkpoint: JobCheckpoint,
    log: Log,
    key: str,
) -> State[CrystalModelT] | None:
    """Where an earlier run of the job kept that its solve stood; None if it did not."""
    arrays = checkpoint.load(key, log)
    if arrays is None:
        return None
    gain, scatter, refits, outliers, background, likelihood, counted = arrays["errors"].tolist()
    errors = ErrorModel(
        gain, scatter, int(refits), bool(outliers), background, bool(likelihood), counted
    )
    state = state_of(arrays, model.with_errors(errors), engine)
    log(f"resumed after iteration {len(state.iterations)}")
    return state


@dataclass(frozen=True, eq=False)
class Solution:
    """Crystals and intensities in their final gauge, with what their uncertainties are.

    model : the scaling model of the point, with its partialities. covariance.from_local :
    (n_reflections,) what uncertain crystals add to the variance of an intensity.
    """

    point: Point
    model: ScaleModel
    covariance: Covariance

    @property
    def local_sigma(self) -> F8:
        """(n_own, p) of the local parameters."""
        return np.asarray(np.sqrt(np.einsum("mii->mi", self.covariance.local)))


def in_gauge(
    engine: Engine, result: Result[CrystalModel], data: Dataset,
    reference: ReferenceSet | None, config: ScaleConfig,
) -> Solution:  # fmt: skip
    """The solution with mean ln G = 0 and mean B = 0, or on the scale of the reference."""
    model = result.model.at(result.point)
    point = model.centred(result.point)
    if reference is not None:
        scales = reference_scales(
            point.shared, model.set_of_reflection, model.layout.n_components, data, reference
        )
        ln_k, b = scales.T
        point = model.gauged(point, ln_k, b)
    covariance = covariance_of(engine, result.model, point, model.s2, config)
    return Solution(point, result.model.at(point), covariance)


def covariance_of(
    engine: Engine,
    model: CrystalModel,
    point: Point,
    s2: F8,
    config: ScaleConfig,
) -> Covariance:
    """Covariances of the crystals' parameters and what they add to those of the intensities."""
    loss = loss_of(config)
    ones = np.ones((model.layout.n_local, 1))
    n_local = float(engine.dots(model.layout, ones, ones)[0]) * len(model.layout.parameters)
    kind = config.scaling.covariance
    if kind == "exact" or (kind == "auto" and n_local <= EXACT_PARAMETERS):
        # what reflections seen once take off must cancel to the last digit
        double = Engine(engine.sums, engine.threads, np.float64)
        return exact(double, double.linearise(model, point, loss))
    lin = engine.linearise(model, point, loss)
    order = np.argsort(np.argsort(s2, kind="stable"), kind="stable")
    strata = (order * STRATA // max(len(order), 1)).astype(np.int32)
    return sampled(engine, model, point, lin, loss, strata, seed=config.seed)


def own_halves(data: Dataset) -> NDArray[np.int8]:
    """Half set of each of this rank's crystals; −1 for those left out."""
    half = half_of(data.own_crystals.identity)
    half[data.status[data.chunks.crystals] == Status.LEFT_OUT] = -1
    return half
