"""A made-up run of short completions: two prompts in three steps, judged by two teachers, of which
one reads a hint. Names and texts are hostile."""

from dataclasses import replace
from typing import Any

import numpy as np
from sqlalchemy import Engine

from opd.types import EvaluationEvent, Rollout, StepEvent
from storage.queue import jobs
from tests.support import stored_runs

EVIL = '<img src=x onerror="window.__evil=1">\u202e&amp;'
HARD = "teacher.routes.hard"
HINTED = f"<|im_start|>system\nHint {EVIL}: the answer is 4.<|im_end|>\n<|im_start|>user\n2 + 2?"
TEACHER = {
    "model": "org/plain",
    "route_by": "level",
    "routes": {"hard": {"model": f"org/{EVIL}", "system": "Hint: {answer}."}},
}
STEPS, SAMPLES, TOKENS = 3, 3, 12


def rollout(step: int, group: int, sample: int, **changes: Any) -> Rollout:
    record = stored_runs.record(tokens=TOKENS + sample, seed=step * 100 + group * 10 + sample)
    made = stored_runs.rollout(step, group, sample, record=record, data_row={}, **changes)
    judged = {"teacher": HARD, "teacher_prompt": HINTED} if group else {"teacher": "teacher"}
    return replace(made, prompt_ids=np.array([1, 2, 3 + group]), **judged)


def judged(engine: Engine, slot: str = "judged", **config: Any) -> str:
    """The run's id; prompt 1 is the hinted one."""
    run_id, writer = stored_runs.started(
        engine, slot, **{"name": slot, "teacher": TEACHER, "steps": STEPS, **config}
    )
    for step in range(1, STEPS + 1):
        kept = [rollout(step, group, n) for group in (0, 1) for n in range(SAMPLES)]
        writer.step(StepEvent(step, {}, 10, 1.0, {"reverse_kl": 1.0}, kept), stored_runs.texts)
    greedy = [rollout(STEPS, 1, 0, kind="eval")]
    writer.evaluation(EvaluationEvent(STEPS, [], greedy), stored_runs.texts)
    jobs.finish(engine, run_id, 1, "finished")
    return run_id
