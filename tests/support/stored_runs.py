"""Rollouts and runs made up for databases."""

import os
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Engine

from app.worker.process import owner_of
from opd.config.run import parse
from opd.fingerprints.inputs import fingerprints
from opd.types import (
    CheckpointEvent,
    EvaluationEvent,
    ModelsEvent,
    Rollout,
    Score,
    StepEvent,
    TokenRecord,
    TopK,
)
from storage.queue import jobs
from storage.queue.inputs import RunInputs, write_inputs
from storage.write.records import RunWriter

VOCABULARY = 300
OWNER = jobs.Owner(4711, 12.5, "boot")


def me() -> jobs.Owner:
    """The test's own process, of no place: for what nobody judges."""
    owner = owner_of(os.getpid())
    assert owner is not None
    return owner


def texts(ids: Collection[int]) -> dict[int, tuple[bytes, bool]]:
    """Id 0 is special; the ids around 200 are the single bytes of characters; others are words."""
    return {i: (bytes([i]) if 195 <= i < 256 else f" w{i}".encode(), i == 0) for i in ids}


def record(tokens: int = 20, k: int = 4, seed: int = 0) -> TokenRecord:
    random = np.random.default_rng(seed)

    def nats(*shape: int) -> Any:
        return -np.abs(random.normal(0, 2, shape)).astype(np.float32)

    def topk() -> TopK:
        ids = random.integers(0, VOCABULARY, (tokens, k))
        return TopK(ids, nats(tokens, k), nats(tokens, k), np.exp(nats(tokens)))

    return TokenRecord(
        completion_ids=random.integers(0, VOCABULARY, tokens),
        sampler_logprobs=nats(tokens),
        student_logprobs=nats(tokens),
        teacher_logprobs=nats(tokens),
        reverse_kl=-nats(tokens),
        student_entropy=-nats(tokens),
        teacher_entropy=-nats(tokens),
        teacher_rank=random.integers(0, VOCABULARY, tokens),
        mask=np.ones(tokens, np.float32),
        student_topk=topk() if k else None,
        teacher_topk=topk() if k else None,
    )


def rollout(step: int = 1, group: int = 0, sample: int = 0, **changes: Any) -> Rollout:
    seed = hash((step, group, sample)) % 2**32
    made = Rollout(
        step=step,
        kind="train",
        group=group,
        sample=sample,
        prompt=f"What is {group}?",
        prompt_ids=np.array([1, 2, 3 + group % 100]),
        completion=f"It is {seed}.",
        finish_reason="stop",
        temperature=1.0,
        record=record(seed=seed),
        reward=float(seed % 2),
        answer=str(group),
    )
    return replace(made, **changes)


def step_event(step: int, rollouts: int = 4, **metrics: float) -> StepEvent:
    kept = [rollout(step, group) for group in range(rollouts)]
    values = {"reverse_kl": 1 / step, **metrics}
    return StepEvent(step, {"sample": 0.5, "teacher": 0.25}, 100, 1e9, values, kept)


def evaluation_event(step: int, value: float) -> EvaluationEvent:
    scores = [
        Score("held-out", "pass@1", value, 50, 0.05),
        Score("held-out greedy", "pass@1", value / 2, 50, 0.04),
    ]
    both = [rollout(step, 7, 0, kind="eval", temperature=t) for t in (1.0, 0.0)]
    return EvaluationEvent(step, scores, both)


def started(engine: Engine, slot: str = "cpu", **config: Any) -> tuple[str, RunWriter]:
    """A running run in its first attempt, and its writer."""
    run_id = jobs.create_run(engine, parse(config))
    attempt = jobs.claim(engine, run_id, slot, OWNER)
    assert attempt == 1
    writer = RunWriter(engine, run_id, attempt)
    writer.models(ModelsEvent({"student": "/s", "teacher": "/t"}, "words", "cpu"), {"torch": "2"})
    return run_id, writer


def interrupted_run(engine: Engine, rows: Path, count: int = 4, name: str = "") -> str:
    """A run upon `count` rows, which are written, interrupted after a checkpoint of step 1."""
    write_prompts(rows, count)
    config = parse({"prompts": str(rows), "name": name, "device": "cpu"})
    run_id = jobs.create_run(engine, config)
    attempt = jobs.claim(engine, run_id, f"slot of {run_id}", OWNER)
    assert attempt is not None
    inputs = RunInputs("2026-01-02T03:04:05", fingerprints(config, online=False))
    write_inputs(engine, run_id, attempt, inputs)
    RunWriter(engine, run_id, attempt).checkpoint(CheckpointEvent(1, str(rows.parent), {}))
    assert jobs.finish(engine, run_id, attempt, "interrupted")
    return run_id


def write_prompts(path: Path, count: int) -> None:
    path.write_text("".join(f'{{"prompt": "question {i}"}}\n' for i in range(count)))
