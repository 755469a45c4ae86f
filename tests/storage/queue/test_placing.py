from sqlalchemy import Engine, update

from opd.config.run import parse
from storage.engine import begin
from storage.queue import jobs, placing
from storage.queue.jobs import Owner
from storage.schema import run
from tests.support.stored_runs import me

OTHER = Owner(7, 1.0, "another boot", "other 1 x")


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
    assert jobs.claim(engine, run_id, "cpu", me()) == 1
    assert not placing.reserve_for_host(engine, run_id, me().boot), "it is running"
    assert jobs.finish(engine, run_id, 1, "interrupted")
    jobs.requeue(engine, run_id)
    assert placing.reserve_for_host(engine, run_id, OTHER.boot), "the next attempt may be there"


def test_a_run_that_a_command_waits_for_is_reserved_by_no_host(engine: Engine) -> None:
    run_id = jobs.create_run(engine, parse({}), waiter=me())
    assert not placing.reserve_for_host(engine, run_id, me().boot)
