"""The queue: one run in a slot, one attempt at a run, whoever asks and however often."""

import multiprocessing
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, update
from sqlalchemy.exc import IntegrityError

from opd.config.run import parse
from opd.errors import ErrorKind, UserError
from storage import schema
from storage.engine import begin, open_database
from storage.queue import jobs
from storage.read.runs import read_run, read_runs
from tests.support.databases.matrix import address, new_database
from tests.support.stored_runs import OWNER

CONFIG = parse({})


def claimed(engine: Engine, slot: str = "cpu") -> tuple[str, int]:
    run_id = jobs.create_run(engine, CONFIG)
    attempt = jobs.claim(engine, run_id, slot, OWNER)
    assert attempt is not None
    return run_id, attempt


def status(engine: Engine, run_id: str) -> str:
    return str(read_run(engine, run_id)["status"])


def test_a_run_starts_queued_under_its_name(engine: Engine) -> None:
    named = jobs.create_run(engine, parse({"name": "mine"}), recipe="demo", tags=["b", "a", "a"])
    recipe = jobs.create_run(engine, CONFIG, recipe="demo", parent=named)
    bare = jobs.create_run(engine, CONFIG)
    names = {run_id: read_run(engine, run_id)["name"] for run_id in (named, recipe, bare)}
    assert names == {named: "mine", recipe: "demo", bare: "run"}
    assert read_run(engine, named)["tags"] == ["a", "b"]
    assert read_run(engine, recipe)["parent"] == named
    assert named.startswith("run-") and len(named) == 12
    assert [item["id"] for item in jobs.next_queued(engine)] == [named, recipe, bare]


def test_a_run_keeps_local_paths_for_whatever_directory_goes_on_with_it(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    run_id = jobs.create_run(engine, parse({"student": "./s", "prompts": "../rows.jsonl"}))
    stored = read_run(engine, run_id)
    assert stored["config"]["student"]["model"] == str(tmp_path / "there" / "s")
    assert stored["config"]["prompts"]["source"] == str(tmp_path / "rows.jsonl")
    assert stored["student"] == "./s"  # lists show it as it was given


def test_fifty_identical_starts_are_one_run(engine: Engine) -> None:
    with ThreadPoolExecutor(50) as pool:
        starts = [
            pool.submit(jobs.create_run, engine, CONFIG, request_key="once") for _ in range(50)
        ]
        ids = {start.result() for start in starts}
    assert len(ids) == 1
    assert read_runs(engine)["total"] == 1
    assert jobs.create_run(engine, CONFIG, request_key="twice") not in ids


def test_one_slot_has_one_run(engine: Engine) -> None:
    run_id, attempt = claimed(engine)
    other = jobs.create_run(engine, CONFIG)
    assert attempt == 1
    assert jobs.claim(engine, run_id, "cuda:0", OWNER) is None
    assert jobs.claim(engine, other, "cpu", OWNER) is None
    [holder] = jobs.running(engine)
    assert (holder["id"], holder["owner"], holder["slot"]) == (run_id, OWNER, "cpu")
    assert jobs.claim(engine, other, "cuda:0", OWNER) == 1
    assert {item["slot"] for item in jobs.running(engine)} == {"cpu", "cuda:0"}


def test_a_run_of_two_slots_holds_both(engine: Engine) -> None:
    run_id, _ = claimed(engine, "cuda:0,cuda:2")
    other = jobs.create_run(engine, parse({"devices": 2}))
    assert jobs.next_queued(engine)[0]["devices"] == 2
    for taken in ("cuda:0", "cuda:2", "cuda:1,cuda:2"):
        assert jobs.claim(engine, other, taken, OWNER) is None
    assert jobs.claim(engine, other, "cuda:1,cuda:3", OWNER) == 1
    assert status(engine, run_id) == status(engine, other) == "running"


def test_a_slot_is_that_of_its_machine_or_cluster_job(engine: Engine) -> None:
    claimed(engine)
    elsewhere, third, fourth = (jobs.create_run(engine, CONFIG) for _ in range(3))
    assert jobs.claim(engine, elsewhere, "cpu", replace(OWNER, boot="another")) == 1
    assert jobs.claim(engine, third, "cpu", OWNER, pool="slurm:17") == 1
    assert jobs.claim(engine, fourth, "cpu", OWNER) is None
    pools = {row["id"]: row["pool"] for row in jobs.running(engine)}
    assert (pools[elsewhere], pools[third]) == ("another", "slurm:17")


def test_the_database_itself_refuses_a_second_run_in_a_slot(engine: Engine) -> None:
    claimed(engine)
    other, _ = claimed(engine, "cuda:0")
    with pytest.raises(IntegrityError), begin(engine) as connection:
        connection.execute(update(schema.run).where(schema.run.c.id == other).values(slot="cpu"))


def test_processes_and_threads_that_claim_at_once_get_one_each(tmp_path: Path) -> None:
    engine = new_database(tmp_path)
    ids = [jobs.create_run(engine, CONFIG) for _ in range(4)]
    context = multiprocessing.get_context("spawn")
    with context.Pool(3) as pool:
        attempts = pool.starmap(_claim_all, [(address(tmp_path), ids)] * 3)
    won = [claim for claims in attempts for claim in claims]
    assert sorted(won) == sorted((run_id, f"slot {n}") for n, run_id in enumerate(ids))
    assert len(jobs.running(engine)) == 4
    engine.dispose()


def _claim_all(database: Path | str, ids: list[str]) -> list[tuple[str, str]]:
    engine = open_database(database)

    def claim(n: int) -> list[tuple[str, str]]:
        slot = f"slot {n % len(ids)}"
        run_id = ids[n % len(ids)]
        return [(run_id, slot)] if jobs.claim(engine, run_id, slot, OWNER) else []

    with ThreadPoolExecutor(8) as pool:
        won = [pair for pairs in pool.map(claim, range(32)) for pair in pairs]
    engine.dispose()
    return won


def test_an_old_attempt_has_lost_its_lease(engine: Engine) -> None:
    run_id, first = claimed(engine)
    assert jobs.heartbeat(engine, run_id, first) is None
    assert jobs.finish(engine, run_id, first, "interrupted", jobs.Failure(ErrorKind.KILLED, ""))
    second = jobs.claim(engine, run_id, "cpu", OWNER)
    assert second == 2
    assert read_run(engine, run_id)["error_kind"] == ""
    late = (
        lambda: jobs.heartbeat(engine, run_id, first),
        lambda: jobs.set_phase(engine, run_id, first, "late"),
    )
    for call in late:
        with pytest.raises(jobs.LeaseLost):
            call()
    assert not jobs.finish(engine, run_id, first, "failed")
    assert status(engine, run_id) == "running"
    assert jobs.finish(engine, run_id, 2, "finished")
    assert not jobs.finish(engine, run_id, 2, "failed")
    with pytest.raises(jobs.LeaseLost):
        jobs.heartbeat(engine, run_id, 2)


def test_owner_phase_and_error_are_kept(engine: Engine) -> None:
    run_id, attempt = claimed(engine)
    jobs.set_phase(engine, run_id, attempt, "sampling")
    assert jobs.running(engine)[0]["owner"] == OWNER
    assert read_run(engine, run_id)["phase"] == "sampling"
    jobs.finish(engine, run_id, attempt, "failed", jobs.Failure(ErrorKind.NAN_LOSS, "x"))
    run = read_run(engine, run_id)
    assert (run["error_kind"], run["error_text"], run["hint"]) == (
        "nan loss",
        "x",
        ErrorKind.NAN_LOSS.hint,
    )
    assert run["phase"] == "" and run["finished_at"] >= run["started_at"]


def test_a_cancelled_run(engine: Engine) -> None:
    queued = jobs.create_run(engine, CONFIG)
    assert jobs.request_cancel(engine, queued, "save") == "cancelled"
    run_id, attempt = claimed(engine)
    assert jobs.request_cancel(engine, run_id, "save") == "running"
    cancelled_at = jobs.running(engine)[0]["cancel_at"]
    assert jobs.request_cancel(engine, run_id, "save") == "running"
    assert jobs.running(engine)[0]["cancel_at"] == cancelled_at
    assert jobs.heartbeat(engine, run_id, attempt) == "save"
    jobs.request_cancel(engine, run_id, "discard")
    assert jobs.heartbeat(engine, run_id, attempt) == "discard"
    assert jobs.finish(engine, run_id, attempt, "cancelled")
    with pytest.raises(UserError, match="already ended"):
        jobs.request_cancel(engine, run_id, "save")
    mode: Any = "gently"
    with pytest.raises(UserError, match="mode"):
        jobs.request_cancel(engine, run_id, mode)


def test_only_what_broke_off_is_queued_again(engine: Engine) -> None:
    run_id, attempt = claimed(engine)
    with pytest.raises(UserError, match="running"):
        jobs.requeue(engine, run_id)
    jobs.request_cancel(engine, run_id, "save")
    jobs.finish(engine, run_id, attempt, "cancelled", jobs.Failure(ErrorKind.KILLED, ""))
    jobs.requeue(engine, run_id)
    run = read_run(engine, run_id)
    assert (run["status"], run["cancel_mode"], run["error_kind"]) == ("queued", None, "")
    assert jobs.claim(engine, run_id, "cpu", OWNER) == 2
    jobs.finish(engine, run_id, 2, "finished")
    with pytest.raises(UserError, match="finished"):
        jobs.requeue(engine, run_id)


def test_an_attempt_that_vanished_ended_with_its_last_heartbeat(engine: Engine) -> None:
    run_id, attempt = claimed(engine)
    long_ago = time.time() - 10_000
    with begin(engine) as connection:
        connection.execute(
            update(schema.run).values(attempt_at=long_ago - 50, heartbeat_at=long_ago)
        )
    jobs.finish(engine, run_id, attempt, "interrupted")
    run = read_run(engine, run_id)
    assert run["finished_at"] == long_ago
    assert run["seconds"] == pytest.approx(50)
