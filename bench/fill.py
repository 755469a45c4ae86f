"""Fills a data directory with synthetic runs, for timing and looking at the pages.

    python -m bench.fill --data-dir DIR [--runs 10] [--tokens 1000000] [--long 1000,10000,32000]

The newest run holds one rollout of each length in --long and one of hostile text.
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from sqlalchemy import Engine

from bench.support.synthetic import HOSTILE, RolloutMaker
from opd.config.run import RunConfig, parse
from opd.errors import ErrorKind
from opd.types import EvaluationEvent, ModelsEvent, Rollout, RunStatus, Score, StepEvent
from storage.engine import open_database
from storage.queue import jobs, run_details
from storage.queue.failure import Failure
from storage.write.records import RunWriter

NAMES = tuple(text for text in HOSTILE if "\x1b" not in text)  # a run's has no control characters
STEPS = 20
SLOT = "fill"
ENDINGS: tuple[RunStatus, ...] = (
    "finished",
    "finished",
    "failed",
    "finished",
    "interrupted",
    "cancelled",
    "finished",
)


def fill(engine: Engine, runs: int = 10, tokens: int = 1_000_000, long: Sequence[int] = ()) -> str:
    """Returns the id of the newest run."""
    run_id = ""
    for number in range(runs):
        newest = number == runs - 1
        run_id = fill_run(engine, number, tokens // runs, long if newest else ())
    return run_id


def fill_run(engine: Engine, number: int, tokens: int, long: Sequence[int] = ()) -> str:
    config = _config(number)
    tags = ["sweep", HOSTILE[0]] if number % 3 == 0 else []
    run_id = jobs.create_run(engine, config, recipe="demo" if number % 2 else "", tags=tags)
    owner = jobs.Owner(os.getpid(), 0.0, "synthetic")
    attempt = jobs.claim(engine, run_id, f"{SLOT}-{number}", owner)
    assert attempt is not None
    maker = RolloutMaker(number)
    store = RunWriter(engine, run_id, attempt)
    folders = {"student": "bundled/student", "teacher": "bundled/teacher"}
    store.models(
        ModelsEvent(folders, f"synthetic-{run_id}", "cpu", {"student": 860_000}), {"torch": "2.13"}
    )
    for event in _events(maker, tokens, long):
        if isinstance(event, StepEvent):
            store.step(event, maker.vocabulary.lookup)
        else:
            store.evaluation(event, maker.vocabulary.lookup)
    _finish(engine, run_id, attempt, ENDINGS[number % len(ENDINGS)])
    if number % 3 == 0:
        run_details.edit(
            engine, run_id, run_details.RunEdit(notes=f"baseline {HOSTILE[1]} {HOSTILE[2]}")
        )
    return run_id


def _config(number: int) -> RunConfig:
    name = NAMES[number % len(NAMES)] if number % 4 == 3 else ""
    data = {
        "name": name or f"word problems {number}",
        "steps": STEPS,
        "seed": number,
        "optimizer": {"learning_rate": 0.001 / (1 + number % 3)},
        "records": {"budget_mb": 100_000, "rollouts_per_step": 100_000},
    }
    return parse(data)


def _events(
    maker: RolloutMaker, tokens: int, long: Sequence[int]
) -> Iterator[StepEvent | EvaluationEvent]:
    yield _evaluation(maker, 0)
    for step in range(1, STEPS + 1):
        fade = 0.05 + 0.95 * float(np.exp(-step / 6))
        rollouts = list(_rollouts(maker, tokens // STEPS, step, fade))
        if step == STEPS:
            rollouts += _special(maker, step, long)
        yield _step(step, rollouts, maker)
        if step % 5 == 0:
            yield _evaluation(maker, step)


def _rollouts(maker: RolloutMaker, tokens: int, step: int, fade: float) -> Iterator[Rollout]:
    group = 0
    while tokens > 0:
        for sample in range(4):
            length = int(np.clip(maker.random.lognormal(5.0, 0.5), 20, 1200))
            yield maker.rollout(length, step=step, group=group, sample=sample, fade=fade)
            tokens -= length
        group += 1


def _special(maker: RolloutMaker, step: int, long: Sequence[int]) -> list[Rollout]:
    if not long:
        return []
    made = [
        maker.rollout(length, step=step, group=900 + i, sample=0, fade=0.5)
        for i, length in enumerate(long)
    ]
    return [*made, maker.hostile(step)]


def _step(step: int, rollouts: list[Rollout], maker: RolloutMaker) -> StepEvent:
    def mean(name: str) -> float:
        return float(np.concatenate([getattr(r.record, name) for r in rollouts]).mean())

    lengths = [len(r.record) for r in rollouts]
    noise = maker.random.uniform(0.9, 1.1, 4)
    seconds = {"sample": 1.2, "teacher": 0.3, "student": 0.7, "optimizer": 0.05}
    metrics = {
        "reverse_kl": mean("reverse_kl"),
        "student_entropy": mean("student_entropy"),
        "teacher_entropy": mean("teacher_entropy"),
        "completion_tokens": float(np.mean(lengths)),
        "finished": float(np.mean([r.finish_reason == "stop" for r in rollouts])),
        "same_top": float(np.mean(np.concatenate([r.record.teacher_rank == 0 for r in rollouts]))),
        "loss": mean("reverse_kl"),
        "grad_norm": float(noise[0]),
        "reward": float(np.mean([r.reward or 0.0 for r in rollouts])),
    }
    timed = {name: value * k for (name, value), k in zip(seconds.items(), noise, strict=True)}
    return StepEvent(step, timed, sum(lengths), 6e9 * sum(lengths), metrics, rollouts)


def _evaluation(maker: RolloutMaker, step: int) -> EvaluationEvent:
    value = 0.84 - 0.48 * float(np.exp(-step / 4)) + float(maker.random.normal(0, 0.01))
    error = (value * (1 - value) / 200) ** 0.5
    scores = [
        Score("temperature 1", "pass@1", value, 200, error),
        Score("greedy", "pass@1", min(0.99, value + 0.05), 200, error),
    ]
    return EvaluationEvent(step, scores)


def _finish(engine: Engine, run_id: str, attempt: int, status: RunStatus) -> None:
    text = f"the processor's memory ran out at step 20 {HOSTILE[4]} {HOSTILE[0]}"
    failure = Failure(ErrorKind.OUT_OF_MEMORY, text) if status == "failed" else None
    jobs.finish(engine, run_id, attempt, status, failure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--long", default="1000,10000,32000")
    options = parser.parse_args()
    lengths = [int(part) for part in options.long.split(",") if part]
    engine = open_database(options.data_dir)
    print(fill(engine, options.runs, options.tokens, lengths))
    engine.dispose()


if __name__ == "__main__":
    main()
