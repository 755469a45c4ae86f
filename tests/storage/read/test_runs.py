"""What pages, routes and exports read."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, event, select, update

from opd.config.run import parse
from opd.errors import UserError
from opd.interchange.jsonl import rollouts_of
from opd.interchange.parquet import read_parquet, write_parquet
from opd.types import StepEvent, TokenRecord
from storage import schema
from storage.engine import begin, read
from storage.insights.hot_tokens import read_hot_tokens
from storage.packing import COLUMNS, DamagedRecord
from storage.queue import jobs, run_details
from storage.read.export import export_rows
from storage.read.rollout_table import table_rows
from storage.read.rollouts import read_rollout, read_rollouts
from storage.read.runs import read_run, read_runs
from storage.read.tokens import EXTRA_COLUMNS, MAIN_COLUMNS, read_tokens, read_topk
from storage.text import joined_texts
from tests.support import stored_runs

EXPORTED = (
    *("run_id", "step", "kind", "group", "sample", "prompt", "completion", "prompt_token_ids"),
    *("completion_token_ids", "finish_reason", "reward", "sampler_logprobs", "student_logprobs"),
    *("teacher_logprobs", "reverse_kl", "student_entropy", "teacher_entropy", "teacher_rank"),
    *("advantages", "mask", "student_topk", "teacher_topk", "temperature"),
)


@pytest.fixture
def run_id(engine: Engine) -> str:
    """Three steps of four rollouts, and an evaluation."""
    run_id, writer = stored_runs.started(engine)
    writer.evaluation(stored_runs.evaluation_event(0, 0.5), stored_runs.texts)
    for step in (1, 2, 3):
        writer.step(stored_runs.step_event(step), stored_runs.texts)
    return run_id


def first_id(engine: Engine, run_id: str, **filters: Any) -> str:
    return str(read_rollouts(engine, run_id, **filters)["items"][0]["id"])


def damage(engine: Engine, rollout_id: str, column: str) -> None:
    table = schema.token_record
    with begin(engine) as connection:
        where = table.c.rollout_id == rollout_id
        data = bytearray(connection.execute(select(table.c[column]).where(where)).scalar_one())
        data[len(data) // 2] ^= 1
        connection.execute(update(table).where(where).values({column: bytes(data)}))


@pytest.mark.parametrize(
    ("stored", "searched"),
    [
        ("Größe ÄRGER", "größe ärger"),
        ("ΑΘΗΝΑΣ", "αθηνας"),
        ("МОСКВА", "москва"),
        ("Straße", "STRASSE"),
        ("İstanbul", "istanbul".replace("i", "i\u0307", 1)),
        ("cafe\u0301", "CAFÉ"),  # an accent of its own, and one that is part of its letter
    ],
)
def test_search_ignores_case_in_every_script(engine: Engine, stored: str, searched: str) -> None:
    named = jobs.create_run(engine, parse({"name": f"a {stored} b"}))
    tagged = jobs.create_run(engine, parse({"name": "x"}), tags=(stored,))
    noted = jobs.create_run(engine, parse({"name": "x"}))
    run_details.edit(engine, noted, run_details.RunEdit(notes=stored))
    jobs.create_run(engine, parse({"name": "another"}))
    ids = {item["id"] for item in read_runs(engine, search=searched)["items"]}
    assert ids == {named, tagged, noted}


def test_runs_are_searched_filtered_and_paged(engine: Engine) -> None:
    ids = [jobs.create_run(engine, parse({"name": f"n{n} 100%"}), recipe="r") for n in range(5)]
    run_details.edit(engine, ids[1], run_details.RunEdit(tags=["good"]))
    run_details.edit(engine, ids[2], run_details.RunEdit(notes="look at THIS"))
    jobs.request_cancel(engine, ids[3], "save")
    newest_first = ids[::-1]

    def names(**filters: Any) -> list[str]:
        answer = read_runs(engine, **filters)
        assert answer["total"] >= len(answer["items"])
        return [item["id"] for item in answer["items"]]

    assert names() == newest_first
    assert names(limit=2, offset=1) == newest_first[1:3]
    assert read_runs(engine, limit=0) == {"items": [], "total": 5}
    assert names(search="this") == [ids[2]]
    assert names(search="100%") == newest_first
    assert names(search="1_0") == []  # no wildcards
    assert names(search="GOO") == [ids[1]]  # part of a tag
    assert names(tag="good") == [ids[1]]
    assert names(tag="goo") == []
    assert names(status="cancelled") == [ids[3]]
    for wrong in ({"limit": -1}, {"limit": 10**9}, {"offset": -1}, {"offset": 2**70}):
        with pytest.raises(UserError):
            read_runs(engine, **wrong)


def test_a_thousand_runs_take_as_many_statements_as_one(engine: Engine) -> None:
    ids = [jobs.create_run(engine, parse({}), tags=["t"]) for _ in range(3)]
    row: dict[str, Any]
    with begin(engine) as connection:
        row = dict(connection.execute(select(schema.run)).mappings().first() or {})
        many = [{**row, "id": f"run-many{n:04d}", "request_key": None} for n in range(1000)]
        connection.execute(schema.run.insert(), many)
    statements: list[str] = []
    event.listen(engine, "after_cursor_execute", lambda *args: statements.append(args[2]))
    read_runs(engine, limit=1)
    for_one = len(statements)
    assert len(read_runs(engine, limit=1000)["items"]) == 1000
    assert len(statements) == 2 * for_one
    assert len(ids) == 3


def test_a_run_has_all_that_its_page_shows(engine: Engine, run_id: str) -> None:
    run = read_run(engine, run_id)
    assert run["config"] == parse({}).model_dump(mode="json")
    assert run["resolved"] == {"student": "/s", "teacher": "/t"}
    assert (run["versions"], run["tokenizer"]) == ({"torch": "2"}, "words")
    json.dumps(run, allow_nan=False)
    listed = read_runs(engine)["items"][0]
    assert {name: run[name] for name in listed if name != "seconds"} == {
        name: listed[name] for name in listed if name != "seconds"
    }


@pytest.mark.parametrize(
    "sort", ["kl_sum", "kl_mean", "kl_max", "log_ratio_sum", "tokens", "reward", "step"]
)
def test_rollouts_are_sorted_on_the_server(engine: Engine, run_id: str, sort: str) -> None:
    up = read_rollouts(engine, run_id, sort=sort)["items"]
    down = read_rollouts(engine, run_id, sort=f"-{sort}")["items"]
    assert len(up) == len(down) == 14
    assert up == sorted(up, key=lambda item: (item[sort], item["id"]))
    assert down == sorted(down, key=lambda item: (-item[sort], item["id"]))
    pages = [read_rollouts(engine, run_id, sort=sort, offset=n, limit=5) for n in (0, 5, 10)]
    assert [item for page in pages for item in page["items"]] == up


def test_what_has_no_value_is_sorted_last(engine: Engine) -> None:
    run_id, writer = stored_runs.started(engine)
    rollouts = [
        stored_runs.rollout(1, n, reward=reward) for n, reward in enumerate((None, 1.0, 0.0))
    ]
    writer.step(StepEvent(1, {}, 1, 0.0, {}, rollouts), stored_runs.texts)
    for sort, expected in (("reward", [0.0, 1.0, None]), ("-reward", [1.0, 0.0, None])):
        items = read_rollouts(engine, run_id, sort=sort)["items"]
        assert [item["reward"] for item in items] == expected


@pytest.mark.parametrize("sort", ["prompt", "id; DROP TABLE rollout", "", "--kl_sum", "-"])
def test_an_unknown_sort_is_refused(engine: Engine, run_id: str, sort: str) -> None:
    with pytest.raises(UserError, match="sort"):
        read_rollouts(engine, run_id, sort=sort)


def test_rollouts_are_filtered(engine: Engine, run_id: str) -> None:
    everything = read_rollouts(engine, run_id, limit=100)["items"]

    def count(**filters: Any) -> int:
        return int(read_rollouts(engine, run_id, **filters)["total"])

    assert count() == 14
    assert count(step=2) == 4
    assert count(kind="eval") == 2
    assert count(finish_reason="length") == 0
    assert count(correct=True) == sum(item["reward"] > 0.5 for item in everything)
    assert count(correct=True) + count(correct=False) == 14
    assert count(text="WHAT IS 3") == 3
    assert count(text=everything[0]["completion"]) >= 1
    middle = sorted(item["kl_mean"] for item in everything)[7]
    assert count(min_kl=middle) == 7
    assert read_rollouts(engine, run_id, step=2, limit=1)["total"] == 4
    with pytest.raises(UserError, match="no such"):
        read_rollouts(engine, "run-none")


def test_one_rollout(engine: Engine, run_id: str) -> None:
    rollout_id = first_id(engine, run_id, kind="train", step=1)
    rollout = read_rollout(engine, rollout_id)
    assert rollout_id.startswith(f"roll-{run_id[4:]}-1-t-")
    assert (rollout["run_id"], rollout["run_name"], rollout["objective"]) == (
        run_id,
        "run",
        "reverse_kl",
    )
    assert (rollout["top_k"], rollout["prompt_tokens"], rollout["damaged"]) == (4, 3, False)
    assert rollout["answer"] == str(rollout["group"])
    assert set(rollout["columns"]) | set(rollout["absent"]) == {
        *(name for name in COLUMNS if "_topk_" not in name),
        *("student_topk", "teacher_topk"),
    }
    assert "advantage" in rollout["absent"]["advantages"]
    assert rollout["scales"] == read_run(engine, run_id)["scales"]
    json.dumps(rollout, allow_nan=False)
    with pytest.raises(UserError, match="no such"):
        read_rollout(engine, "roll-none")


def test_tokens_are_those_that_were_written(engine: Engine) -> None:
    run_id, writer = stored_runs.started(engine)
    rollout = stored_runs.rollout()
    writer.step(StepEvent(1, {}, 20, 0.0, {}, [rollout]), stored_runs.texts)
    rollout_id = first_id(engine, run_id)
    both = (*MAIN_COLUMNS, *EXTRA_COLUMNS)
    view = read_tokens(engine, rollout_id, both)
    assert view.n == 20
    assert view.prompt_ids.tolist() == rollout.prompt_ids.tolist()
    assert "advantages" not in view.columns
    for name, array in view.columns.items():
        assert array.tolist() == getattr(rollout.record, name).tolist()
        assert array.dtype.str[0] in "<|"
    ids = {*rollout.prompt_ids.tolist(), *rollout.record.completion_ids.tolist()}
    assert set(view.texts) == ids
    assert tuple(read_tokens(engine, rollout_id).columns) == MAIN_COLUMNS
    with pytest.raises(UserError, match="columns"):
        read_tokens(engine, rollout_id, ["completion_ids", "layout"])


def test_main_columns_take_at_most_24_bytes_a_token(engine: Engine) -> None:
    run_id, writer = stored_runs.started(engine)
    big = replace(
        stored_runs.record(50), completion_ids=np.full(50, 2**18), teacher_rank=np.full(50, 2**18)
    )
    writer.step(StepEvent(1, {}, 50, 0.0, {}, [stored_runs.rollout(record=big)]), stored_runs.texts)
    view = read_tokens(engine, first_id(engine, run_id))
    assert sum(array.nbytes for array in view.columns.values()) <= 24 * 50


def test_parts_of_a_character_keep_their_bytes(engine: Engine) -> None:
    run_id, writer = stored_runs.started(engine)
    record = TokenRecord(np.array([0xE2, 0xC2, 0xAC, 4, 0]))

    def texts(ids: Any) -> dict[int, tuple[bytes, bool]]:
        return {i: (bytes([0x82]), False) if i == 0xC2 else _byte(i) for i in ids}

    def _byte(i: int) -> tuple[bytes, bool]:
        return (bytes([i]), False) if i > 127 else (f" w{i}".encode(), i == 0)

    rollout = stored_runs.rollout(record=record)
    writer.step(StepEvent(1, {}, 5, 0.0, {}, [rollout]), texts)
    view = read_tokens(engine, first_id(engine, run_id))
    assert view.texts[0xE2] == {"t": None, "b": "e2"}
    assert view.texts[4] == {"t": " w4"}
    assert view.texts[0] == {"t": " w0", "s": True}
    (row,) = export_rows(engine, run_id)
    assert row["completion_tokens"] == ["", "", "€", " w4", " w0"]


def test_joined_texts_lose_nothing() -> None:
    whole = "a€🙂b".encode()
    parts = [whole[i : i + 1] for i in range(len(whole))]
    assert "".join(joined_texts(parts)) == "a€🙂b"


def test_alternatives_at_a_token(engine: Engine) -> None:
    run_id, writer = stored_runs.started(engine)
    rollout = stored_runs.rollout()
    writer.step(StepEvent(1, {}, 20, 0.0, {}, [rollout]), stored_runs.texts)
    rollout_id = first_id(engine, run_id)
    alternatives = read_topk(engine, rollout_id, 5, 1)[0]
    teacher = rollout.record.teacher_topk
    assert teacher is not None
    assert [item["id"] for item in alternatives["teacher"]] == teacher.ids[5].tolist()
    assert [item["teacher_logprob"] for item in alternatives["teacher"]] == teacher.logprobs[
        5
    ].tolist()
    assert [item["student_logprob"] for item in alternatives["teacher"]] == [
        *teacher.other_logprobs[5].tolist()
    ]
    assert alternatives["teacher_tail"] == pytest.approx(float(teacher.tail_mass[5]))
    assert alternatives["token"]["id"] == int(rollout.record.completion_ids[5])
    fewer = read_topk(engine, rollout_id, 5, 1, count=1)[0]
    assert fewer["teacher"] == alternatives["teacher"][:1]
    outside = float(teacher.tail_mass[5]) + float(np.exp(teacher.logprobs[5][1:]).sum())
    assert fewer["teacher_tail"] == pytest.approx(outside)
    for position in (-1, 20):
        with pytest.raises(UserError, match="position"):
            read_topk(engine, rollout_id, position, 1)


def test_alternatives_without_the_other_models_opinion(engine: Engine) -> None:
    run_id, writer = stored_runs.started(engine)
    record = stored_runs.record()
    assert record.teacher_topk is not None
    bare = replace(record, teacher_topk=replace(record.teacher_topk, other_logprobs=None))
    one = stored_runs.rollout(record=bare)
    writer.step(StepEvent(1, {}, 20, 0.0, {}, [one]), stored_runs.texts)
    alternatives = read_topk(engine, first_id(engine, run_id), 3, 1)[0]
    assert {entry["student_logprob"] for entry in alternatives["teacher"]} == {None}
    assert None not in {entry["teacher_logprob"] for entry in alternatives["teacher"]}


def test_the_worst_tokens_of_a_run(engine: Engine, run_id: str) -> None:
    page = read_hot_tokens(engine, run_id, limit=100)
    assert page["total"] == 14 * 3
    heats = [item["heat"] for item in page["items"]]
    assert heats == sorted(heats, reverse=True)
    worst = page["items"][0]
    view = read_tokens(engine, worst["rollout_id"])
    at = worst["position"]
    assert worst["reverse_kl"] == float(view.columns["reverse_kl"][at])
    assert worst["reverse_kl"] == read_run(engine, run_id)["scales"]["reverse_kl"]
    assert worst["token_id"] == int(view.columns["completion_ids"][at])
    assert (worst["wanted_id"], worst["wanted_logprob"]) == (
        read_topk(engine, worst["rollout_id"], at, 1)[0]["teacher"][0]["id"],
        read_topk(engine, worst["rollout_id"], at, 1)[0]["teacher"][0]["teacher_logprob"],
    )
    ids = [int(i) for i in view.columns["completion_ids"]]
    pieces = stored_runs.texts(ids)
    around = b"".join(pieces[i][0] for i in ids[max(0, at - 6) : at]).decode("utf-8", "replace")
    assert worst["before"] == around
    only = read_hot_tokens(engine, run_id, step=2, kind="train")
    assert only["total"] == 12
    assert {item["step"] for item in only["items"]} == {2}
    json.dumps(page, allow_nan=False)


def test_a_damaged_record_is_named_and_the_rest_is_usable(engine: Engine, run_id: str) -> None:
    broken = first_id(engine, run_id, step=2)
    damage(engine, broken, "teacher_logprobs")
    items = read_rollouts(engine, run_id, limit=100)["items"]
    assert [item["id"] for item in items if item["damaged"]] == [broken]
    rollout = read_rollout(engine, broken)
    assert rollout["damaged"] and "teacher_logprobs" in rollout["damage"]
    with pytest.raises(DamagedRecord, match=broken) as caught:
        read_tokens(engine, broken)
    assert caught.value.column == "teacher_logprobs"
    for item in items:
        if item["id"] != broken:
            read_tokens(engine, item["id"])
    with pytest.raises(DamagedRecord):
        list(export_rows(engine, run_id))
    problems: list[DamagedRecord] = []
    assert len(list(export_rows(engine, run_id, problems.append))) == 13
    assert [problem.rollout_id for problem in problems] == [broken]
    damage(engine, broken, "completion_ids")
    assert read_hot_tokens(engine, run_id, limit=100)["total"] == 14 * 3


def test_a_lost_record_is_damage_too(engine: Engine, run_id: str) -> None:
    lost = first_id(engine, run_id)
    with begin(engine) as connection:
        table = schema.token_record
        connection.execute(table.delete().where(table.c.rollout_id == lost))
    assert read_rollouts(engine, run_id)["items"][0]["damaged"] is True
    assert read_rollout(engine, lost)["damaged"] is True


def test_exported_rows_have_the_agreed_form(engine: Engine) -> None:
    run_id, writer = stored_runs.started(engine)
    rollout = stored_runs.rollout(temperature=0.7)
    writer.step(StepEvent(1, {}, 20, 0.0, {}, [rollout]), stored_runs.texts)
    (row,) = export_rows(engine, run_id)
    optional = {"prompt_tokens", "completion_tokens", "token_texts", "token_bytes", "answer"}
    assert set(row) == {*EXPORTED, *optional}
    record = rollout.record
    assert row["run_id"] == run_id
    assert row["completion_token_ids"] == record.completion_ids.tolist()
    assert row["advantages"] is None
    assert row["mask"] == [1] * 20
    assert record.reverse_kl is not None and record.student_topk is not None
    assert np.array(row["reverse_kl"], np.float32).tobytes() == record.reverse_kl.tobytes()
    assert row["student_topk"][3] == [
        [i, p]
        for i, p in zip(
            record.student_topk.ids[3].tolist(),
            record.student_topk.logprobs[3].tolist(),
            strict=True,
        )
    ]
    assert (row["temperature"], row["prompt"]) == (0.7, "What is 0?")
    json.dumps(row, allow_nan=False)


def test_deleting_a_run_takes_its_records(engine: Engine, run_id: str) -> None:
    jobs.finish(engine, run_id, 1, "finished")
    with begin(engine) as connection:
        run_details.remove(connection, run_id)
    with read(engine) as connection:
        for table in schema.metadata.sorted_tables:
            left = connection.execute(select(table)).all()
            assert left == [] or table.name == "vocabulary", table.name


def test_staleness_is_listed_shown_exported_and_imported(engine: Engine, tmp_path: Path) -> None:
    run_id, writer = stored_runs.started(engine)
    rollouts = [stored_runs.rollout(1, n, staleness=s) for n, s in enumerate((None, 0, 1))]
    writer.step(StepEvent(1, {}, 60, 0.0, {}, rollouts), stored_runs.texts)
    items = read_rollouts(engine, run_id, sort="step")["items"]
    staleness = {0: None, 1: 0, 2: 1}
    assert {i["group"]: i["staleness"] for i in items} == staleness
    assert {i["group"]: read_rollout(engine, i["id"])["staleness"] for i in items} == staleness
    assert {row["group"]: row["staleness"] for row in table_rows(engine, run_id)} == staleness
    exported = list(export_rows(engine, run_id))
    assert {row["group"]: row.get("staleness") for row in exported} == staleness
    assert "staleness" not in exported[0]
    assert [r.staleness for r in rollouts_of(enumerate(exported, 1), "file")] == [None, 0, 1]
    write_parquet(tmp_path / "rows.parquet", exported)
    again = rollouts_of(read_parquet(tmp_path / "rows.parquet"), "file")
    assert [r.staleness for r in again] == [None, 0, 1]
    with pytest.raises(UserError, match="staleness: must be a whole number from 0"):
        list(rollouts_of([(1, exported[0] | {"staleness": -1})], "file"))
