"""The prompts of marked rollouts as a data file: each once, as the run's data had it."""

import json
from dataclasses import replace
from typing import Any

from sqlalchemy import Engine

from opd.config.drafts.short_forms import with_overrides
from opd.config.run import parse
from opd.types import Mark, Rollout, StepEvent
from storage.marks.edit import add_mark
from storage.marks.prompts import marked_prompts
from storage.queue import jobs
from storage.read.rollouts import read_rollouts
from storage.write.imports import import_rollouts
from tests.support import stored_runs

CHAT = {"messages": [{"role": "user", "content": "é?"}], "tools": [{"type": "function"}]}


def stored(engine: Engine, rollouts: list[Rollout], **config: Any) -> str:
    run_id, writer = stored_runs.started(engine, **config)
    writer.step(StepEvent(1, {}, 1, 1.0, {}, rollouts), stored_runs.texts)
    jobs.finish(engine, run_id, 1, "finished")
    return run_id


def mark_all(engine: Engine, run_id: str) -> None:
    for item in read_rollouts(engine, run_id)["items"]:
        add_mark(engine, item["id"], None, "")
        add_mark(engine, item["id"], 1, "")


def test_each_prompt_is_written_once_with_its_row(engine: Engine) -> None:
    rollouts = [
        stored_runs.rollout(1, 0, data_row={"hint": "x"}),
        stored_runs.rollout(1, 0, 1, data_row={"hint": "x"}),
        stored_runs.rollout(1, 1, data_row=CHAT, answer=None),
        stored_runs.rollout(1, 2, data_row={}),
        stored_runs.rollout(1, 3),
    ]
    run_id = stored(engine, rollouts)
    assert marked_prompts(engine, run_id).rows == []
    mark_all(engine, run_id)
    prompts = marked_prompts(engine, run_id)
    assert prompts.rows == [
        {"prompt": "What is 0?", "hint": "x", "answer": "0"},
        CHAT,
        {"prompt": "What is 2?", "answer": "2"},
    ]
    assert [json.loads(line) for line in prompts.lines()] == prompts.rows
    assert (prompts.as_text, prompts.left_out) == (0, 1)
    (remark,) = prompts.remarks()
    assert remark.startswith("1 prompt is left out: their rows were not recorded")


def test_imported_prompts_are_the_text_that_was_read(engine: Engine) -> None:
    run_id = jobs.create_run(engine, parse({"teacher": "imported"}), source="import")
    marks = [Mark(None, "n"), Mark(3, "")]
    rollouts = [
        replace(stored_runs.rollout(1, 0, marks=marks), group=group, answer=None)
        for group in range(2)
    ]
    rollouts.append(stored_runs.rollout(1, 1, marks=marks[:1], data_row={"prompt": "raw"}))
    assert import_rollouts(engine, run_id, rollouts) == 3
    prompts = marked_prompts(engine, run_id)
    assert prompts.rows == [{"prompt": "What is 0?"}, {"prompt": "raw", "answer": "1"}]
    assert (prompts.as_text, prompts.left_out) == (1, 0)
    assert "1 prompt is written as the text that the student read" in prompts.remarks()[0]


def test_the_settings_give_the_same_grading(engine: Engine) -> None:
    """Patterns with characters that YAML or a shell would read come through."""
    prompts = {
        **{"source": "bundled", "grader": "regex", "answer_pattern": "#### '(.+)': \"x\"\\n"},
        **{"tolerance": 0.5, "count": 3},
    }
    marked = marked_prompts(engine, stored(engine, [stored_runs.rollout(1)], prompts=prompts))
    settings = marked.settings("marked prompts.jsonl")
    again = parse(with_overrides({}, settings)).prompts
    assert again.source == "marked prompts.jsonl"
    for name in ("grader", "answer_pattern", "tolerance", "json_schema"):
        assert getattr(again, name) == getattr(parse({"prompts": prompts}).prompts, name)
