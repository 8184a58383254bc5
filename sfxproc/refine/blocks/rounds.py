"""Scaling or postrefining in overlapping blocks of crystals, in rounds: strategy "blocks".

First every block is solved on its own and the solutions are averaged; from there either Newton
rounds lead to the joint solution (`lsq.rounds`), or blocks are solved and averaged again
(rounds_mode = "average", which does not get there).

Where crystals are lost on the way (`dealing`), what the whole job tells is found out anew without
them, and rounds go on from where they are: what comes of it is that of a job that never had them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Reason
from sfxproc.models.error_model import degrees_of_freedom, next_errors, refits_of
from sfxproc.models.scale_start import first_errors
from sfxproc.parallel.decide import decided
from sfxproc.parallel.records import R
from sfxproc.refine.blocks import tasks
from sfxproc.refine.blocks.combine import BlockAverages
from sfxproc.refine.blocks.dealing import Dealing, Survey, in_sets, overlaps, surveyed
from sfxproc.refine.blocks.state import Common, Surveyed
from sfxproc.refine.blocks.tasks import Gradient, Kind, Value
from sfxproc.refine.blocks.work import Work
from sfxproc.report.log import Log
from sfxproc.settings.sections import Parallel

F8 = NDArray[np.float64]
Mask = NDArray[np.bool_]
S = TypeVar("S")
T = TypeVar("T")

GROWN = 10.0  # times the lowest objective, beyond which rounds that do not converge diverge
RISE = 1e-9  # relative, of the objective: rounding, not a step too far
ROUGH = 1e-3  # relative decrease of the objective at which a block's own solution will do


@dataclass(frozen=True)
class Round:
    """How a round went. objective, chi2 : at its end. disagreement : r.m.s. of what blocks differ
    from their mean, step : r.m.s. of what the mean moved; both over σ."""

    number: int
    objective: float
    chi2: float
    scatter: float
    disagreement: float
    step: float


@dataclass(eq=False)
class Rounds:
    """A refinement in blocks, and where it stands.

    reasons, n_overlaps : (n,) why crystals keep their start scale, and their reflections that
    others show. done : the rounds so far; most : of them.
    """

    dealing: Dealing
    settings: Parallel
    log: Log
    common: Common
    reasons: NDArray[np.uint8]
    n_overlaps: NDArray[np.int64]
    set_sizes: NDArray[np.int64]
    disagreement: float
    done: tuple[Round, ...] = ()
    converged: bool = False
    most: int = 0
    known_lost: frozenset[int] = field(default_factory=frozenset)

    @property
    def work(self) -> Work:
        """What tasks work on."""
        return self.dealing.work

    @property
    def n_rows(self) -> int:
        """Observations of the crystals that take part."""
        return int(self.dealing.n_observations[~self.common.survey.absent].sum())

    @property
    def n_free(self) -> int:
        """Free parameters of crystals, the gauge taken off."""
        common = self.common
        free = int(common.refined.sum()) * self.work.modelling.n_free
        sets = len(np.unique(common.survey.of_crystal[common.refined]))
        return free - sets * (1 + self.work.settings.b_factor)

    @property
    def n_parameters(self) -> int:
        """Free ones of crystals, the gauge taken off, and intensities."""
        return self.n_free + int(np.count_nonzero(self.common.D))

    @property
    def dof(self) -> float:
        """Of the whole job."""
        return degrees_of_freedom(self.n_rows, self.n_parameters)

    @property
    def lost_unknown(self) -> bool:
        """Whether segments were lost that are not yet taken into account."""
        return self.dealing.lost != self.known_lost

    def run(self, kind: Kind[S, R], state: S) -> R:
        """What the tasks of a kind find together."""
        return self.counted(kind, state)[0]

    def counted(self, kind: Kind[S, R], state: S) -> tuple[R, int]:
        """The same, and how many did."""
        self._tell_standing()
        return self.dealing.counted(kind, state)

    def _tell_standing(self) -> None:
        """Have `status` tell how far it is."""
        self.dealing.standing = {
            "round": len(self.done) + 1,
            "rounds": max(self.most, self.settings.rounds),
            "objective": self.done[-1].objective if self.done else None,
        }

    def copy(self) -> Rounds:
        """Another refinement that goes on from here by itself."""
        return replace(self)

    def without(self, crystals: Mask, refit: bool) -> None:
        """Leave crystals (n,) out from here on. refit : whether the error model is found anew."""
        refits = refits_of(self.work.settings.variances) if refit else 0
        errors = replace(self.common.errors, refits=refits)
        self.common = replace(self.common.without(crystals), errors=errors)
        self.converged = False

    def go_on(self) -> None:
        """All further rounds."""
        self.most = len(self.done) + self.settings.rounds
        if self.lost_unknown:
            self.take_losses()
        if self.settings.rounds_mode == "average":
            self._average_rounds()
        else:
            self._newton_rounds()

    def take_losses(self) -> None:
        """Have what is known be that of a job without the segments that were set aside."""
        while self.lost_unknown:
            self.known_lost = self.dealing.lost
            survey = surveyed(self.dealing)
            self.reasons, self.n_overlaps = overlaps(self.dealing, survey.state)
            self.set_sizes = survey.set_sizes
        absent = self.common.survey.absent | survey.state.absent
        common = replace(
            self.common,
            survey=replace(survey.state, absent=absent),
            errors=first_errors(survey.state.facts, self.work.settings),
            refined=(self.reasons == Reason.NONE) & ~absent,
        )
        self.common = self.work.modelling.held(common)
        self.converged = False
        self.most = max(self.most, len(self.done) + self.settings.rounds)

    def shift(self, shift: F8) -> None:
        """Change ln G and B of each connected set by shift (n_sets, 2), the intensities with it."""
        self.common = self.common.shifted(shift, self.work.s2)

    # ---- averages ------------------------------------------------------------------------------

    def _average_rounds(self) -> None:
        """The blocks solved and averaged again and again, from the average and with its error
        model, until it stays where it is."""
        found = self._value()
        self._tell_round(found, self.disagreement, np.nan)
        while len(self.done) < self.most and not self.converged:
            same = self._next_errors(found)
            before = self.common.shared
            self._tell_standing()
            averages = average(self.dealing, self.common, self.settings)
            self.disagreement = averages.disagreement
            self.common = replace(
                self.common,
                local=averages.local,
                shared=averages.shared,
                D=averages.D,
                pulled=averages.pulled,
            )
            self.centre()
            if self.lost_unknown:
                self.take_losses()
            elif not same:
                self.common = self.work.modelling.held(self.common)
            found = self._value()
            moved = self._decided(rms((self.common.shared - before) * np.sqrt(found.D)))
            self._tell_round(found, self.disagreement, moved)
            self.converged = averages.converged and self._at_rest(moved)
        self._next_errors(found)

    def _value(self) -> Value:
        """The objective at the common point, of crystals none of which is lost."""
        while True:
            found = self.run(tasks.VALUE, self.common)
            if not self.lost_unknown:
                return found
            self.take_losses()

    # ---- Newton --------------------------------------------------------------------------------

    def _newton_rounds(self) -> None:
        """Newton steps of the joint problem; one that raises the objective is halved."""
        found = self._gradient()
        self._tell_round(found, self.disagreement, np.nan)
        refused = False
        while len(self.done) < self.most and not self.converged:
            comparable = self._take(found)
            before, (mean, self.disagreement, solved) = self.common, self._mean_step()
            part, refused = 1.0, True
            while refused and len(self.done) < self.most:
                self.common = replace(before, shared=before.shared + part * mean)
                self.centre()
                trial = self._gradient()
                if self.common.survey is not before.survey:  # crystals were lost
                    comparable = False
                    before = replace(self.common, local=before.local, shared=before.shared)
                refused = self._decided(worse(found, trial, comparable))
                moved = self._decided(part * rms(mean * np.sqrt(found.D)))
                self._tell_round(trial, self.disagreement, moved, refused)
                part *= 0.5
            if refused:
                self.common = before
            else:
                found = trial
                refitted = found.solved == len(self.dealing.numbers("segments"))
                self.converged = solved and refitted and self._at_rest(moved)
        if not refused:
            self._take(found)

    def _gradient(self) -> Gradient:
        """What crystals find at the common point, none of which is lost."""
        while True:
            found = self.run(tasks.GRADIENT, self.common)
            if not self.lost_unknown:
                return found
            self.take_losses()

    def _take(self, found: Gradient) -> bool:
        """Make what the crystals found at the common point part of the state; tells whether the
        error model stays as it is."""
        same = self._next_errors(found)
        self.common = replace(self.common, local=found.local, D=found.D, q=found.q)
        if not same:
            self.common = self.work.modelling.held(self.common)
        return same

    def _next_errors(self, found: Value) -> bool:
        """Have the error model that fits the common point better, if it is not at rest; tells
        whether it stays as it is."""
        errors = self._decided(next_errors(self.common.errors, found.errors, self.dof))
        same = errors == self.common.errors
        self.common = replace(self.common, errors=errors)
        return same

    def _mean_step(self) -> tuple[F8, float, bool]:
        """The step of the intensities, the r.m.s. of what blocks differ from it, over σ, and
        whether all blocks solved for theirs."""
        found, n = self.counted(tasks.STEP, self.common)
        mean = found.step / n
        variance = np.maximum(found.square / n - mean**2, 0.0)
        return mean, rms(np.sqrt(variance * self.common.D)), found.solved == n

    # ---- both ----------------------------------------------------------------------------------

    def _at_rest(self, moved: float) -> bool:
        """Whether a step, r.m.s. over σ, was small and the error model stays as it is."""
        return self.common.errors.refits == 0 and moved <= self.settings.round_tolerance_sigma

    def centre(self) -> None:
        """Bring the mean ln G and B of the refined crystals of each set to zero."""
        self.shift(self._decided(self.common.to_zero_mean(self.common.refined)))

    def _decided(self, value: T) -> T:
        """Rank 0's value: what all go by must not depend on the last bit of a processor."""
        return decided(self.dealing.stages.comm, lambda: value)

    def _tell_round(
        self, found: Value, disagreement: float, step: float, refused: bool = False
    ) -> None:
        done = Round(
            len(self.done) + 1,
            found.objective,
            found.chi2,
            self.common.errors.scatter,
            disagreement,
            step,
        )
        self.done = (*self.done, done)
        moved = "" if np.isnan(step) else f", step {step:.2g} σ r.m.s."
        self.log(
            f"round {done.number}: objective {done.objective:.8g}, blocks differ by "
            f"{disagreement:.2g} σ r.m.s.{moved}{' (refused)' if refused else ''}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and text, for statistics.json."""
        last = self.done[-1]
        moved = f"the last round moved the intensities by {last.step:.1g} σ r.m.s."
        lowest = min(r.objective for r in self.done)
        if not self.converged and not last.objective <= GROWN * lowest:
            how = (
                f"Diverged: the rounds raised the objective from {lowest:.6g} to "
                f"{last.objective:.6g}. Blocks tell too little: raise parallel.block_size, or use "
                'parallel.strategy = "global".'
            )
        elif not self.converged:
            how = f"Stopped after {len(self.done)} rounds; raise parallel.rounds to go on."
        elif self.settings.rounds_mode == "average":
            how = f"Averages at rest, which are not the joint solution: {moved}"
        else:
            how = f"Converged: {moved}"
        return {
            "method": f"blocks, {self.settings.rounds_mode}",
            "termination": how,
            "converged": self.converged,
            "objective": last.objective,
            "chi2": last.chi2,
            "dof": int(self.dof),
            "chi2_per_dof": last.chi2 / self.dof,
            "n_residuals": self.n_rows,
            "n_parameters": self.n_parameters,
            "n_blocks": self.work.count("blocks"),
            "rounds": [asdict(r) for r in self.done],
        }


def worse(before: Value, after: Value, comparable: bool) -> bool:
    """Whether a step raised the objective. comparable : whether it is that of the same crystals and
    error model; otherwise only what is no number is worse."""
    was, became = before.objective, after.objective
    return not np.isfinite(became) or (comparable and became > was + RISE * abs(was))


def average(dealing: Dealing, state: Surveyed | Common, settings: Parallel) -> BlockAverages:
    """The blocks solved on their own and averaged; roughly where Newton rounds follow."""
    averages_only = settings.rounds_mode == "average"
    tolerance = dealing.work.tolerance
    if not averages_only:
        tolerance = max(ROUGH, tolerance)
    return dealing.averages(state, tolerance, needed=averages_only)


def first_round(dealing: Dealing, settings: Parallel, log: Log, survey: Survey) -> Rounds:
    """Every block solved on its own and averaged."""
    state, work = survey.state, dealing.work
    known_lost = dealing.lost
    found = average(dealing, state, settings)
    reasons, n_overlaps = in_sets(found.reasons, state), found.n_overlaps
    if not found.solved[~state.absent].all():  # a block failed that would have told
        reasons, n_overlaps = overlaps(dealing, state)
    errors = replace(first_errors(state.facts, work.settings), scatter=found.scatter)
    common = Common(
        state,
        errors,
        found.local,
        found.shared,
        (reasons == Reason.NONE) & ~state.absent,
        found.pulled,
        found.D,
    )
    rounds = Rounds(
        dealing,
        settings,
        log,
        common,
        reasons,
        n_overlaps,
        survey.set_sizes,
        found.disagreement,
        known_lost=known_lost,
    )
    rounds.centre()
    rounds.common = work.modelling.held(rounds.common)
    if rounds.lost_unknown:
        rounds.take_losses()
    return rounds


def rms(values: F8) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(values**2)))
