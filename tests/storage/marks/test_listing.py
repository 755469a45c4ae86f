"""Marks with what they stand on, and what becomes of them when a run is resumed."""

from dataclasses import replace

from sqlalchemy import Engine

from opd.types import StepEvent
from storage.marks.edit import add_mark
from storage.marks.listing import read_marks, read_rollout_marks
from storage.queue import jobs
from storage.read.rollouts import read_rollouts
from storage.write.records import RunWriter
from tests.support import stored_runs


def marked_run(engine: Engine, steps: int = 2) -> tuple[str, RunWriter, list[str]]:
    """The ids are those of the rollouts by step and group."""
    run_id, writer = stored_runs.started(engine)
    for step in range(1, steps + 1):
        writer.step(stored_runs.step_event(step, 2), stored_runs.texts)
    items = read_rollouts(engine, run_id)["items"]
    return run_id, writer, [i["id"] for i in sorted(items, key=lambda i: (i["step"], i["group"]))]


def test_a_list_shows_rollout_and_token_in_context(engine: Engine) -> None:
    run_id, _, ids = marked_run(engine)
    add_mark(engine, ids[3], 1, "late")
    add_mark(engine, ids[0], None, "whole")
    add_mark(engine, ids[0], 0, "first")
    add_mark(engine, ids[0], 19, "last")
    page = read_marks(engine, run_id)
    assert page["total"] == 4
    assert [i["note"] for i in page["items"]] == ["whole", "first", "last", "late"]
    whole, first, last, late = page["items"]
    assert (whole["text"], whole["before"], whole["after"]) == (None, None, None)
    assert whole["completion"].startswith("It is ") and whole["prompt"] == "What is 0?"
    assert first["text"] and first["before"] == "" and first["after"]
    assert last["text"] and last["before"] and last["after"] == ""
    assert (late["step"], late["kind"], late["group"], late["sample"]) == (2, "train", 1, 0)
    assert not any(i["rewritten"] for i in page["items"])
    assert [i["note"] for i in read_marks(engine, run_id, offset=1, limit=2)["items"]] == [
        "first",
        "last",
    ]
    assert len(read_rollout_marks(engine, ids[0])) == 3


def test_rollouts_are_filtered_by_their_marks(engine: Engine) -> None:
    run_id, _, ids = marked_run(engine)
    for position in (None, 4):
        add_mark(engine, ids[2], position, "")
    items = read_rollouts(engine, run_id)["items"]
    assert {i["id"]: i["marked"] for i in items} == {**dict.fromkeys(ids, 0), ids[2]: 2}
    assert [i["id"] for i in read_rollouts(engine, run_id, marked=True)["items"]] == [ids[2]]
    assert read_rollouts(engine, run_id, marked=False)["total"] == 3


def test_marks_outlive_that_a_resumed_run_writes_steps_again(engine: Engine) -> None:
    """The same text keeps its mark, another text says so, and what is gone is still listed."""
    run_id, _, ids = marked_run(engine)
    for name in ids[2:]:
        add_mark(engine, name, 3, f"on {name}")
    jobs.finish(engine, run_id, 1, "interrupted")
    jobs.requeue(engine, run_id)
    assert jobs.claim(engine, run_id, "cpu", stored_runs.OWNER) == 2
    writer = RunWriter(engine, run_id, 2)
    writer.truncate_after(1)
    event = stored_runs.step_event(2, 1)
    writer.step(event, stored_runs.texts)
    same, gone = read_marks(engine, run_id)["items"]
    assert (same["rollout_id"], same["rewritten"], same["step"]) == (ids[2], False, 2)
    assert same["text"] is not None
    assert (gone["rollout_id"], gone["step"], gone["text"]) == (ids[3], None, None)
    assert gone["completion"] is None and not gone["rewritten"]
    short = replace(
        stored_runs.rollout(2, 0), completion="Other.", record=stored_runs.record(tokens=2)
    )
    writer.step(StepEvent(2, {}, 2, 1.0, {}, [short]), stored_runs.texts)
    (other,) = read_rollout_marks(engine, ids[2])
    assert (other["rewritten"], other["completion"], other["text"]) == (True, "Other.", None)
