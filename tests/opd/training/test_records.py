"""What a kept rollout says of who judged it and of the row that its prompt is of."""

import datetime
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from opd.config.run import RunConfig, parse
from opd.data.prompts import Prompt, load_prompts
from opd.sampling.sample import Sample
from opd.teachers.routing import TeacherRouter
from opd.training.records import as_rollouts, data_row, kept
from opd.training.rollouts import Completion
from opd.types import Rollout, TokenRecord
from tests.support import tiny_models

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if tools %}"
    "[tools]{{ tools | length }}{% endif %}{% if mood %}[{{ mood }}]{% endif %}[assistant]"
)
CHAT = {
    "messages": [{"role": "user", "content": "2 + 2?"}],
    "answer": "4",
    "tools": [{"type": "function", "function": {"name": "add", "parameters": {"x": 1}}}],
    "chat_template_kwargs": {"mood": "calm"},
    "topic": "sums",
    "hint": "count",
    "unused": "long",
}
ROUTED = {
    "model": "main/teacher",
    "prompt": "Hint: {hint}. {prompt}",
    "route_by": "topic",
    "routes": {"sums": {"model": "sums/teacher", "system": "It is {answer}."}, "odd": "odd/one"},
}


def tokenizer() -> Any:
    made = tiny_models.tokenizer()
    made.chat_template = TEMPLATE
    return made


def config_of(path: Path, rows: list[dict[str, Any]], **changes: Any) -> RunConfig:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = {"source": str(path), "eval_share": 0.5, "grader": "none", "probe": 0}
    return parse({"prompts": prompts, "sampling": {"max_new_tokens": 4}, **changes})


def prompts_of(config: RunConfig) -> list[Prompt]:
    loaded = load_prompts(config, tokenizer(), 4096)
    return sorted([*loaded.train, *loaded.held_out], key=lambda p: p.row["topic"])


def recorded(config: RunConfig, prompts: list[Prompt], teachers: Any) -> list[Rollout]:
    router = TeacherRouter(teachers, config, SimpleNamespace(tokenizer=tokenizer()))  # type: ignore[arg-type]
    sample = Sample(np.array([5]), None, "stop")
    completions = [Completion(p, 0, sample, "a", None) for p in prompts]
    records = [TokenRecord(np.array([5]))] * len(prompts)
    return as_rollouts(router, completions, records, step=1, kind="train", temperature=1.0)


def test_each_rollout_names_its_teacher_and_what_that_read(tmp_path: Path) -> None:
    rows = [CHAT | {"topic": topic} for topic in ("main", "odd", "sums")]
    config = config_of(tmp_path / "rows.jsonl", rows, teacher=ROUTED)
    teachers = dict.fromkeys(("", "sums", "odd"), SimpleNamespace(end=None))
    main, odd, sums = recorded(config, prompts_of(config), teachers)
    assert main.teacher == "teacher"
    assert main.teacher_prompt == "[user]Hint: count. 2 + 2?[tools]1[calm][assistant]"
    assert (odd.teacher, odd.teacher_prompt) == ("teacher.routes.odd", None)
    assert sums.teacher == "teacher.routes.sums"
    assert sums.teacher_prompt == "[system]It is 4.[user]2 + 2?[tools]1[calm][assistant]"
    assert recorded(config, prompts_of(config)[:1], {})[0].teacher is None


@pytest.mark.parametrize("chat", [True, False])
def test_the_recorded_row_gives_the_prompt_again(tmp_path: Path, chat: bool) -> None:
    """As the reader reads it, by the default columns and without the first run's settings."""
    rows = [CHAT, CHAT | {"topic": "other"}]
    if not chat:
        rows = [{"prompt": f"{i} + 1?", "topic": "sums", "hint": "x", "answer": "1"} for i in "12"]
    first = config_of(tmp_path / "first.jsonl", rows, teacher=ROUTED | {"prompt": "{hint}"})
    prompts = prompts_of(first)
    lines = [
        {"answer": p.answer, **({} if chat else {"prompt": p.text}), **data_row(p, first)}
        for p in prompts
    ]
    assert all("unused" not in line for line in lines)
    second = config_of(tmp_path / "second.jsonl", lines, teacher=ROUTED)
    again = prompts_of(second)
    for attribute in ("text", "ids", "answer", "messages"):
        assert {str(getattr(p, attribute)) for p in again} == {
            str(getattr(p, attribute)) for p in prompts
        }
    assert {(p.row["topic"], p.row["hint"]) for p in again} == {
        (p.row["topic"], p.row["hint"]) for p in prompts
    }


def test_a_row_that_is_no_json_is_recorded_as_its_text() -> None:
    prompt = Prompt(0, "a", (1,), None, {"topic": datetime.date(2026, 1, 2), "hint": "half \ud800"})
    assert data_row(prompt, parse({"teacher": ROUTED})) == {"topic": "2026-01-02", "hint": "half ?"}
    assert data_row(prompt, parse({})) == {}


def test_parts_of_a_step_are_kept_alike() -> None:
    config = parse({"records": {"every": 2, "rollouts_per_step": 3}, "steps": 4})
    assert kept("abcde", 1, config) == ["a", "b", "c"]
    assert (kept("abcde", 2, config), kept([1, 2], 4, config)) == ([], [1, 2])
