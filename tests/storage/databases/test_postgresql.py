"""What is particular to PostgreSQL: a server that goes and comes, writers at once, refusals."""

import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, select, text, update

from bench.postgresql import races
from bench.support.postgresql import PostgresqlServer, throwaway
from opd.config.run import parse
from opd.errors import ErrorKind, UserError
from opd.types import StepEvent
from storage import engine as storage_engine
from storage import schema
from storage.databases import postgresql
from storage.databases.failures import DatabaseGoneError, DiskFullError
from storage.engine import begin, open_database, patient, read
from storage.marks.edit import add_mark
from storage.queue import jobs, requests
from storage.read.rollouts import read_rollout, read_rollouts
from storage.read.runs import read_run, read_runs, read_steps
from tests.support import stored_runs
from tests.support.databases import matrix

pytestmark = pytest.mark.engines


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresqlServer]:
    """One that tests may restart."""
    matrix.needed()
    with throwaway() as started:
        started.sql("CREATE DATABASE template_of_ours")
        open_database(started.url("template_of_ours")).dispose()
        yield started


@pytest.fixture
def url(server: PostgresqlServer, request: pytest.FixtureRequest) -> Iterator[str]:
    name = f"t{abs(hash(request.node.name))}"
    server.sql(f"CREATE DATABASE {name} TEMPLATE template_of_ours")
    yield server.url(name)
    server.sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    opened = open_database(url)
    yield opened
    opened.dispose()


def test_a_connection_is_safe_and_ends_with_its_host(engine: Engine) -> None:
    with read(engine) as connection:
        shown = {
            name: connection.scalar(text(f"SHOW {name}"))
            for name in (
                *("transaction_isolation", "transaction_read_only", "lock_timeout"),
                *("idle_in_transaction_session_timeout", "tcp_keepalives_idle"),
            )
        }
    assert list(shown.values()) == ["repeatable read", "on", "30s", "5min", "20"]
    with begin(engine) as connection:
        level = connection.scalar(text("SHOW transaction_isolation"))
    assert level == "read committed"


def test_a_read_sees_one_moment(engine: Engine) -> None:
    with read(engine) as connection:
        assert connection.scalar(select(schema.run.c.id)) is None
        jobs.create_run(engine, parse({}))
        assert connection.scalar(select(schema.run.c.id)) is None
    assert read_runs(engine)["total"] == 1


def test_a_writer_waits_for_the_run_that_another_one_has(engine: Engine) -> None:
    run_id, _ = stored_runs.started(engine)
    order: list[str] = []

    def cancel() -> None:
        jobs.request_cancel(engine, run_id, "save")
        order.append("cancelled")

    with begin(engine) as connection:
        jobs.hold(connection, run_id, 1)
        thread = threading.Thread(target=cancel)
        thread.start()
        time.sleep(0.2)
        order.append("stored")
    thread.join()
    assert order == ["stored", "cancelled"]
    assert jobs.heartbeat(engine, run_id, 1) == "save"


def test_what_waits_too_long_is_named(engine: Engine) -> None:
    run_id, _ = stored_runs.started(engine)
    with begin(engine) as connection:
        jobs.hold(connection, run_id, 1)
        message = "another transaction holds"
        with pytest.raises(UserError, match=message) as caught, begin(engine) as other:
            other.execute(text("SET LOCAL lock_timeout = '50ms'"))
            jobs.hold(other, run_id, 1)
    assert caught.value.kind is ErrorKind.LOCKED


def test_two_runs_with_one_vocabulary_begin_at_once(engine: Engine) -> None:
    writers = [stored_runs.started(engine, slot)[1] for slot in ("cuda:0", "cuda:1")]
    barrier = threading.Barrier(2)

    def write(n: int) -> None:
        barrier.wait()
        writers[n].step(stored_runs.step_event(1), stored_runs.texts)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, range(2)))
    with read(engine) as connection:
        ids = connection.scalars(select(schema.vocabulary.c.id)).all()
    assert len(ids) == len(set(ids)) > 50


def test_a_request_and_a_mark_are_given_once(engine: Engine) -> None:
    run_id, writer = stored_runs.started(engine)
    writer.step(stored_runs.step_event(1), stored_runs.texts)
    rollout_id = read_rollouts(engine, run_id)["items"][0]["id"]
    for _ in range(4):
        requests.enqueue(engine, "chat", {})

    def claim(_: int) -> Any:
        return requests.claim(engine, stored_runs.OWNER)

    def mark(n: int) -> str:
        try:
            return add_mark(engine, rollout_id, 1, f"note {n}")
        except UserError as error:
            return str(error.kind)

    with ThreadPoolExecutor(8) as pool:
        claimed = [request["id"] for request in pool.map(claim, range(8)) if request]
        marked = list(pool.map(mark, range(8)))
    assert len(claimed) == len(set(claimed)) == 4
    assert marked.count("stale edit") == 7


def test_claims_and_first_migrations_that_race(server: PostgresqlServer, url: str) -> None:
    """A small one of `bench.postgresql`."""
    engines = [open_database(url) for _ in range(2)]
    assert races.claim_races(engines, 10) == {"once": 10, "raised": 0, "slot taken twice": 0}
    for engine in engines:
        engine.dispose()

    def new_database() -> str:
        server.sql("CREATE DATABASE race TEMPLATE template0")
        return server.url("race")

    def drop(_: str) -> None:
        server.sql("DROP DATABASE race WITH (FORCE)")

    with races.openers() as pool:
        assert races.migration_races(pool, new_database, drop, 2) == {"opened": 16}


def test_pages_of_rollouts_are_read_in_the_order_of_an_index(engine: Engine) -> None:
    """Of a run with a million, whatever else a page shows of them."""
    run_id, writer = stored_runs.started(engine)
    writer.step(stored_runs.step_event(1), stored_runs.texts)
    statements: list[tuple[str, Any]] = []
    event.listen(engine, "before_cursor_execute", lambda *a: statements.append((a[2], a[3])))
    highest_first = ("-kl_sum", "-kl_mean", "-kl_max", "-log_ratio_sum", "-tokens", "-step")
    for sort in (*highest_first, "tokens", "step"):
        statements.clear()
        read_rollouts(engine, run_id, sort=sort)
        [(page, values)] = [one for one in statements if "ORDER BY" in one[0] and "LIMIT" in one[0]]
        with engine.connect() as connection:
            for way in ("seqscan", "bitmapscan", "sort"):  # best for so few rows
                connection.execute(text(f"SET LOCAL enable_{way} = off"))
            plan = "\n".join(connection.exec_driver_sql(f"EXPLAIN {page}", values).scalars())
        chosen = plan[plan.index("Limit") :]
        assert f"ix_rollout_run_id_{sort.removeprefix('-')} on rollout" in chosen, plan
        assert "Incremental Sort" in chosen and "Presorted Key" in chosen, plan


def test_nul_in_text_and_json_comes_back(engine: Engine) -> None:
    nasty = "a\0b\U0010ffff0c\\u0000"
    run_id, writer = stored_runs.started(engine)
    with begin(engine) as connection:
        connection.execute(
            update(schema.run).values(notes=nasty, resolved={nasty: [nasty, 1.5e300, None]})
        )
    rollout = stored_runs.rollout(1, completion=nasty, prompt=nasty, answer=nasty)
    writer.step(StepEvent(1, {}, 1, 0.0, {}, [rollout]), stored_runs.texts)
    run = read_run(engine, run_id)
    assert (run["notes"], run["resolved"]) == (nasty, {nasty: [nasty, 1.5e300, None]})
    stored = read_rollout(engine, read_rollouts(engine, run_id)["items"][0]["id"])
    assert (stored["completion"], stored["prompt"], stored["answer"]) == (nasty, nasty, nasty)
    with pytest.raises(UserError, match="no such run"):
        read_run(engine, "run-\0")


def test_a_restarted_server_is_found_again(server: PostgresqlServer, engine: Engine) -> None:
    run_id = jobs.create_run(engine, parse({}))
    server.restart()
    assert read_run(engine, run_id)["status"] == "queued"
    server.stop()
    with pytest.raises(DatabaseGoneError, match="cannot be reached") as caught:
        read_run(engine, run_id)
    assert caught.value.kind is ErrorKind.DATABASE_GONE
    server.start()
    assert read_run(engine, run_id)["status"] == "queued"


@pytest.mark.parametrize("lost", ["before", "after"])
def test_a_step_whose_commit_broke_is_stored_once(
    engine: Engine, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks just before, or just after, the server has committed."""
    monkeypatch.setattr(storage_engine, "AGAIN_AFTER", (0.05,))
    run_id, writer = stored_runs.started(engine)
    writer.step(stored_runs.step_event(1), stored_runs.texts)
    broken: list[str] = []
    commit = engine.dialect.do_commit

    def breaking(connection: Any) -> None:
        if broken or "step" not in said:
            commit(connection)
            return
        broken.append(lost)
        if lost == "after":
            commit(connection)
        connection.driver_connection.close()
        commit(connection)

    said: list[str] = []

    @event.listens_for(engine, "before_cursor_execute")
    def _note(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("INSERT INTO step"):
            said.append("step")

    monkeypatch.setattr(engine.dialect, "do_commit", breaking)
    patient(writer.step)(stored_runs.step_event(2, loss=2.0), stored_runs.texts)
    assert broken == [lost]
    assert read_steps(engine, run_id)["columns"]["step"] == [1, 2]
    run = read_run(engine, run_id)
    assert (run["tokens"], run["step"]) == (200, 2)
    assert read_rollouts(engine, run_id)["total"] == 8
    assert said == ["step", "step"]


def test_a_server_that_stays_away_ends_the_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_engine, "PATIENCE", 0.2)
    monkeypatch.setattr(storage_engine, "AGAIN_AFTER", (0.05,))
    tries = []

    @patient
    def write() -> None:
        tries.append(1)
        raise DatabaseGoneError("there", "connection refused")

    with pytest.raises(DatabaseGoneError):
        write()
    assert len(tries) > 2


def test_a_server_that_can_only_be_read_is_named(server: PostgresqlServer, url: str) -> None:
    name = url.rpartition("/")[2]
    server.sql(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    engine = open_database(url)
    with pytest.raises(UserError, match="can only be read: nothing was stored") as caught:
        jobs.create_run(engine, parse({}))
    assert caught.value.kind is ErrorKind.READ_ONLY
    assert read_runs(engine)["total"] == 0
    engine.dispose()


def test_a_full_disk_is_named(engine: Engine) -> None:
    run_id, writer = stored_runs.started(engine)
    writer.step(stored_runs.step_event(1), stored_runs.texts)
    with begin(engine) as connection:  # what the server raises where a file cannot grow
        connection.execute(
            text(
                "CREATE FUNCTION full_disk() RETURNS trigger AS $$ BEGIN RAISE EXCEPTION "
                "'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$ "
                "LANGUAGE plpgsql"
            )
        )
        connection.execute(
            text(
                "CREATE TRIGGER full_disk BEFORE INSERT ON token_record "
                "EXECUTE FUNCTION full_disk()"
            )
        )
    with pytest.raises(DiskFullError, match="the disk is full"):
        writer.step(stored_runs.step_event(2), stored_runs.texts)
    assert read_steps(engine, run_id)["columns"]["step"] == [1]
    assert read_rollouts(engine, run_id)["total"] == 4


def test_what_refuses_us_is_named_without_the_password(server: PostgresqlServer) -> None:
    address = server.url("none").replace("postgres@", "somebody:hush@")
    for url, message in (
        (server.url("none"), 'database "none" does not exist'),
        (address, "somebody"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            open_database(url)
        assert "hush" not in str(caught.value)
        assert caught.value.kind.exit_code == 2
    with pytest.raises(DatabaseGoneError, match="cannot be reached"):
        open_database("postgresql://me:hush@127.0.0.1:1/x")


def test_a_wrong_password_is_named(server: PostgresqlServer) -> None:
    rules = server.folder / "data" / "pg_hba.conf"
    before = rules.read_text()
    server.sql("CREATE USER guarded PASSWORD 'right'")
    rules.write_text(f"host all guarded all scram-sha-256\n{before}")
    server.sql("SELECT pg_reload_conf()")
    time.sleep(0.2)
    address = server.url("template_of_ours").replace("postgres@", "guarded:{}@")
    try:
        with pytest.raises(UserError, match="password authentication failed") as caught:
            open_database(address.format("wr0ng"))
        assert "wr0ng" not in str(caught.value)
        with pytest.raises(UserError, match="permission denied"):
            open_database(address.format("right"))
    finally:
        rules.write_text(before)
        server.sql("SELECT pg_reload_conf()")
        server.sql("DROP USER guarded")


def test_a_database_of_another_encoding_is_refused(server: PostgresqlServer) -> None:
    server.sql("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    with pytest.raises(UserError, match="has encoding LATIN1; texts need UTF8"):
        open_database(server.url("latin"))
    server.sql("DROP DATABASE latin")


def test_without_the_driver_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> None:
        raise ModuleNotFoundError("No module named 'psycopg'")

    monkeypatch.setattr(postgresql, "create_engine", missing)
    with pytest.raises(UserError, match=r"pip install 'opd-studio\[postgres\]'") as caught:
        open_database("postgresql://me@127.0.0.1/x")
    assert caught.value.kind is ErrorKind.MISSING_EXTRA


def test_a_crashed_server_loses_nothing_it_acknowledged(tmp_path: Path) -> None:
    with throwaway(durable=True) as server:
        server.sql("CREATE DATABASE studio")
        engine = open_database(server.url("studio"))
        run_id, writer = stored_runs.started(engine)
        stored = []
        for step in range(1, 6):
            writer.step(stored_runs.step_event(step), stored_runs.texts)
            stored.append(step)
        server.stop(signal.SIGQUIT)
        server.start()
        assert read_steps(engine, run_id)["columns"]["step"] == stored
        engine.dispose()
