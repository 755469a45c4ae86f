"""The diagnosis of stored runs: what is read of them, and that its links and filters lead there."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, update

from opd.diagnosis.checks import CHECKS, run_checks
from opd.types import StepEvent
from storage import schema
from storage.diagnosis import records
from storage.diagnosis.diagnose import diagnose
from storage.engine import begin, read
from storage.lookups import run_row
from storage.read.rollouts import read_rollouts
from storage.write.records import RunWriter
from tests.support import records_with_fault, stored_runs
from tests.support.api_client import Api
from tests.support.records_with_fault import ROLLOUTS, STEPS, TOKENS, another_end


def codes(diagnosis: dict[str, Any]) -> list[str]:
    return [card["code"] for card in diagnosis["items"]]


def test_stored_and_in_memory_it_is_one_diagnosis(engine: Engine) -> None:
    fault = another_end(1e-6)
    diagnosis = diagnose(engine, records_with_fault.run(engine, fault))
    in_memory = run_checks(records_with_fault.records(fault))
    assert codes(diagnosis) == ["stop-mismatch"]
    assert diagnosis["looked_at"] == in_memory["looked_at"]
    assert diagnosis["silent"] == in_memory["silent"]
    (card,), (same,) = diagnosis["items"], in_memory["items"]
    assert card["evidence"] == same["evidence"] and card["text"] == same["text"]


def test_links_and_the_filter_lead_to_stored_rollouts(engine: Engine) -> None:
    run_id = records_with_fault.run(engine, another_end(1e-6))
    (card,) = diagnose(engine, run_id)["items"]
    listed = read_rollouts(engine, run_id, limit=100, **card["filter"])["items"]
    assert {link["id"] for link in card["rollouts"]} <= {item["id"] for item in listed}
    assert {link["position"] for link in card["rollouts"]} == {TOKENS - 1}


def test_an_empty_run_is_no_error(engine: Engine) -> None:
    run_id, _ = stored_runs.started(engine)
    diagnosis = diagnose(engine, run_id)
    assert diagnosis["items"] == [] and diagnosis["looked_at"]["rollouts"] == 0
    assert len(diagnosis["silent"]) == len(CHECKS) and not any(
        s["judged"] for s in diagnosis["silent"]
    )


def test_records_without_most_columns_are_no_error(engine: Engine) -> None:
    run_id, writer = stored_runs.started(engine)
    made = []
    for number in range(40):
        whole = records_with_fault.rollout(1, number, records_with_fault.columns(TOKENS, number))
        bare = type(whole.record)(whole.record.completion_ids)
        made.append(type(whole)(**{**whole.__dict__, "record": bare}))
    writer.step(StepEvent(1, {}, 100, 1.0, {}, made), records_with_fault.texts)
    diagnosis = diagnose(engine, run_id)
    assert diagnosis["items"] == [] and diagnosis["looked_at"]["tokens"] == 40 * TOKENS


def test_damaged_records_are_left_out_and_counted(engine: Engine) -> None:
    run_id = records_with_fault.run(engine, another_end(1e-6))
    broken = read_rollouts(engine, run_id, limit=1)["items"][0]["id"]
    with begin(engine) as connection:
        table = schema.token_record
        connection.execute(
            update(table).where(table.c.rollout_id == broken).values(reverse_kl=b"\0" * 80)
        )
    diagnosis = diagnose(engine, run_id)
    assert codes(diagnosis) == ["stop-mismatch"]
    assert diagnosis["looked_at"]["damaged"] == 1
    assert diagnosis["looked_at"]["rollouts"] == STEPS * ROLLOUTS - 1


def test_a_large_run_is_looked_at_in_part(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_TOKENS", STEPS * ROLLOUTS * TOKENS // 2)
    diagnosis = diagnose(engine, records_with_fault.run(engine, another_end(1e-6)))
    seen = diagnosis["looked_at"]
    assert seen["rollouts"] == seen["skipped"] == STEPS * ROLLOUTS // 2
    assert seen["steps"] == STEPS and codes(diagnosis) == ["stop-mismatch"]


def test_a_share_is_of_every_step_and_no_one_sample(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "MAX_TOKENS", 160)
    run_id, writer = stored_runs.started(engine)
    for step in range(1, 9):
        kept = [stored_runs.rollout(step, 0, sample) for sample in range(4)]
        writer.step(StepEvent(step, {}, 80, 0.0, {}, kept), stored_runs.texts)
    with read(engine) as connection:
        run_records = records.read_run_records(connection, run_row(connection, run_id))
    assert len(run_records.ids) <= 160 and run_records.skipped == 24
    assert len({r["step"] for r in run_records.tokens.rollouts}) == 8
    assert len({r["sample"] for r in run_records.tokens.rollouts}) > 1


def test_a_finding_is_kept_until_the_run_goes_on(engine: Engine) -> None:
    run_id = records_with_fault.run(engine, another_end(1e-6))
    diagnosis = diagnose(engine, run_id)
    assert diagnose(engine, run_id) is diagnosis
    more = [
        records_with_fault.rollout(STEPS + 1, 900 + n, records_with_fault.columns(TOKENS, n))
        for n in range(3)
    ]
    writer = RunWriter(engine, run_id, 1)
    writer.step(
        StepEvent(STEPS + 1, {}, 60, 1.0, records_with_fault.HEALTHY, more),
        records_with_fault.texts,
    )
    again = diagnose(engine, run_id)
    assert again["looked_at"]["rollouts"] == diagnosis["looked_at"]["rollouts"] + 3


def test_over_rest(engine: Engine, tmp_path: Path) -> None:
    run_id = records_with_fault.run(engine, another_end(1e-6))
    api = Api(engine, tmp_path)
    answer = api.get(f"/runs/{run_id}/diagnosis")
    assert answer["total"] == 1 and answer["items"][0]["code"] == "stop-mismatch"
    assert answer == diagnose(engine, run_id)
    assert api("GET", "/runs/run-nothere/diagnosis").status_code == 404
    assert api("GET", "/runs/RUN'--/diagnosis").status_code == 422
