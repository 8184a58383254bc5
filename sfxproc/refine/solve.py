"""Refining a model, with its state kept in the checkpoint of the job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from sfxproc import signals
from sfxproc.lsq import SOLVERS, Engine, Iteration, LevenbergMarquardt, Model, Point, Result
from sfxproc.lsq.lm import State
from sfxproc.lsq.problem import NONE, AnyModel, ModelT
from sfxproc.lsq.result import iterations_of, table_of
from sfxproc.models.error_model import ErrorModel
from sfxproc.refine.choices import loss_of
from sfxproc.runs.run import Arrays, Run
from sfxproc.settings.scale import ScaleConfig


def arrays_of(state: State[AnyModel], engine: Engine) -> dict[str, NDArray[Any]] | None:
    """A state but for its model as arrays, on the first rank; None elsewhere. Called on all.

    Local parameters of all ranks lie end to end, so that it fits any number of ranks.
    """
    local = engine.sums.gathered(state.point.local)
    if local is None:
        return None
    return {
        "local": local,
        "shared": state.point.shared,
        "border": state.point.border,
        "damping": np.array([state.damping, state.growth]),
        "known": np.array([] if state.known is None else [state.known]),
        "iterations": table_of(state.iterations),
        "seconds": np.array([state.seconds]),
    }


def state_of(arrays: Arrays, model: ModelT, engine: Engine) -> State[ModelT]:
    """The state of this rank's share that `arrays_of` made these of. model : as adapted then."""
    n_local = model.layout.n_local
    before = engine.sums.place(n_local)
    damping, growth = arrays["damping"].tolist()
    known = arrays["known"].tolist()
    return State(
        Point(
            arrays["local"][before : before + n_local].copy(),
            arrays["shared"],
            arrays.get("border", NONE),
        ),
        damping,
        growth,
        model,
        known[0] if known else None,
        iterations_of(arrays["iterations"]),
        float(arrays["seconds"][0]),
    )


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


def solve(
    engine: Engine,
    model: CrystalModelT,
    start: Point,
    config: ScaleConfig,
    run: Run,
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

    tell = teller(run)
    if isinstance(solver, LevenbergMarquardt):
        state = kept_state(engine, model, run, key)

        def keep(state: State[CrystalModelT]) -> None:
            if run.asked():
                keep_state(engine, state, run, key)
                if run.stop_wanted():
                    raise run.life.stopped(f"after iteration {len(state.iterations)}")

        with signals.deferred():
            result = solver.solve(engine, model, start, tell, state=state, keep=keep)
    else:
        result = solver.solve(engine, model, start, tell)
    run.log(f"{len(result.iterations)} iterations. {result.termination}")
    return result


def teller(run: Run) -> Callable[[Iteration], None]:
    """What tells of iterations: in the log, of many only some, and in the folder for `status`."""

    def tell(i: Iteration) -> None:
        run.life.tell("solve", iteration=i.number, objective=i.objective)
        if i.number <= TOLD_ALL or i.number % TOLD_EVERY == 0:
            refused = "" if i.accepted else ", step refused"
            run.log(f"iteration {i.number:3d}: objective {i.objective:.6g}{refused}")

    return tell


ERRORS = "errors."  # before the name of a parameter of the error model


def keep_state(engine: Engine, state: State[WithErrors], run: Run, key: str) -> None:
    """Keep where the solve stands, its error model too. On all ranks."""
    arrays = arrays_of(state, engine)
    if arrays is not None:
        errors = state.model.errors
        arrays |= {f"{ERRORS}{f.name}": np.array(getattr(errors, f.name)) for f in fields(errors)}
    run.save(key, arrays)


def kept_state(
    engine: Engine, model: CrystalModelT, run: Run, key: str
) -> State[CrystalModelT] | None:
    """Where an earlier run of the job kept that its solve stood; None if it did not."""
    arrays = run.load(key)
    if arrays is None:
        return None
    errors = ErrorModel(**{f.name: arrays[f"{ERRORS}{f.name}"].item() for f in fields(ErrorModel)})
    state = state_of(arrays, model.with_errors(errors), engine)
    run.log(f"resumed after iteration {len(state.iterations)}")
    return state
