"""Columns of the run table: their values, order, pages, groups, and what is refused."""

from typing import Any

import pytest
from sqlalchemy import Engine, event, select

from opd.config.run import parse
from opd.errors import UserError
from storage import schema
from storage.engine import begin, read
from storage.queue import jobs, run_details
from storage.run_table.table import TableQuery, read_columns, read_table
from tests.support import stored_runs

RATE = "optimizer.learning_rate"


def made(engine: Engine, name: str, *losses: float, **config: Any) -> str:
    """A run with these losses in its steps; it has ended."""
    run_id, writer = stored_runs.started(engine, slot=f"slot {name}", name=name, **config)
    for step, loss in enumerate(losses, 1):
        writer.step(stored_runs.step_event(step, rollouts=1, loss=loss), stored_runs.texts)
    assert jobs.finish(engine, run_id, 1, "finished")
    return run_id


def names(engine: Engine, **query: Any) -> list[str]:
    return [item["name"] for item in read_table(engine, TableQuery(**query))["items"]]


def rate(value: float) -> dict[str, Any]:
    return {"optimizer": {"learning_rate": value}}


def test_metrics_and_settings_are_columns(engine: Engine) -> None:
    made(engine, "a", 3.0, 1.0, 2.0, **rate(1e-3), seed=7)
    columns = ("loss", "loss:best", "loss:max", RATE, "evaluation.temperatures", "seed", "name")
    more = ("evaluation.temperatures.1", "teacher.routes", "student.lora.rank", "score:best")
    table = read_table(engine, TableQuery(columns=[*columns, *more]))
    assert table["items"][0]["columns"] == {
        "loss": 2.0,
        "loss:best": 1.0,
        "loss:max": 3.0,
        RATE: 1e-3,
        "evaluation.temperatures": [1.0, 0.0],
        "seed": 7,
        "name": "a",
        "evaluation.temperatures.1": 0.0,
        "teacher.routes": {},
        "student.lora.rank": None,
        "score:best": None,
    }
    kinds = {column["id"]: column["kind"] for column in table["columns"]}
    assert kinds["loss:best"] == "metric" and kinds[RATE] == "setting" and kinds["seed"] == "run"
    assert "groups" not in table and "group" not in table["items"][0]


def test_scores_are_columns(engine: Engine) -> None:
    _, writer = stored_runs.started(engine, name="a")
    for step, value in ((0, 0.25), (1, 0.75), (2, 0.5)):
        writer.evaluation(stored_runs.evaluation_event(step, value), stored_runs.texts)
    columns = ("score", "score:best", "eval/held-out/pass@1:min", "eval/held-out greedy/pass@1")
    table = read_table(engine, TableQuery(columns=columns))
    assert list(table["items"][0]["columns"].values()) == [0.5, 0.75, 0.25, 0.25]
    best = table["columns"][1]
    assert (best["label"], best["share"], best["goal"]) == ("Score, best", True, "high")
    assert "held-out greedy pass@k" in [column["label"] for column in table["columns"]]


def test_any_column_sorts_with_the_missing_last_and_equal_ones_newest_first(
    engine: Engine,
) -> None:
    for name, losses in (("b", [2.0]), ("none", []), ("A", [1.0]), ("c", [2.0]), ("d", [9.0])):
        made(engine, name, *losses)
    assert names(engine, sort="loss") == ["A", "c", "b", "d", "none"]
    assert names(engine, sort="loss", order="desc") == ["d", "c", "b", "A", "none"]
    assert names(engine, sort="name") == ["A", "b", "c", "d", "none"]
    assert names(engine, sort="created_at") == ["b", "none", "A", "c", "d"]
    assert names(engine) == ["d", "c", "A", "none", "b"]
    pages = [names(engine, sort="loss", limit=2, offset=offset) for offset in (0, 2, 4, 6)]
    assert pages == [["A", "c"], ["b", "d"], ["none"], []]
    table = read_table(engine, TableQuery(sort="loss", search="none"))
    assert (table["total"], table["columns"]) == (1, [])


def test_a_setting_of_several_kinds_still_sorts(engine: Engine) -> None:
    made(engine, "list", evaluation={"temperatures": [0.5]})
    made(engine, "text", prompts={"template_args": {"effort": "low"}})
    made(engine, "number", prompts={"template_args": {"effort": 3}})
    made(engine, "truth", prompts={"template_args": {"effort": True}})
    field = "prompts.template_args.effort"
    assert names(engine, sort=field) == ["truth", "number", "text", "list"]
    assert names(engine, sort="evaluation.temperatures")[0] == "list"


def test_groups_stand_together_with_counts_over_all_pages(engine: Engine) -> None:
    for name, loss, value in (
        *(("a", 4.0, 1e-3), ("b", 1.0, 1e-4), ("c", 2.0, 1e-3)),
        *(("d", 3.0, 1e-4), ("e", 6.0, 1e-3)),
    ):
        made(engine, name, loss, **rate(value))
    query = TableQuery(columns=("loss",), sort="loss", group=RATE, limit=3)
    table = read_table(engine, query)
    assert [(i["name"], i["group"]) for i in table["items"]] == [("b", 0), ("d", 0), ("c", 1)]
    assert (table["total"], table["groups_total"], table["group"]["id"]) == (5, 2, RATE)
    first, second = table["groups"]
    assert (first["value"], first["runs"], first["offset"]) == (1e-4, 2, 0)
    assert (second["value"], second["runs"], second["offset"]) == (1e-3, 3, 2)
    loss = second["columns"]["loss"]
    assert (loss["n"], loss["mean"], loss["min"], loss["max"], loss["best"]) == (3, 4, 2, 6, 2)
    assert loss["deviation"] == pytest.approx(2.0)
    rest = read_table(engine, TableQuery(sort="loss", group=RATE, limit=3, offset=3))
    assert [(i["name"], i["group"]) for i in rest["items"]] == [("a", 0), ("e", 0)]
    assert rest["groups"][0]["runs"] == 3 and "kl" in rest["groups"][0]["columns"]


def test_runs_without_the_setting_are_a_group_of_their_own_at_the_end(engine: Engine) -> None:
    made(engine, "plain")
    made(engine, "lora", student={"lora": {"rank": 8}})
    made(engine, "other", student={"lora": {"rank": 4}})
    table = read_table(engine, TableQuery(group="student.lora.rank"))
    assert [g["value"] for g in table["groups"]] == [4, 8, None]
    assert [g["columns"] for g in table["groups"]] == [{}, {}, {}]


@pytest.mark.parametrize(
    ("query", "field", "part"),
    [
        ({"columns": ("nope",)}, "columns", "no column 'nope'"),
        ({"columns": ("learning_rat",)}, "columns", "learning_rate"),
        ({"columns": ("temperature",)}, "columns", "sampling.temperature"),
        ({"sort": "optimizer.learning_rat"}, "sort", RATE),
        ({"group": "optimiser"}, "group", "no column"),
        ({"group": "loss"}, "group", "group by a setting"),
        ({"columns": ("learning_rate:best",)}, "columns", "learning_rate:min"),
        ({"columns": ("loss:mean",)}, "columns", ":best, :min, :max"),
        ({"columns": ("system/cpu",)}, "columns", "recorded in the run's folder"),
        ({"columns": tuple(f"c{n}" for n in range(41))}, "columns", "at most 40"),
        ({"limit": -1}, "limit", "must be 0"),
        ({"offset": -1}, "offset", "must be 0"),
    ],
)
def test_what_is_no_column_is_refused_with_what_is_close(
    engine: Engine, query: dict[str, Any], field: str, part: str
) -> None:
    made(engine, "a", 1.0)
    with pytest.raises(UserError) as refused:
        read_table(engine, TableQuery(**query))
    assert refused.value.where == field and part in refused.value.message


def test_settings_that_runs_of_before_had_are_columns_too(engine: Engine) -> None:
    run_id = made(engine, "old")
    with begin(engine) as connection:
        config = parse({}).model_dump(mode="json") | {"gone": {"by.name": 3}}
        connection.execute(schema.run.update().values(config=config))
    table = read_table(engine, TableQuery(columns=("gone.by.name",), sort="gone.by.name"))
    assert (table["items"][0]["id"], table["items"][0]["columns"]) == (run_id, {"gone.by.name": 3})


def test_the_list_of_columns_says_which_settings_differ(engine: Engine) -> None:
    made(engine, "a", 1.0, **rate(1e-3))
    made(engine, "b", 2.0, **rate(1e-4))
    listed = read_columns(engine)
    by_id = {column["id"]: column for column in listed["items"]}
    assert len(by_id) == listed["total"]
    assert by_id[RATE]["different"] and by_id["name"]["kind"] == "run"
    assert not by_id["optimizer.beta1"]["different"]
    assert by_id["loss:best"]["label"] == "Loss, best" and "learning_rate:best" not in by_id
    assert "rate" in by_id[RATE]["help"]
    columns = [name for name in by_id if name not in ("evaluation.lm_eval",)]
    for start in range(0, len(columns), 40):
        read_table(engine, TableQuery(columns=columns[start : start + 40]))


def test_deleted_runs_have_no_columns(engine: Engine) -> None:
    run_id, writer = stored_runs.started(engine)
    writer.step(stored_runs.step_event(1, rollouts=1, special=2.0), stored_runs.texts)
    assert jobs.finish(engine, run_id, 1, "finished")
    assert read_table(engine, TableQuery(sort="special"))["total"] == 1
    run_details.delete_run(engine, run_id)
    with pytest.raises(UserError):
        read_table(engine, TableQuery(sort="special"))


def test_a_thousand_runs_are_sorted_and_grouped_by_as_many_statements_as_one(
    engine: Engine,
) -> None:
    made(engine, "a", *[1.0 / n for n in range(1, 4)])
    query = TableQuery(columns=("loss:best", RATE), sort="loss", group="seed", limit=1000)
    statements: list[str] = []
    event.listen(engine, "after_cursor_execute", lambda *args: statements.append(args[2]))
    assert read_table(engine, query)["total"] == 1
    for_one = len(statements)
    with read(engine) as connection:
        row = dict(connection.execute(select(schema.run)).mappings().one())
    with begin(engine) as connection:
        many = []
        for n in range(1000):
            changed = {"figures": {**row["figures"], "loss": [n % 7, n % 7, n]}}
            many.append({**row, "id": f"run-many{n:04d}", "request_key": None, **changed})
        connection.execute(schema.run.insert(), many)
    statements.clear()
    page = read_table(engine, query)
    assert (page["total"], page["groups"][0]["runs"]) == (1001, 1001)
    assert len(statements) == for_one
