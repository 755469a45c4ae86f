"""Runs made up of agreement, into which a test puts one fault of known size."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
from sqlalchemy import Engine

from opd.types import EvaluationEvent, ModelsEvent, Rollout, Score, StepEvent, TokenRecord, TopK
from tests.support import stored_runs

EOS, OTHER_END, FIRST_WORD = 0, 1, 3
STEPS, ROLLOUTS, TOKENS = 8, 8, 20
Columns = dict[str, Any]
Fault = Callable[[Columns, int], None]  # of the columns of a rollout, and its number in the run
HEALTHY = {
    "reverse_kl": 0.1,
    "student_entropy": 0.5,
    "teacher_entropy": 0.5,
    "completion_tokens": 20.0,
    "finished": 1.0,
    "same_top": 0.9,
}


def texts(ids: Collection[int]) -> dict[int, tuple[bytes, bool]]:
    """Ids 0 and 1 are special; 2 is a tag; the others are words."""
    names = {EOS: b"<eos>", OTHER_END: b"<|other|>", 2: b"<think>"}
    return {i: (names.get(i, f" w{i}".encode()), i in (EOS, OTHER_END)) for i in ids}


def columns(tokens: int, seed: int) -> Columns:
    """A completion of distinct words and the end, on which both models agree."""
    words = np.random.default_rng(seed).permutation(tokens - 1) + FIRST_WORD
    ids = np.append(words, EOS).astype(np.int64)

    def all_of(value: float) -> Any:
        return np.full(tokens, value, np.float32)

    likely = np.tile(np.log(np.float32([0.9, 0.05])), (tokens, 1))
    return {
        "completion_ids": ids,
        "sampler_logprobs": all_of(np.log(0.9)),
        "student_logprobs": all_of(np.log(0.9)),
        "teacher_logprobs": all_of(np.log(0.9)),
        "reverse_kl": all_of(0.1),
        "student_entropy": all_of(0.5),
        "teacher_entropy": all_of(0.5),
        "mask": all_of(1),
        "top": np.stack([ids, np.full(tokens, FIRST_WORD + tokens)], 1),
        "top_logprobs": likely,
        "top_other": likely.copy(),
        "finish_reason": "stop",
        "author": "student",
    }


def rollout(step: int, number: int, parts: Columns) -> Rollout:
    parts = dict(parts)
    top = TopK(
        parts.pop("top"),
        parts.pop("top_logprobs"),
        parts.pop("top_other"),
        np.full(len(parts["completion_ids"]), 0.05, np.float32),
    )
    about = {name: parts.pop(name) for name in ("finish_reason", "author")}
    return Rollout(
        step=step,
        kind="train",
        group=number,
        sample=0,
        prompt=f"What is {number}?",
        prompt_ids=np.array([FIRST_WORD]),
        completion="words",
        temperature=1.0,
        record=TokenRecord(**parts, teacher_topk=top),
        **about,
    )


def run(
    engine: Engine,
    fault: Fault = lambda columns, number: None,
    *,
    metrics: Callable[[int], dict[str, float]] = lambda step: {},
    scores: Sequence[float] = (),
    tokens: int = TOKENS,
    steps: int = STEPS,
    tokenizer: str = "diagnosed",
    **config: Any,
) -> str:
    """Stores the run; `metrics` of a step (from 1) go over the healthy ones, `scores` are two
    evaluations of 200 answers without a standard error."""
    run_id, writer = stored_runs.started(engine, run_slot(engine), steps=max(1, steps), **config)
    writer.models(ModelsEvent({"student": "/s", "teacher": "/t"}, tokenizer, "cpu"), {"torch": "2"})
    for step in range(1, steps + 1):
        made = []
        for place in range(ROLLOUTS):
            number = (step - 1) * ROLLOUTS + place
            parts = columns(tokens, number)
            fault(parts, number)
            made.append(rollout(step, number, parts))
        writer.step(StepEvent(step, {}, 100, 1.0, {**HEALTHY, **metrics(step)}, made), texts)
    for at, value in enumerate(scores):
        score = Score("held-out", "pass@1", value, 200, 0.0)
        writer.evaluation(EvaluationEvent(at * steps, [score]), texts)
    return run_id


def run_slot(engine: Engine) -> str:
    """A slot of its own, so that one test may hold several running runs."""
    from storage.read.runs import runs  # noqa: PLC0415 - beside its only use

    return f"slot-{runs(engine)['total']}"
