"""Experiments made up for tests of their pages: by the plan and the store, without training."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine

from opd.experiments.definition import Experiment, parse_experiment
from opd.experiments.plan import Key, PlannedRun
from opd.types import EvaluationEvent, ModelsEvent, Score, StepEvent
from storage.queue import experiments, jobs
from storage.write.records import RunWriter
from tests.support.stored_runs import OWNER

STEPS = 8
EVERY = 2
SUITES = ("heldout", "facts")
START = (0.3, 0.9)  # of each suite
Way = Callable[[int, int], float]  # seed and step → score


def climbs(to: float, rate: float) -> Way:
    """From 30% towards `to`; seeds lie half a percent apart."""
    return lambda seed, step: START[0] + (to - START[0]) * (1 - math.exp(-rate * step)) + seed / 200


FAST, SLOW, SHORT = climbs(0.9, 0.8), climbs(0.88, 0.25), climbs(0.5, 0.2)


@dataclass
class Script:
    """How the runs of an experiment go: scores by arm, and where all stops."""

    scores: dict[str, Way]
    stops_at: Key | None = None  # this run is left running
    steps_done: int = 3  # of that one
    flops: dict[str, float] = field(default_factory=lambda: {"rl": 2e11, "opd": 3e11})


def definition(name: str = "self-distillation", **changes: Any) -> Experiment:
    data = {
        "name": name,
        "title": "Self-distillation",
        "description": "Both arms start from the same weights.",
        "question": "How much less does distillation take to get to the score of RL?",
        "claim": "Distillation takes less.",
        "published": "A tenth of the steps.",
        "shows": "That it takes less.",
        "limits": "That it takes less elsewhere.",
        "seeds": 3,
        "common": {"steps": STEPS, "evaluation": {"suites": {"facts": "bundled"}}},
        "arms": {
            "rl": {"label": "RL", "config": {"objective": {"name": "grpo"}}},
            "opd": {
                "label": "OPD",
                "sweep": {"optimizer.learning_rate": [0.001, 0.0003]},
                "best": {"optimizer.learning_rate": 0.001},
            },
        },
        "target": {"value": 0.7},
        "pairs": [{"over": "rl", "under": "opd", "note": "from the same weights"}],
    }
    return parse_experiment(data | changes)


def started(engine: Engine, made: Experiment, script: Script, **options: Any) -> str:
    """Makes the experiment's runs one after another, to the end or to where the script stops."""
    exp = experiments.create_experiment(engine, made, **{"quick": False, **options})
    while planned := experiments.plan_of(engine, experiments.experiment_row(engine, exp)).next_run:
        run_id = experiments.add_run(engine, exp, planned.key, planned.config)
        _train(engine, run_id, planned, script)
        if planned.key == script.stops_at:
            return exp
    experiments.end_experiment(engine, exp, "finished")
    return exp


def _train(engine: Engine, run_id: str, planned: PlannedRun, script: Script) -> None:
    key = planned.key
    attempt = jobs.claim(engine, run_id, run_id, OWNER)
    assert attempt is not None
    writer = RunWriter(engine, run_id, attempt)
    writer.models(ModelsEvent({"student": "/s", "teacher": "/t"}, "words", "cpu"), {})
    last = script.steps_done if key == script.stops_at else STEPS
    for step in range(last + 1):
        if step:
            flops = script.flops.get(key.arm, 1e11)
            writer.step(
                StepEvent(step, {"sample": 1.5}, 3_000, flops, {"reverse_kl": 1 / step}), {}.get
            )
        if step % EVERY == 0:
            writer.evaluation(EvaluationEvent(step, _scores(key, step, script)), {}.get)
    if key != script.stops_at:
        jobs.finish(engine, run_id, attempt, "finished")


def _scores(key: Key, step: int, script: Script) -> list[Score]:
    """The second suite is forgotten as the first is learnt; another choice learns less."""
    main = script.scores[key.arm](key.seed % 10, step) - key.choice / 10
    values = (main, START[1] - (main - START[0]) / 2)
    return [Score(s, "pass@1", v, 200, 0.03) for s, v in zip(SUITES, values, strict=True)]


def one_step_more(engine: Engine, run_id: str, step: int, value: float) -> None:
    """A running run goes on by one step, with an evaluation."""
    writer = RunWriter(engine, run_id, 1)
    writer.step(StepEvent(step, {"sample": 1.5}, 3_000, 1e11, {"reverse_kl": 0.1}), {}.get)
    writer.evaluation(EvaluationEvent(step, [Score("heldout", "pass@1", value, 200, 0.03)]), {}.get)


@dataclass(frozen=True)
class StoredExperiments:
    """`done` has finished, `running` goes on, `missed` has an arm that never gets there."""

    done: str
    running: str
    missed: str
    definitions: dict[str, Experiment]


COLUMNS = [
    {"metric": "heldout/pass@1", "label": "held-out"},
    {"metric": "facts/pass@1", "label": "facts"},
]


def fill(engine: Engine) -> StoredExperiments:
    full = definition()
    short = definition(
        "short",
        title="Too short",
        columns=COLUMNS,
        arms={"sft": {"label": "SFT"}, "opd": {"label": "OPD"}, "rl": {"label": "RL"}},
        pairs=[{"over": "sft", "under": "opd"}],
    )
    scores = {"rl": SLOW, "opd": FAST}
    missed = started(engine, short, Script(scores | {"sft": SHORT, "rl": climbs(0.7, 0.6)}))
    done = started(engine, full, Script(scores))
    running = started(engine, full, Script(scores, stops_at=Key("final", "opd", 0, 1)))
    return StoredExperiments(done, running, missed, {"full": full, "short": short})
