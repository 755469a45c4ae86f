"""Runs made up of agreement, with one fault of known size put in; in memory or stored."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
from sqlalchemy import Engine

from opd.config.run import parse
from opd.diagnosis.run_records import RunRecords
from opd.diagnosis.run_tokens import RunTokens
from opd.types import EvaluationEvent, ModelsEvent, Rollout, Score, StepEvent, TokenRecord, TopK
from tests.support import stored_runs

EOS, OTHER_END, FIRST_WORD = 0, 1, 3
STEPS, ROLLOUTS, TOKENS = 8, 8, 20
Columns = dict[str, Any]
Fault = Callable[[Columns, int], None]  # of the columns of a rollout, and its number in the run
COLUMNS = {  # as `columns` names them, as they are stored
    **{name: name for name in ("completion_ids", "reverse_kl", "mask")},
    **{f"{name}_logprobs": f"{name}_logprobs" for name in ("sampler", "student", "teacher")},
    **{f"{name}_entropy": f"{name}_entropy" for name in ("student", "teacher")},
    "top": "teacher_topk_ids",
    "top_logprobs": "teacher_topk_logprobs",
    "top_other": "teacher_topk_other",
}
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

    likely = np.tile(np.log(np.array([0.9, 0.05], np.float32)), (tokens, 1))
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


def no_fault(columns: Columns, number: int) -> None:
    """Leaves the columns as they are."""


def another_end(p: float, share: float = 1.0, elsewhere: float = 0.9) -> Fault:
    """The teacher gives the end p, and prefers another special token at a share of the ends."""

    def fault(c: Columns, number: int) -> None:
        c["teacher_logprobs"][:-1] = np.log(elsewhere)
        c["teacher_logprobs"][-1] = np.log(p)
        special = number < share * STEPS * ROLLOUTS
        c["top"][-1] = [OTHER_END if special else 7, EOS]

    return fault


def records(
    fault: Fault = no_fault,
    *,
    metrics: Callable[[int], dict[str, float]] = lambda step: {},
    scores: Sequence[float] = (),
    tokens: int = TOKENS,
    steps: int = STEPS,
    **config: Any,
) -> RunRecords:
    """What the checks are given of such a run; the arguments are those of `run`."""
    parts = [columns(tokens, number) for number in range(steps * ROLLOUTS)]
    for number, part in enumerate(parts):
        fault(part, number)
    rows = [
        {
            **{name: part[name] for name in ("finish_reason", "author")},
            **{"id": f"roll-{number}", "step": number // ROLLOUTS + 1, "kind": "train"},
        }
        for number, part in enumerate(parts)
    ]
    by_step = [HEALTHY | metrics(step) for step in range(1, steps + 1)]
    return RunRecords(
        config=parse(config).model_dump(mode="json"),
        tokens=RunTokens(
            rows,
            {COLUMNS[key]: np.concatenate([part[key] for part in parts]) for key in COLUMNS},
            np.full(len(rows), tokens),
            damaged=0,
        ),
        texts=texts(range(FIRST_WORD + tokens + 1)),
        steps={name: np.array([values[name] for values in by_step]) for name in by_step[0]},
        scores=[(value, 0.0) for value in scores],
    )


def run(
    engine: Engine,
    fault: Fault = no_fault,
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
        for sample in range(ROLLOUTS):
            number = (step - 1) * ROLLOUTS + sample
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
    from storage.read.runs import read_runs  # noqa: PLC0415 - beside its only use

    return f"slot-{read_runs(engine)['total']}"
