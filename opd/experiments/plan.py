"""Which runs an experiment needs next, from those that it has. Pure; free of torch.

Arms are tuned in their order, a run for every choice of the sweep and tuning seed. A run that
refers to another arm waits for that arm's run of the same stage and seed: while tuning, for the one
of the choice that did best.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from opd.config.run import RunConfig
from opd.experiments.definition import Experiment, Stage
from opd.types import ExperimentStatus

StopReason = tuple[ExperimentStatus, str]
TUNING_SEED = 1000  # seeds of tuning start here, those that count at 0


@dataclass(frozen=True)
class Key:
    """Which run of an experiment. `choice` counts the arm's choices; 0 in the final stage."""

    stage: Stage
    arm: str
    choice: int
    seed: int

    def __str__(self) -> str:
        return f"{self.stage}/{self.arm}/{self.choice}/{self.seed}"


@dataclass(frozen=True)
class ArmRun:
    """A run that was made. `criterion`: what a tuning run is judged by, once it has finished."""

    run_id: str
    status: str
    criterion: float | None = None
    deleted: bool = False


@dataclass(frozen=True)
class PlannedRun:
    """The run that is made next."""

    key: Key
    config: RunConfig


@dataclass(frozen=True)
class Plan:
    next_run: PlannedRun | None
    chosen: dict[str, int]  # arm → number of its choice; of the arms that are decided
    keys: list[Key]  # of every run of the experiment, in order
    problem: StopReason | None = None  # status and text of why it cannot go on
    runs: Mapping[Key, ArmRun] = field(default_factory=dict)

    @property
    def ended(self) -> int:
        """Runs that need no more time."""
        return sum(
            self.runs[k].status in ("finished", "failed") for k in self.keys if k in self.runs
        )

    @property
    def done(self) -> bool:
        return self.problem is None and self.ended == len(self.keys)


def tuning_keys(experiment: Experiment, arm: str, choice: int) -> list[Key]:
    """The runs that a choice of the arm is judged by."""
    seeds = range(TUNING_SEED, TUNING_SEED + experiment.tuning.seeds)
    return [Key("tune", arm, choice, seed) for seed in seeds]


@dataclass(frozen=True)
class Planner:
    experiment: Experiment
    quick: bool
    seeds: int
    runs: Mapping[Key, ArmRun]

    def plan(self) -> Plan:
        chosen = {arm: c for arm in self.experiment.arms if (c := self._chosen(arm)) is not None}
        keys = list(self._keys())
        problem, next_run = self._problem(keys), None
        if problem is None:
            ready = (self._planned(key, chosen) for key in keys if key not in self.runs)
            next_run = next((run for run in ready if run is not None), None)
            problem = self._stuck(keys, chosen) if next_run is None else None
        return Plan(next_run, chosen, keys, problem, self.runs)

    def tuned(self) -> list[str]:
        """Arms that are run while tuning: those with a sweep, and those that these refer to."""
        if self.quick:
            return []
        arms = self.experiment.arms
        needed: set[str] = set()
        for name in reversed(arms):
            if arms[name].sweep or name in needed:
                needed |= {name, *self.experiment.needed(name)}
        return [name for name in arms if name in needed]

    def _keys(self) -> Iterator[Key]:
        for arm in self.tuned():
            for choice in range(len(self.experiment.arms[arm].choices())):
                yield from tuning_keys(self.experiment, arm, choice)
        for seed in range(self.seeds):
            for arm in self.experiment.arms:
                yield Key("final", arm, 0, seed)

    def _chosen(self, arm: str) -> int | None:
        """The stored choice in a quick look, else that of the best mean over the tuning seeds.

        None while runs are missing; a choice with a failed run is not taken."""
        choices = self.experiment.arms[arm].choices()
        if len(choices) == 1:
            return 0
        if self.quick:
            return choices.index(self.experiment.arms[arm].best)
        means = []
        for choice in range(len(choices)):
            runs = [self.runs.get(key) for key in tuning_keys(self.experiment, arm, choice)]
            if any(run is None or run.status not in ("finished", "failed") for run in runs):
                return None
            finished = [run for run in runs if run is not None and run.status == "finished"]
            values = [run.criterion for run in finished if run.criterion is not None]
            complete = len(values) == len(runs)
            means.append(math.fsum(values) / len(values) if complete else -math.inf)
        best = max(means)
        return means.index(best) if best > -math.inf else None

    def _planned(self, key: Key, chosen: Mapping[str, int]) -> PlannedRun | None:
        """None where what it refers to, or its own choice, is not known yet."""
        arm = self.experiment.arms[key.arm]
        if key.stage == "final" and key.arm not in chosen:
            return None
        runs = {}
        for other in sorted(self.experiment.needed(key.arm)):
            if other not in chosen:
                return None
            choice = chosen[other] if key.stage == "tune" else 0
            run = self.runs.get(Key(key.stage, other, choice, key.seed))
            if run is None or run.status != "finished":
                return None
            runs[other] = run.run_id
        number = key.choice if key.stage == "tune" else chosen[key.arm]
        config = self.experiment.run_config(
            key.arm,
            arm.choices()[number],
            seed=key.seed,
            runs=runs,
            stage=key.stage,
            quick=self.quick,
        )
        return PlannedRun(key, config)

    def _problem(self, keys: list[Key]) -> StopReason | None:
        for key in keys:
            run = self.runs.get(key)
            if run is None:
                continue
            if run.deleted:
                return "stopped", f"{run.run_id} was deleted; restore it to continue"
            if run.status in ("cancelled", "interrupted"):
                return "stopped", f"{run.run_id} was {run.status}"
            if run.status == "failed" and key.stage == "final":
                return "failed", f"{run.run_id} ({self.experiment.arms[key.arm].label}) failed"
        for arm in self.tuned():
            tries = [k for k in keys if k.stage == "tune" and k.arm == arm]
            if all(k in self.runs and self.runs[k].status == "failed" for k in tries):
                return "failed", f"every choice of {self.experiment.arms[arm].label} failed"
        return None

    def _stuck(self, keys: list[Key], chosen: Mapping[str, int]) -> StopReason | None:
        """Why no run can be made though some are missing and none is under way."""
        ended = all(run.status in ("finished", "failed") for run in self.runs.values())
        if not ended or all(key in self.runs for key in keys):
            return None
        arm = next((a for a in self.experiment.arms if a not in chosen), None)
        if arm is None:
            return "failed", "a run that serves as a teacher has failed"
        label, metrics = self.experiment.arms[arm].label, self.experiment.judged(arm)
        return "failed", f"no choice of {label} could be scored by {', '.join(metrics)}"
