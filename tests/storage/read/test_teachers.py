"""Teachers by a run's configuration, on the run and on its rollouts."""

from sqlalchemy import select

from opd.config.run import parse
from opd.interchange.jsonl import rollouts_of, to_row
from opd.interchange.parquet import read_parquet, write_parquet
from opd.types import StepEvent
from storage import schema
from storage.engine import read
from storage.insights.hot_tokens import read_hot_tokens
from storage.queue import jobs
from storage.read.export import export_rows
from storage.read.rollouts import read_rollout, read_rollouts
from storage.read.runs import read_run
from storage.read.teachers import teachers_of
from storage.write.imports import import_rollouts
from tests.support import stored_runs
from tests.support.databases.matrix import new_database

EVIL = "<img src=x onerror=alert(1)>\u202e"
HINT = "You know: {answer}."


def test_several_teachers_by_route(tmp_path):
    teacher = {
        "model": "a/first",
        "route_by": "level",
        "routes": {"hard": {"model": "b/second", "system": HINT}},
    }
    engine = new_database(tmp_path)
    run_id, writer = stored_runs.started(engine, teacher=teacher)
    writer.step(StepEvent(1, {}, 1, 1.0, {}, [stored_runs.rollout(1)]), stored_runs.texts)
    first = {"path": "teacher", "route": "", "name": "a/first", "prompt": None, "system": None}
    path = "teacher.routes.hard"
    second = {"path": path, "route": "hard", "name": "b/second", "prompt": None, "system": HINT}
    assert read_run(engine, run_id)["teachers"] == [first, second]
    (item,) = read_rollouts(engine, run_id)["items"]
    assert read_rollout(engine, item["id"])["teachers"] == [first, second]
    engine.dispose()


def test_kinds_that_have_no_model_are_named_by_their_kind():
    config = parse({"teacher": {"kind": "self"}}).model_dump(mode="json")
    assert [t["name"] for t in teachers_of(config)] == ["self"]
    assert teachers_of({"teacher": {"kind": "none"}}) == teachers_of({}) == []


def test_what_the_teacher_read_is_stored_once_and_filters_the_lists(tmp_path):
    engine = new_database(tmp_path)
    teacher = {"model": "a/first", "route_by": "level", "routes": {"hard": "b/second"}}
    run_id, writer = stored_runs.started(engine, teacher=teacher)
    hard = {"teacher": "teacher.routes.hard", "teacher_prompt": f"{EVIL} {HINT}"}
    rollouts = [stored_runs.rollout(1, n, teacher="teacher") for n in range(2)]
    rollouts += [stored_runs.rollout(1, n, **hard) for n in range(2, 5)]
    writer.step(StepEvent(1, {}, 1, 1.0, {}, rollouts), stored_runs.texts)
    page = read_rollouts(engine, run_id, teacher="teacher.routes.hard")
    assert page["teachers"] == [
        {"path": "teacher", "name": "a/first"},
        {"path": "teacher.routes.hard", "name": "hard: b/second"},
    ]
    assert {item["group"] for item in page["items"]} == {2, 3, 4}
    assert {read_rollout(engine, i["id"])["teacher_prompt"] for i in page["items"]} == {
        hard["teacher_prompt"]
    }
    with read(engine) as connection:
        assert len(connection.execute(select(schema.teacher_prompt)).all()) == 1
    for more in ({}, {"text": "w"}):  # from the index, and from the records
        hot = read_hot_tokens(engine, run_id, teacher="teacher", limit=1000, **more)
        assert {item["group"] for item in hot["items"]} == {0, 1}
    rows = {row["group"]: row for row in export_rows(engine, run_id)}
    assert (rows[2]["teacher"], rows[2]["teacher_prompt"]) == (
        "hard: b/second",
        hard["teacher_prompt"],
    )
    assert rows[0]["teacher"] == "a/first" and "teacher_prompt" not in rows[0]
    engine.dispose()


def test_an_exported_run_is_imported_with_its_teachers(tmp_path):
    engine = new_database(tmp_path)
    run_id = jobs.create_run(engine, parse({"teacher": "imported"}), source="import")
    given = {"teacher": EVIL, "teacher_prompt": "Hint"}
    lines = [to_row(stored_runs.rollout(1, 0, **given)), to_row(stored_runs.rollout(1, 1))]
    lines.append(to_row(stored_runs.rollout(1, 2, teacher="teacher")))
    assert import_rollouts(engine, run_id, rollouts_of(enumerate(lines, 1), "file")) == 3
    page = read_rollouts(engine, run_id)
    assert page["teachers"] == [{"path": name, "name": name} for name in (EVIL, "teacher")]
    one = read_rollout(engine, next(i["id"] for i in page["items"] if i["group"] == 0))
    assert (one["teacher"], one["teacher_prompt"], one["teachers"]) == (EVIL, "Hint", [])
    path = tmp_path / "rows.parquet"
    assert write_parquet(path, export_rows(engine, run_id)) == 3
    again = list(rollouts_of(read_parquet(path), "file"))
    assert [r.teacher for r in again] == [EVIL, None, "teacher"]
    assert again[0].teacher_prompt == "Hint"
    engine.dispose()
