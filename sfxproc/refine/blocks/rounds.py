"""Scaling or postrefining in overlapping blocks of crystals, in rounds: strategy "blocks".

First every block is solved on its own and the solutions are averaged; from there either Newton
rounds lead to the joint solution (`lsq.rounds`), or blocks are solved and averaged again
(rounds_mode = "average", which does not get there).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Reason, ReflectionSums
from sfxproc.lsq import Point
from sfxproc.models.error_model import next_errors
from sfxproc.models.scale import B, shifted
from sfxproc.models.scale_average import Averaging
from sfxproc.models.scale_merge import mean_intensity
from sfxproc.models.scale_start import begun_with, facts_of, refits_of
from sfxproc.parallel.combine import Found, Totals
from sfxproc.parallel.coordinator import Arrays
from sfxproc.refine.blocks.combine import Averages, Survey
from sfxproc.refine.blocks.tasks import ROUGH, TASKS, State, Work
from sfxproc.report.log import Log
from sfxproc.runs.stages import Stages
from sfxproc.settings.sections import Parallel

F8 = NDArray[np.float64]

RISE = 1e-9  # relative, of the objective: rounding, not a step too far


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
class BlockScaling:
    """A refinement in blocks, with what has been found out so far.

    of_crystal, of_reflection : the connected set each is in. The crystals of segments that were set
    aside have reason TASK_FAILED.
    """

    work: Work
    stages: Stages
    settings: Parallel
    log: Log
    state: State = field(default_factory=State)
    rounds: list[Round] = field(default_factory=list)
    converged: bool = False
    n_free: int = 0
    n_rows: int = 0
    n_shown: int = 0
    disagreement: float = np.nan
    most_rounds: int = 0

    @property
    def n_crystals(self) -> int:
        """Crystals in the blocks."""
        return len(self.work.blocks.order)

    @property
    def s2(self) -> F8:
        """Of the reflections."""
        return np.asarray(self.work.reflections.s2)

    @property
    def n_parameters(self) -> int:
        """Free ones of crystals, the gauge taken off, and intensities."""
        return self.n_free + int(np.count_nonzero(self.state["D"]))

    @property
    def dof(self) -> float:
        """Of the whole job."""
        return max(float(self.n_rows - self.n_parameters), 1.0)

    # ---- stages --------------------------------------------------------------------------------

    def stage(self, kind: str, combiner: Any = None, work: Work | None = None) -> Found:
        """Run a stage of tasks over blocks or segments; segments that failed before are left out,
        those that fail now from then on."""
        task, what, state = TASKS[kind], work or self.work, self.state
        numbers = np.arange(what.count(task.over))
        if task.over == "segments" and "lost" in state.arrays:
            numbers = np.setdiff1d(numbers, state["lost"])

        def place(i: int) -> tuple[int, int]:
            return what.positions(task.over, int(numbers[i]))

        def do(i: int) -> Arrays:
            return task.work(what, state, *place(i))

        found = self.stages.run(
            kind, do, len(numbers), combiner or Totals(self.n_crystals, task.rows, place),
            round=len(self.rounds) + 1, rounds=max(self.most_rounds, self.settings.rounds),
            objective=self.rounds[-1].objective if self.rounds else None,
        )  # fmt: skip
        if task.over == "segments" and len(found["failed"]):
            lost = np.append(self.state.arrays.get("lost", []), numbers[found["failed"]])
            self.state = self.state.with_arrays(lost=lost.astype(np.int64))
        return found

    def lost_crystals(self) -> NDArray[np.bool_]:
        """(n_crystals,) which are in segments that were set aside."""
        out = np.zeros(self.n_crystals, dtype=bool)
        for number in self.state.arrays.get("lost", []):
            out[slice(*self.work.positions("segments", int(number)))] = True
        return out

    # ---- from nothing to merged sums -------------------------------------------------------------

    def survey(self) -> NDArray[np.int64]:
        """Find the facts and the connected sets; returns how many crystals each set has."""

        def place(i: int) -> tuple[int, int]:
            return self.work.positions("segments", i)

        totals = Totals(self.n_crystals, TASKS["survey"].rows, place)
        parent = np.arange(len(self.s2), dtype=np.int32)
        found = self.stage("survey", Survey(totals, parent))
        facts = facts_of(found["gain"], found["sums"], self.s2, self.work.settings)
        self.n_rows, self.n_shown = (int(n) for n in found["n_rows"])
        shown = np.where(self.lost_crystals(), -1, found["first_shown"])
        roots, of_reflection = np.unique(found["parent"], return_inverse=True)
        root = np.where(shown >= 0, of_reflection[shown], -1)
        sizes = np.bincount(root[root >= 0], minlength=len(roots))
        order = np.argsort(-sizes, kind="stable")
        number = np.argsort(order, kind="stable")
        errors = begun_with(facts, self.work.settings)
        self.state = replace(self.state, errors=errors).with_arrays(
            expected=facts.expected,
            seen=facts.seen,
            of_reflection=number[of_reflection].astype(np.int32),
            of_crystal=np.where(root >= 0, number[root], -1).astype(np.int32),
        )
        return np.asarray(sizes[order][sizes[order] > 0])

    def refine(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Solve every block on its own and average: the first round. Returns, of each crystal, why
        it keeps its start scale, and its overlaps."""
        rough = self.settings.rounds_mode == "newton"
        tolerance = max(ROUGH, self.work.tolerance) if rough else self.work.tolerance
        found = self._average(replace(self.work, tolerance=tolerance))
        reasons = found["reasons"].copy()
        reasons[self.state["of_crystal"] < 0] = Reason.TOO_FEW_OVERLAPS
        reasons[self.lost_crystals()] = Reason.TASK_FAILED
        refined = reasons == Reason.NONE
        self.state = self.state.with_arrays(refined=refined)
        free = int(refined.sum()) * self.work.modelling.n_free
        sets = len(np.unique(self.state["of_crystal"][refined]))
        self.n_free = free - sets * (1 + self.work.settings.b_factor)
        self._centre(refined)
        self.state = self.work.modelling.held(self.state)
        return reasons, found["n_overlaps"]

    def without(self, crystals: NDArray[np.bool_], n_rows: int) -> None:
        """Leave crystals (n_crystals,) out from here on; n_rows : observations of them."""
        gone = self.state.arrays.get("gone", np.zeros(self.n_crystals, dtype=bool)) | crystals
        refined = self.state["refined"] & ~crystals
        self.n_free -= int((self.state["refined"] & crystals).sum()) * self.work.modelling.n_free
        self.n_rows -= n_rows
        refits = refits_of(self.work.settings.variances)
        errors = replace(self.state.errors, refits=refits)
        self.state = replace(self.state, errors=errors).with_arrays(gone=gone, refined=refined)
        self.converged = False

    def go_on(self) -> None:
        """All further rounds."""
        self.most_rounds = len(self.rounds) + self.settings.rounds
        if self.settings.rounds_mode == "average":
            self._average_rounds()
        else:
            self._newton_rounds()

    def merge(self, half: NDArray[np.int8]) -> tuple[ReflectionSums, Found]:
        """Sums for merging at the final point; of the crystals `sigma` (n, 2) and `cc`, of the
        reflections `from_local`."""
        self.state = self.state.with_arrays(half=half)
        value = self.stage("value")
        self.state = self.state.with_arrays(D=value["D"])
        found = self.stage("merge")
        sums = found["sums"]
        self.state = self.state.with_arrays(mean=mean_intensity(sums))
        deviated = self.stage("deviate")
        D = value["D"]
        from_local = np.divide(found["spread"], D**2, out=np.zeros_like(D), where=D > 0.0)
        return (
            ReflectionSums(sums[0:2], sums[2:4], sums[4:6], *deviated["sums"]),
            {
                "sigma": np.sqrt(found["variance"]),
                "cc": deviated["cc"],
                "from_local": from_local,
            },
        )

    # ---- rounds --------------------------------------------------------------------------------

    def _average(self, work: Work) -> Found:
        """Solve the blocks and average them into the state."""
        there = self.state.arrays
        start = Point(there["local"], there["shared"]) if "local" in there else None
        begin = work.modelling.begin
        averaging = Averaging(begin, self.s2, start, there.get("D"), work.settings.b_factor)
        combiner = Averages(averaging, work)
        found = self.stage("refine", combiner, work)
        errors = replace(self.state.errors, scatter=float(found["scatter"][0]))
        self.disagreement = float(found["disagreement"][0])
        self.state = replace(self.state, errors=errors).with_arrays(
            **{name: found[name] for name in ("local", "shared", "D", "pulled")}
        )
        return found

    def _average_rounds(self) -> None:
        """The blocks solved and averaged again and again, from the average."""
        self._tell_round(self.stage("value"), self.disagreement, np.nan)
        while len(self.rounds) < self.most_rounds:
            before = self.state["shared"]
            self._average(self.work)
            self._centre(self.state["refined"])
            found = self.stage("value")
            moved = rms((self.state["shared"] - before) * np.sqrt(found["D"]))
            self._tell_round(found, self.disagreement, moved)

    def _newton_rounds(self) -> None:
        """Newton steps of the joint problem; one that raises the objective is halved."""
        found = self.stage("gradient")
        self._tell_round(found, self.disagreement, np.nan)
        refused = False
        while len(self.rounds) < self.most_rounds and not self.converged:
            same_errors = self._take(found)
            before, (mean, self.disagreement) = self.state, self._mean_step()
            part, refused = 1.0, True
            while refused and len(self.rounds) < self.most_rounds:
                self.state = before.with_arrays(shared=before["shared"] + part * mean)
                self._centre(before["refined"])
                trial = self.stage("gradient")
                was, became = found["objective"][0], trial["objective"][0]
                refused = not np.isfinite(became) or (
                    same_errors and became > was + RISE * abs(was)
                )
                moved = part * rms(mean * np.sqrt(found["D"]))
                self._tell_round(trial, self.disagreement, moved, refused)
                part *= 0.5
            if refused:
                self.state = before
            else:
                found = trial
                at_rest = self.state.errors.refits == 0
                self.converged = at_rest and moved <= self.settings.round_tolerance_sigma
        if not refused:
            self._take(found)

    def _take(self, found: Found) -> bool:
        """Make what the crystals found at the common point part of the state; tells whether the
        error model stays as it is."""
        errors = next_errors(self.state.errors, found["errors"], self.dof)
        same = errors == self.state.errors
        arrays = {name: found[name] for name in ("local", "D", "q")}
        self.state = replace(self.state, errors=errors).with_arrays(**arrays)
        if not same:
            self.state = self.work.modelling.held(self.state)
        return same

    def _mean_step(self) -> tuple[F8, float]:
        """The step of the intensities, and the r.m.s. of what blocks differ from it, over σ."""
        found = self.stage("step")
        n = self.work.count("blocks") - len(found["failed"])
        mean = found["step"] / n
        variance = np.maximum(found["square"] / n - mean**2, 0.0)
        return mean, rms(np.sqrt(variance * self.state["D"]))

    def _centre(self, refined: NDArray[np.bool_]) -> None:
        """Bring the mean ln G and B of the refined crystals of each set to zero."""
        self.shift(self.to_zero_mean(refined))

    @property
    def n_sets(self) -> int:
        """How many connected sets there are."""
        return 1 + max(
            int(self.state[name].max(initial=0)) for name in ("of_crystal", "of_reflection")
        )

    def to_zero_mean(self, chosen: NDArray[np.bool_] | bool = True) -> F8:
        """(n_sets, 2) what brings mean ln G and B of the chosen crystals of each set to zero."""
        sets = self.state["of_crystal"]
        inside = chosen & (sets >= 0) & ~self.state.arrays.get("gone", np.zeros(len(sets), bool))
        total = np.zeros((self.n_sets, 2))
        np.add.at(total, sets[inside], self.state["local"][inside, : B + 1])
        count = np.bincount(sets[inside], minlength=self.n_sets)
        return -total / np.maximum(count, 1)[:, None]

    def shift(self, shift: F8) -> None:
        """Change ln G and B of each connected set by shift (n_sets, 2), the intensities with it."""
        there = self.state
        point = shifted(
            Point(there["local"], there["shared"]), shift, there["of_crystal"],
            there["of_reflection"], self.s2,
        )  # fmt: skip
        self.state = there.with_arrays(local=point.local, shared=point.shared)

    def _tell_round(
        self, found: Found, disagreement: float, step: float, refused: bool = False
    ) -> None:
        objective, chi2 = (float(v) for v in found["objective"])
        done = Round(
            len(self.rounds) + 1, objective, chi2, self.state.errors.scatter, disagreement, step
        )
        self.rounds.append(done)
        moved = "" if np.isnan(step) else f", step {step:.2g} σ r.m.s."
        self.log(
            f"round {done.number}: objective {objective:.8g}, blocks differ by {disagreement:.2g} "
            f"σ r.m.s.{moved}{' (refused)' if refused else ''}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and text, for statistics.json."""
        last = self.rounds[-1]
        if self.converged:
            how = f"Converged: the last round moved the intensities by {last.step:.1g} σ r.m.s."
        else:
            how = f"Stopped after {len(self.rounds)} rounds; raise parallel.rounds to go on."
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
            "rounds": [asdict(r) for r in self.rounds],
        }


def rms(values: F8) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(values**2)))
