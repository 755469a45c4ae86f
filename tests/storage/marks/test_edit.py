"""Marks are checked, edited by one at a time, and live as long as their run."""

import pytest
from sqlalchemy import Engine, select

from opd.errors import StaleEditError, UserError
from opd.types import Mark
from storage import schema
from storage.engine import begin, read
from storage.marks import edit
from storage.marks.edit import add_mark, edit_mark, insert_marks, remove_mark
from storage.marks.listing import read_mark, read_marks, read_rollout_marks
from storage.queue import jobs, run_details
from storage.read.rollouts import read_rollouts
from tests.support import stored_runs

HOSTILE = "<img src=x onerror=alert(1)>\n{{x}} ${1} \u202e =1+1"


@pytest.fixture
def marked(engine: Engine) -> tuple[Engine, str, str]:
    """A run of one step, and a rollout of it with 20 tokens."""
    run_id, writer = stored_runs.started(engine)
    writer.step(stored_runs.step_event(1, 2), stored_runs.texts)
    jobs.finish(engine, run_id, 1, "finished")
    return engine, run_id, read_rollouts(engine, run_id)["items"][0]["id"]


def test_a_mark_is_stored_changed_and_removed(marked: tuple[Engine, str, str]) -> None:
    engine, run_id, rollout_id = marked
    whole = add_mark(engine, rollout_id, None, "")
    token = add_mark(engine, rollout_id, 19, f"  {HOSTILE}\r\n")
    first, second = read_rollout_marks(engine, rollout_id)
    assert (first["id"], first["position"], first["note"]) == (whole, None, "")
    assert (second["id"], second["position"], second["note"]) == (token, 19, HOSTILE)
    assert (second["version"], second["run_id"]) == (1, run_id)
    edit_mark(engine, token, "other \ud800", version=1)
    changed = read_mark(engine, token)
    assert (changed["note"], changed["version"]) == ("other ?", 2)
    assert changed["changed_at"] >= changed["created_at"]
    edit_mark(engine, token, "other ?")
    assert read_mark(engine, token)["version"] == 2
    remove_mark(engine, token, version=2)
    assert [one["id"] for one in read_marks(engine, run_id)["items"]] == [whole]
    for call in (read_mark, remove_mark, lambda e, name: edit_mark(e, name, "")):
        with pytest.raises(UserError, match="no such mark") as caught:
            call(engine, token)
        assert caught.value.kind == "not found"


def test_nobody_overwrites_what_another_has_noted(marked: tuple[Engine, str, str]) -> None:
    engine, _, rollout_id = marked
    name = add_mark(engine, rollout_id, 3, "mine")
    with pytest.raises(StaleEditError, match="has a mark there already") as caught:
        add_mark(engine, rollout_id, 3, "yours")
    assert (caught.value.current["id"], caught.value.current["note"]) == (name, "mine")
    edit_mark(engine, name, "theirs", version=1)
    for call in (
        lambda: edit_mark(engine, name, "mine again", version=1),
        lambda: remove_mark(engine, name, version=1),
    ):
        with pytest.raises(StaleEditError) as stale:
            call()
        assert (stale.value.current["note"], stale.value.current["version"]) == ("theirs", 2)
    assert read_mark(engine, name)["note"] == "theirs"


def test_what_cannot_be_marked_is_refused(
    marked: tuple[Engine, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, run_id, rollout_id = marked
    for position, note, problem in (
        (20, "", r"position: must be 0 to 19 \(got 20\)"),
        (-1, "", "position: must be 0 to 19"),
        (0, "n" * 2001, r"note: must have at most 2000 characters \(got 2001\)"),
        (0, "a\x1b[2J", r"note: must not hold control characters \(U\+001B is character 2\)"),
        (0, "a\u2028b", "U\\+2028"),
        (0, "a\tb", "U\\+0009"),
    ):
        with pytest.raises(UserError, match=problem):
            add_mark(engine, rollout_id, position, note)
    with pytest.raises(UserError, match="no such run or rollout"):
        add_mark(engine, "roll-none", None, "")
    monkeypatch.setattr(edit, "MAX_MARKS", 1)
    add_mark(engine, rollout_id, 0, "n" * 2000)
    with pytest.raises(UserError, match=r"at most 1 marks \(has 1\)"):
        add_mark(engine, rollout_id, 1, "")
    assert read_marks(engine, run_id)["total"] == 1


def test_marks_are_hidden_and_removed_with_their_run(marked: tuple[Engine, str, str]) -> None:
    engine, run_id, rollout_id = marked
    name = add_mark(engine, rollout_id, None, "x")
    run_details.delete_run(engine, run_id)
    for call in (
        lambda: read_marks(engine, run_id),
        lambda: read_mark(engine, name),
        lambda: edit_mark(engine, name, "y"),
        lambda: remove_mark(engine, name),
    ):
        with pytest.raises(UserError) as caught:
            call()
        assert caught.value.kind == "not found"
    run_details.restore_run(engine, run_id)
    assert read_mark(engine, name)["note"] == "x"
    with begin(engine) as connection:
        run_details.remove(connection, run_id)
    with read(engine) as connection:
        assert connection.execute(select(schema.mark)).all() == []


def test_marks_of_a_file_have_room_or_none_is_stored(
    marked: tuple[Engine, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, run_id, rollout_id = marked
    monkeypatch.setattr(edit, "MAX_MARKS", 1)
    places = [{"rollout_id": rollout_id, "completion": "x"}] * 2
    with pytest.raises(UserError, match="at most 1"), begin(engine) as connection:
        insert_marks(connection, run_id, places, [Mark(None, ""), Mark(0, "")])
    assert read_marks(engine, run_id)["items"] == []
