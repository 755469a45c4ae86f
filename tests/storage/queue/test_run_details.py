"""What people change on a run: checked, stored, and undone where it can be."""

import pytest
from sqlalchemy import Engine

from opd.config.run import parse
from opd.errors import UserError
from storage.engine import begin
from storage.queue import jobs, run_details
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
    run_details.rename(engine, run_id, "  <b>'; DROP TABLE run; --\ud800 ")
    run_details.set_tags(engine, run_id, ["x", "y"])
    run_details.set_notes(engine, run_id, "noted")
    run = read_run(engine, run_id)
    assert run["name"] == "<b>'; DROP TABLE run; --?"
    assert (run["tags"], run["notes"]) == (["x", "y"], "noted")
    for call in (
        lambda: run_details.rename(engine, run_id, "  "),
        lambda: run_details.rename(engine, run_id, "n" * 201),
        lambda: run_details.set_tags(engine, run_id, [""]),
        lambda: run_details.set_tags(engine, run_id, [str(n) for n in range(51)]),
        lambda: run_details.set_notes(engine, run_id, "n" * 20_001),
    ):
        with pytest.raises(UserError):
            call()
    with pytest.raises(UserError, match="run-none"):
        run_details.rename(engine, "run-none", "x")
    assert read_run(engine, run_id)["tags"] == ["x", "y"]
