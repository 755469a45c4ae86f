"""The doctor for an experiment: the static part of every arm, and what all of its runs take.

Where an arm starts from another arm's run, which has not been made yet, the model which that run
starts from takes its place: it has the same tokenizer, architecture and size.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from opd.config.run import RunConfig, check_inputs
from opd.doctor.examine import memory_of, report, static
from opd.doctor.findings import Finding, refused
from opd.doctor.pace import ASSUMED, Pace, pace
from opd.errors import UserError
from opd.experiments.definition import Experiment, Stage
from opd.experiments.plan import Planner

Counted = Sequence[tuple[str, RunConfig, int]]  # arm, configuration, how many runs of it
SAME_AS_ITSELF = "nothing-to-learn"  # true of a stand-in, not of the trained run


def examine_experiment(experiment: Experiment, say: Callable[[str], None]) -> dict[str, Any]:
    """Plain data: {"ok", "arms", "memory", "full", "quick", "assumed"}.

    Each arm has what `report` has of a run, with seconds of a step and of a run; hours and seconds
    are null where they cannot be estimated. Raises UserError."""
    starts = stand_ins(experiment)
    arms = []
    longest: dict[str, int | None] = {}
    for name, arm in experiment.arms.items():
        say(arm.label)
        config = experiment.run_config(name, arm.best, seed=0, runs=starts)
        findings = list(check_arm(experiment, name, starts))
        fits = [f.evidence["longest"] for f in findings if f.code == "prompts-fit"]
        longest[name] = fits[0] if fits else None
        estimate = _pace(config, longest[name])
        arms.append(
            {
                **{"name": name, "label": arm.label},
                **report(config, findings),
                "seconds_per_step": estimate.step if estimate else None,
                "seconds": estimate.run if estimate else None,
            }
        )
    stages = {quick: counted(experiment, starts, quick=quick) for quick in (False, True)}
    return {
        "ok": all(arm["ok"] for arm in arms),
        "arms": arms,
        "memory": most_memory([*stages[False], *stages[True]], longest),
        "full": _taken(stages[False], longest),
        "quick": _taken(stages[True], longest),
        "assumed": ASSUMED,
    }


def stand_ins(experiment: Experiment) -> dict[str, str]:
    """The model that each arm starts from; another arm's where it starts from that arm's run."""
    starts: dict[str, str] = {}
    for name, arm in experiment.arms.items():
        starts[name] = experiment.run_config(name, arm.best, seed=0, runs=starts).student.model
    return starts


def check_arm(experiment: Experiment, name: str, starts: Mapping[str, str]) -> Iterator[Finding]:
    """The static part of one arm, with its best values; it ends where an input is missing."""
    arm = experiment.arms[name]
    stages: tuple[Stage, ...] = ("tune", "final") if arm.sweep else ("final",)
    configs = [experiment.run_config(name, arm.best, seed=0, runs=starts, stage=s) for s in stages]
    try:
        for config in configs:
            check_inputs(config)
    except UserError as error:
        yield refused("inputs-refused", "An input is missing", error)
        return
    for finding in static(configs[-1], lambda _: None):
        if finding.code != SAME_AS_ITSELF or not experiment.needed(name):
            yield finding


def counted(experiment: Experiment, starts: Mapping[str, str], *, quick: bool) -> Counted:
    """Every run of the experiment, those of one configuration but for the seed together."""
    seeds = experiment.quick.seeds if quick else experiment.seeds
    keys = Planner(experiment, quick, seeds, {}).plan().keys
    numbers = Counter((key.stage, key.arm, key.choice) for key in keys)
    runs = []
    for (stage, name, number), count in numbers.items():
        arm = experiment.arms[name]
        choice = arm.choices()[number] if stage == "tune" else arm.best
        config = experiment.run_config(name, choice, seed=0, runs=starts, stage=stage, quick=quick)
        runs.append((name, config, count))
    return runs


def most_memory(runs: Counted, longest: Mapping[str, int | None]) -> dict[str, Any]:
    """Of the run that takes most: {"device", "host", "unknown"}, in bytes."""
    results = [memory_of(config, prompt_tokens=longest.get(name)) for name, config, _ in runs]
    estimates = [m for m in results if not isinstance(m, Finding)]
    return {
        "device": round(max((m.device for m in estimates), default=0.0)),
        "host": round(max((m.host for m in estimates), default=0.0)),
        "unknown": sorted({field for m in estimates for field in m.unknown}),
    }


def _taken(runs: Counted, longest: Mapping[str, int | None]) -> dict[str, Any]:
    """{"runs", "hours"}, one run after the other."""
    paces = [(_pace(config, longest.get(name)), count) for name, config, count in runs]
    seconds = [pace.run * count for pace, count in paces if pace is not None]
    return {
        "runs": sum(count for _, count in paces),
        "hours": sum(seconds) / 3600 if len(seconds) == len(paces) else None,
    }


def _pace(config: RunConfig, longest: int | None) -> Pace | None:
    try:
        return pace(config, prompt_tokens=longest)
    except UserError:  # reported by the findings
        return None
