"""Marks on the command line, and a run on the prompts of what was marked."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Engine, select

from opd.config.drafts.short_forms import with_overrides
from opd.config.run import parse
from storage import schema
from storage.engine import read
from storage.marks.edit import add_mark
from storage.read.rollouts import read_rollouts
from tests.support import stored_runs
from tests.support.databases.matrix import new_database
from tests.support.in_process_runs import JobRunner, write_rows
from tests.support.tiny_models import save_pair

Command = Callable[..., tuple[int, str, str]]
TEACHER = "{prompt} The answer is {answer}, says {source}."
GRADER = {"grader": "regex", "answer_pattern": "#? *('?\\w+'?)"}


def prompts_of(engine: Engine, run_id: str) -> dict[str, tuple[object, ...]]:
    """By text: ids, answer and row of each prompt."""
    table = schema.prompt.c
    with read(engine) as connection:
        rows = connection.execute(select(schema.prompt).where(table.run_id == run_id)).all()
    return {row.text: (row.ids, row.answer, row.data_row) for row in rows}


def test_a_run_on_the_prompts_of_marked_rollouts_reads_and_grades_them_alike(
    opd: Command, tmp_path: Path
) -> None:
    """With a privileged prompt, answers, and a pattern that a shell would take apart."""
    inputs = save_pair(tmp_path / "inputs")
    rows = [
        {"prompt": f"question {i}", "answer": f"'{i}'", "source": f"book {i}", "unused": i}
        for i in range(8)
    ]
    source = write_rows(inputs / "first.jsonl", rows)
    runner = JobRunner(tmp_path / "data", inputs)
    teacher = {"model": str(inputs / "teacher"), "prompt": TEACHER}
    settings = {"steps": 2, "teacher": teacher, "checkpoints": {"every": 0}}
    first = runner.queue(prompts={"source": source, **GRADER}, **settings)
    assert runner.attempt(first)["status"] == "finished"
    items = read_rollouts(runner.engine, first, limit=100)["items"]
    assert len({item["prompt"] for item in items}) > 3
    for item in items:
        add_mark(runner.engine, item["id"], None, "train on this")
    out = tmp_path / "marked prompts.jsonl"
    code, printed, err = opd("marks", first, "--prompts", str(out))
    assert (code, printed) == (0, "")
    command = shlex.split(err.splitlines()[-1])
    assert command[:3] == ["opd", "train", "RECIPE"]
    again = with_overrides({}, command[4::2])
    assert parse(again).prompts.answer_pattern == GRADER["answer_pattern"]
    second = runner.queue(prompts=again["prompts"], **settings)
    assert runner.attempt(second)["status"] == "finished"
    before, after = prompts_of(runner.engine, first), prompts_of(runner.engine, second)
    assert len(after) > 3 and after.items() <= before.items()
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert {line["prompt"] for line in lines} == set(before)
    assert all(set(line) == {"prompt", "answer", "source"} for line in lines)
    runner.engine.dispose()


def test_marks_are_listed(opd: Command, tmp_path: Path) -> None:
    engine = new_database(tmp_path / "data")
    run_id, writer = stored_runs.started(engine)
    writer.step(stored_runs.step_event(1, 2), stored_runs.texts)
    (first, second) = (item["id"] for item in read_rollouts(engine, run_id)["items"])
    add_mark(engine, first, 2, "why \u202e=1+1?\nsecond line")
    add_mark(engine, second, None, "")
    listed = json.loads(opd("marks", run_id, "--json")[1])
    assert listed["total"] == 2
    assert {(i["rollout_id"], i["position"]) for i in listed["items"]} == {
        (first, 2),
        (second, None),
    }
    printed = opd("marks", run_id)[1]
    assert first in printed and "why �=1+1?�second line" in " ".join(printed.split())
    for arguments, problem in (
        (("--prompts", "x.csv"), "Error: --prompts x.csv: must end in .jsonl (got .csv)"),
        (("--prompts", f"{tmp_path}/none/x.jsonl"), "has no prompts of marked rollouts to write"),
    ):
        code, printed, err = opd("marks", run_id, *arguments)
        assert (code, printed) == (2, "") and problem in err
    assert "no such run" in opd("marks", "run-none")[2]
    engine.dispose()
