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

Problem = tuple[ExperimentStatus, str]
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
class Known:
    """A run that was made. `criterion`: what a tuning run is judged by, once it has finished."""

    run_id: str
    status: str
    criterion: float | None = None
    deleted: bool = False


@dataclass(frozen=True)
class Wanted:
    """The run that is made next."""

    key: Key
    config: RunConfig


@dataclass(frozen=True)
class Plan:
    wanted: Wanted | None
    chosen: dict[str, int]  # arm → number of its choice; of the arms that are decided
    keys: list[Key]  # of every run of the experiment, in order
    problem: Problem | None = None  # status and text of why it cannot go on
    known: Mapping[Key, Known] = field(default_factory=dict)

    @property
    def ended(self) -> int:
        """Runs that need no more time."""
        return sum(
            self.known[k].status in ("finished", "failed") for k in self.keys if k in self.known
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
    known: Mapping[Key, Known]

    def plan(self) -> Plan:
        chosen = {arm: c for arm in self.experiment.arms if (c := self._chosen(arm)) is not None}
        keys = list(self._keys())
        problem, wanted = self._problem(keys), None
        if problem is None:
            makeable = (self._wanted(key, chosen) for key in keys if key not in self.known)
            wanted = next((w for w in makeable if w is not None), None)
            problem = self._stuck(keys, chosen) if wanted is None else None
        return Plan(wanted, chosen, keys, problem, self.known)

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
            found = [self.known.get(key) for key in tuning_keys(self.experiment, arm, choice)]
            if any(k is None or k.status not in ("finished", "failed") for k in found):
                return None
            values = [k.criterion for k in found if k is not None and k.status == "finished"]
            known = [v for v in values if v is not None]
            means.append(math.fsum(known) / len(known) if len(known) == len(found) else -math.inf)
        best = max(means)
        return means.index(best) if best > -math.inf else None

    def _wanted(self, key: Key, chosen: Mapping[str, int]) -> Wanted | None:
        """None where what it refers to, or its own choice, is not known yet."""
        arm = self.experiment.arms[key.arm]
        if key.stage == "final" and key.arm not in chosen:
            return None
        runs = {}
        for other in sorted(self.experiment.needed(key.arm)):
            if other not in chosen:
                return None
            choice = chosen[other] if key.stage == "tune" else 0
            found = self.known.get(Key(key.stage, other, choice, key.seed))
            if found is None or found.status != "finished":
                return None
            runs[other] = found.run_id
        number = key.choice if key.stage == "tune" else chosen[key.arm]
        config = self.experiment.run_config(
            key.arm,
            arm.choices()[number],
            seed=key.seed,
            runs=runs,
            stage=key.stage,
            quick=self.quick,
        )
        return Wanted(key, config)

    def _problem(self, keys: list[Key]) -> Problem | None:
        for key in keys:
            run = self.known.get(key)
            if run is None:
                continue
            if run.deleted:
                return "stopped", f"{run.run_id} was deleted; bring it back to go on"
            if run.status in ("cancelled", "interrupted"):
                return "stopped", f"{run.run_id} was {run.status}"
            if run.status == "failed" and key.stage == "final":
                return "failed", f"{run.run_id} ({self.experiment.arms[key.arm].label}) failed"
        for arm in self.tuned():
            tries = [k for k in keys if k.stage == "tune" and k.arm == arm]
            if all(k in self.known and self.known[k].status == "failed" for k in tries):
                return "failed", f"every choice of {self.experiment.arms[arm].label} failed"
        return None

    def _stuck(self, keys: list[Key], chosen: Mapping[str, int]) -> Problem | None:
        """Why no run can be made though some are missing and none is under way."""
        ended = all(run.status in ("finished", "failed") for run in self.known.values())
        if not ended or all(key in self.known for key in keys):
            return None
        arm = next((a for a in self.experiment.arms if a not in chosen), None)
        if arm is None:
            return "failed", "a run that others are taught by has failed"
        label, metrics = self.experiment.arms[arm].label, self.experiment.judged(arm)
        return "failed", f"no choice of {label} could be judged by {', '.join(metrics)}"
