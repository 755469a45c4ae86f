"""What people change on a run: checked, stored, and undone where it can be."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine

from opd.config.run import parse
from opd.errors import StaleEditError, UserError
from storage.engine import begin
from storage.queue import jobs, run_details
from storage.queue.run_details import RunEdit, edit
from storage.read.runs import read_run, read_runs
from tests.support.stored_runs import OWNER

CONFIG = parse({})


def test_delete_can_be_undone_until_the_run_is_removed(engine: Engine) -> None:
    run_id = jobs.create_run(engine, CONFIG)
    assert jobs.claim(engine, run_id, "cpu", OWNER) == 1
    with pytest.raises(UserError, match="cancel it first"):
        run_details.delete_run(engine, run_id)
    jobs.finish(engine, run_id, 1, "finished")
    run_details.delete_run(engine, run_id)
    assert read_runs(engine)["total"] == 0
    with pytest.raises(UserError, match="no such") as caught:
        read_run(engine, run_id)
    assert caught.value.kind == "not found"
    run_details.restore_run(engine, run_id)
    assert read_run(engine, run_id)["status"] == "finished"
    with begin(engine) as connection:
        run_details.remove(connection, run_id)
    with pytest.raises(UserError):
        run_details.restore_run(engine, run_id)


def test_a_deleted_run_is_not_started(engine: Engine) -> None:
    run_id = jobs.create_run(engine, CONFIG)
    run_details.delete_run(engine, run_id)
    assert jobs.next_queued(engine) == []
    assert jobs.claim(engine, run_id, "cpu", OWNER) is None


def test_labels_are_checked_and_stored(engine: Engine) -> None:
    run_id = jobs.create_run(engine, CONFIG)
    name = "  <b>'; DROP TABLE run; --\ud800 "
    edit(engine, run_id, RunEdit(name=name, tags=["x", "y"], notes="noted"))
    run = read_run(engine, run_id)
    assert run["name"] == "<b>'; DROP TABLE run; --?"
    assert (run["tags"], run["notes"]) == (["x", "y"], "noted")
    for call in (
        lambda: edit(engine, run_id, RunEdit(name="  ")),
        lambda: edit(engine, run_id, RunEdit(name="n" * 201)),
        lambda: edit(engine, run_id, RunEdit(tags=[""])),
        lambda: edit(engine, run_id, RunEdit(tags=[str(n) for n in range(51)])),
        lambda: edit(engine, run_id, RunEdit(notes="n" * 20_001)),
    ):
        with pytest.raises(UserError):
            call()
    with pytest.raises(UserError, match="run-none"):
        edit(engine, "run-none", RunEdit(name="x"))
    assert read_run(engine, run_id)["tags"] == ["x", "y"]


def test_control_characters_are_refused_in_names_and_tags(engine: Engine) -> None:
    run_id = jobs.create_run(engine, CONFIG)
    for text in ("a\nb", "a\tb", "\x1b[31mred", "bell\x07", "a\x7f", "a\u2028b", "a\x85b"):
        for change in (RunEdit(name=text), RunEdit(tags=[text]), RunEdit(add_tags=[text])):
            with pytest.raises(UserError, match="control characters"):
                edit(engine, run_id, change)
        with pytest.raises(UserError, match=r"^name: must not hold control characters"):
            jobs.create_run(engine, parse({"name": text}))
    stored = read_run(engine, run_id)
    assert (stored["name"], stored["tags"], stored["version"]) == ("run", [], 1)
    edit(engine, run_id, RunEdit(name="Größe 模型 👩\u200d🔬"))  # a joiner is part of the sign
    assert read_runs(engine)["total"] == 1


def test_tags_are_added_and_removed_beside_those_of_others(engine: Engine) -> None:
    run_id = jobs.create_run(engine, CONFIG, tags=("a", "b"))
    edit(engine, run_id, RunEdit(add_tags=["c", "a"], remove_tags=["b", "none"]))
    assert read_run(engine, run_id)["tags"] == ["a", "c"]
    with pytest.raises(UserError, match="'c' is to be added and removed"):
        edit(engine, run_id, RunEdit(add_tags=["c"], remove_tags=["c"]))
    with pytest.raises(UserError, match=r"at most 50 tags .would be 51"):
        edit(engine, run_id, RunEdit(add_tags=[f"t{n}" for n in range(49)]))
    assert read_run(engine, run_id)["tags"] == ["a", "c"]
    with ThreadPoolExecutor(8) as pool:  # at once: nobody's tag is lost
        adds = [RunEdit(add_tags=[f"n{n}"]) for n in range(8)]
        list(pool.map(lambda change: edit(engine, run_id, change), adds))
    assert read_run(engine, run_id)["tags"] == ["a", "c", *(f"n{n}" for n in range(8))]


def test_an_edit_of_an_older_version_is_refused_as_a_whole(engine: Engine) -> None:
    run_id = jobs.create_run(engine, CONFIG, tags=("a",))
    assert read_run(engine, run_id)["version"] == 1
    edit(engine, run_id, RunEdit(name="first", notes="n"), version=1)
    edit(engine, run_id, RunEdit(name="first", add_tags=["a"]), version=2)  # changes nothing
    assert read_run(engine, run_id)["version"] == 2
    with pytest.raises(StaleEditError, match="edited by somebody else") as caught:
        edit(engine, run_id, RunEdit(name="second", add_tags=["b"]), version=1)
    assert caught.value.current == {"version": 2, "name": "first", "notes": "n", "tags": ["a"]}
    stored = read_run(engine, run_id)
    assert (stored["name"], stored["tags"], stored["version"]) == ("first", ["a"], 2)
    with pytest.raises(UserError):  # of two parts, one cannot be stored: neither is
        edit(engine, run_id, RunEdit(name="third", notes="n" * 20_001))
    assert read_run(engine, run_id)["name"] == "first"
