from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import Engine, update

from opd.config.run import parse
from storage.engine import begin
from storage.queue import jobs, placing
from storage.queue.jobs import Owner
from storage.schema import run

ME = Owner(1, 1.0, "boot", "host 1 dir")
OTHER = Owner(7, 1.0, "another boot", "other 1 x")


def queued(engine: Engine) -> placing.Placed:
    run_id = jobs.create_run(engine, parse({}))
    return next(row for row in placing.unplaced(engine, "slurm") if row.id == run_id)


def test_one_of_many_submits(engine: Engine) -> None:
    row, name = queued(engine), placing.submitting("slurm", "key")
    with ThreadPoolExecutor(8) as controllers:
        won = list(controllers.map(lambda _: placing.reserve(engine, row, name), range(8)))
    assert won.count(True) == 1
    [again] = placing.unplaced(engine, "slurm")
    assert again.job == "slurm:?key" and again.age is not None and again.age < 60
    with ThreadPoolExecutor(8) as controllers:  # of one that has been cut short
        won = list(controllers.map(lambda _: placing.reserve(engine, again, name), range(8)))
    assert won.count(True) == 1


def test_a_job_is_written_down_told_of_and_forgotten(engine: Engine) -> None:
    row, name = queued(engine), placing.submitting("slurm", "key")
    placing.reserve(engine, row, name)
    assert placing.placed(engine, "slurm") == []
    assert placing.record(engine, row.id, name, "slurm:17")
    assert not placing.record(engine, row.id, name, "slurm:18")
    [placed] = placing.placed(engine, "slurm")
    assert (placed.job, placed.claimed, placed.status) == ("slurm:17", False, "queued")
    assert placing.unplaced(engine, "slurm") == placing.placed(engine, "ray") == []
    placing.tell(engine, placed, "SLURM: waiting for resources")
    assert jobs.next_queued(engine)[0]["phase"] == "SLURM: waiting for resources"
    assert not placing.forget(engine, row.id, "slurm:18")
    assert placing.forget(engine, row.id, "slurm:17")
    assert [r.job for r in placing.unplaced(engine, "slurm")] == [None]


def test_a_claim_by_the_job_needs_its_name(engine: Engine) -> None:
    row = queued(engine)
    placing.reserve(engine, row, "slurm:?key")
    assert jobs.claim(engine, row.id, "cpu", ME, "slurm:9", ("slurm:9", "slurm:?other")) is None
    assert jobs.claim(engine, row.id, "cpu", ME, "slurm:17", ("slurm:17", "slurm:?key")) == 1
    [placed] = placing.placed(engine, "slurm")
    assert (placed.job, placed.claimed) == ("slurm:17", True)
    jobs.finish(engine, row.id, 1, "interrupted")
    again = ("slurm:17", "slurm:?key")
    assert jobs.claim(engine, row.id, "cpu", ME, "slurm:17", again) is None
    jobs.requeue(engine, row.id)
    assert jobs.claim(engine, row.id, "cpu", ME, "slurm:17", again) is None
    assert [r.job for r in placing.unplaced(engine, "slurm")] == [None]


def test_a_run_with_a_waiter_is_nobodys_to_submit(engine: Engine) -> None:
    jobs.create_run(engine, parse({}), waiter=ME)
    assert placing.unplaced(engine, "slurm") == []


def test_a_queued_run_is_started_by_one_host_at_a_time(engine: Engine) -> None:
    run_id = jobs.create_run(engine, parse({}))
    assert placing.reserve_for_host(engine, run_id, "boot-1")
    assert not placing.reserve_for_host(engine, run_id, "boot-2")
    assert placing.reserve_for_host(engine, run_id, "boot-1"), "said again, it holds on"
    with begin(engine) as connection:  # the host has died, say
        old = run.c.heartbeat_at - placing.RESERVED_SECONDS - 1
        connection.execute(update(run).values(heartbeat_at=old))
    assert placing.reserve_for_host(engine, run_id, "boot-2")
    assert not placing.reserve_for_host(engine, run_id, "boot-1")


def test_a_reservation_keeps_nobody_from_the_run_itself(engine: Engine) -> None:
    run_id = jobs.create_run(engine, parse({}))
    assert placing.reserve_for_host(engine, run_id, OTHER.boot)
    assert jobs.next_queued(engine)[0]["waiter"] is None
    assert jobs.claim(engine, run_id, "cpu", ME) == 1
    assert not placing.reserve_for_host(engine, run_id, ME.boot), "it is running"
    assert jobs.finish(engine, run_id, 1, "interrupted")
    jobs.requeue(engine, run_id)
    assert placing.reserve_for_host(engine, run_id, OTHER.boot), "the next attempt may be there"


def test_a_run_that_a_command_waits_for_is_reserved_by_no_host(engine: Engine) -> None:
    run_id = jobs.create_run(engine, parse({}), waiter=ME)
    assert not placing.reserve_for_host(engine, run_id, ME.boot)
