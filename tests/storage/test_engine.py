"""Opening, migrating and losing the database."""

import contextlib
import multiprocessing
import random
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, event, inspect, select, text

from opd.errors import UserError
from opd.types import StepEvent
from storage import schema
from storage.databases import sqlite as storage_sqlite
from storage.databases.failures import DiskFullError
from storage.engine import begin, open_database, read, where
from storage.insights.hot_tokens import read_hot_tokens
from storage.read.rollouts import read_rollout, read_rollouts
from storage.read.runs import read_run, read_runs, read_steps
from storage.write.records import RunWriter
from tests.support import stored_runs
from tests.support.databases.matrix import address, new_database

OF_0008 = (  # takes away what the migrations after it have added
    "DROP INDEX ix_rollout_run_id_teacher",
    "ALTER TABLE rollout DROP COLUMN teacher",
    "ALTER TABLE rollout DROP COLUMN teacher_prompt_id",
    "ALTER TABLE rollout DROP COLUMN staleness",
    "ALTER TABLE prompt DROP COLUMN data_row",
    "DROP TABLE teacher_prompt",
    "DROP TABLE mark",
    *(f"ALTER TABLE {name} DROP COLUMN owner_place" for name in ("run", "question", "experiment")),
    "DROP INDEX uq_run_pool_slot_while_running",
    "CREATE UNIQUE INDEX uq_run_slot_while_running ON run (slot) WHERE status = 'running'",
    *(
        f"ALTER TABLE run DROP COLUMN {name}"
        for name in ("figures", "evaluation_prompts", "pool", "cluster_job")
    ),
    *(f"ALTER TABLE run DROP COLUMN {name}" for name in ("started_by", "cancel_by", "resumed_by")),
    "ALTER TABLE experiment DROP COLUMN started_by",
    "DROP TABLE host",
    "UPDATE alembic_version SET version_num = '0008'",
)


WORST_FIRST = {
    f"ix_rollout_run_id_{name}": name
    for name in ("kl_sum", "kl_mean", "kl_max", "log_ratio_sum", "reward")
}
UNIQUE_SLOT = "uq_run_pool_slot_while_running"


def integrity(engine: Engine) -> str:
    with read(engine) as connection:
        if engine.dialect.name == "sqlite":
            return str(connection.scalar(text("PRAGMA integrity_check")))
        for table in schema.metadata.sorted_tables:  # the server's own check is for its indexes
            connection.execute(select(table)).all()
        return "ok"


def differs(*compared: Any) -> bool:
    """Whether a column's default is another than the table's; PostgreSQL names its type."""
    actual, expected = ((compared[n] or "").partition("::")[0] for n in (-3, -1))
    return bool(actual.strip("()'") != expected.strip("()'"))


def run_figures(engine: Engine) -> Any:
    with read(engine) as connection:
        return connection.scalar(select(schema.run.c.figures))


def test_the_migrations_build_the_schema(engine: Engine) -> None:
    with read(engine) as connection:
        options = {"compare_type": True, "compare_server_default": differs}
        context = MigrationContext.configure(connection, opts=options)
        differences = compare_metadata(context, schema.metadata)
        if connection.dialect.name == "postgresql":  # which alone has these the other way round
            descending = [item for item in differences if item[1].name in WORST_FIRST]
            assert len(descending) == 2 * len(WORST_FIRST)  # each removed, and added
            differences = [item for item in differences if item not in descending]
            sorting = {
                str(i["name"]): i.get("column_sorting")
                for i in inspect(connection).get_indexes("rollout")
            }
            for index, name in WORST_FIRST.items():
                assert sorting[index] == {name: ("desc", "nulls_last")}
        assert differences == []
        # What the comparison does not look at: conditions of indexes, actions of foreign keys
        tables = inspect(connection)
        [unique] = [i for i in tables.get_indexes("run") if i["name"] == UNIQUE_SLOT]
        condition = unique["dialect_options"][f"{connection.dialect.name}_where"]
        assert re.fullmatch(r"\(?\(?status\)?(::text)? = 'running'(::text)?\)?", str(condition))
        for table in schema.metadata.sorted_tables:
            actions = {
                (key["name"], key["options"].get("ondelete"))
                for key in tables.get_foreign_keys(table.name)
            }
            assert actions == {(key.name, key.ondelete) for key in table.foreign_key_constraints}


def test_a_database_of_before_marks_and_teachers_is_upgraded(tmp_path: Path) -> None:
    engine = open_database(address(tmp_path))
    run_id, writer = stored_runs.started(engine)
    writer.evaluation(stored_runs.evaluation_event(0, 0.5), stored_runs.texts)
    for step, loss in ((1, 3.0), (2, float("nan")), (3, 4.0)):
        writer.step(stored_runs.step_event(step, 2, loss=loss), stored_runs.texts)
    figures = run_figures(engine)
    assert figures["loss"] == [4.0, 3.0, 4.0]
    with begin(engine) as connection:
        for statement in OF_0008:
            connection.execute(text(statement))
    engine.dispose()
    upgraded = open_database(address(tmp_path))
    assert run_figures(upgraded) == figures
    test_the_migrations_build_the_schema(upgraded)
    assert integrity(upgraded) == "ok"
    items = read_rollouts(upgraded, run_id, step=1)["items"]
    assert [item["teacher"] for item in items] == [None, None]
    assert [item["staleness"] for item in items] == [None, None]
    assert read_rollout(upgraded, items[0]["id"])["teacher_prompt"] is None
    upgraded.dispose()


@pytest.mark.sqlite_only("PRAGMA; twin: test_a_connection_is_safe_and_ends_with_its_host")
def test_a_connection_is_safe_and_waits(engine: Engine) -> None:
    with read(engine) as connection:
        values = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "foreign_keys", "synchronous", "busy_timeout")
        }
    expected = {"journal_mode": "wal", "foreign_keys": 1, "synchronous": 2, "busy_timeout": 30_000}
    assert values == expected


@pytest.mark.sqlite_only(
    "BEGIN IMMEDIATE; twin: test_a_writer_waits_for_the_run_that_another_one_has"
)
def test_a_write_takes_its_turn_at_the_start(engine: Engine) -> None:
    """A deferred transaction would read first and fail when it comes to write."""
    order: list[str] = []

    def second() -> None:
        with begin(engine) as connection:
            order.append("second")
            connection.execute(select(schema.run)).all()

    with begin(engine) as connection:
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.2)
        connection.execute(select(schema.run)).all()
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_an_error_rolls_back(engine: Engine) -> None:
    with pytest.raises(RuntimeError), begin(engine) as connection:
        connection.execute(schema.vocabulary.insert().values(_word(1)))
        raise RuntimeError
    with read(engine) as connection:
        assert connection.execute(select(schema.vocabulary)).all() == []


def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    engine = open_database(address(tmp_path))
    with begin(engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0999'"))
    engine.dispose()
    file = tmp_path / "studio.db"
    before = file.read_bytes() if file.exists() else b""
    with pytest.raises(UserError, match=r"\S+: has schema 0999.*up to 0\d\d\d") as caught:
        open_database(address(tmp_path))
    assert caught.value.kind == "newer schema"
    assert str(caught.value).startswith(where(engine))
    assert (file.read_bytes() if file.exists() else b"") == before


@pytest.mark.sqlite_only("a file that is none of SQLite's")
def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "studio.db").write_text("not a database at all" * 100)
    with pytest.raises(UserError, match=r"studio\.db"):
        open_database(tmp_path / "text")


def test_what_is_not_our_database_is_refused(tmp_path: Path) -> None:
    other = open_database(address(tmp_path / "other"))
    with begin(other) as connection:
        connection.execute(text("DROP TABLE alembic_version"))
    other.dispose()
    with pytest.raises(UserError, match="another program"):
        open_database(address(tmp_path / "other"))


@pytest.mark.sqlite_only("a file's URL; on PostgreSQL every test opens a URL")
def test_a_url_opens_too_and_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path}/by-url.db")
    engine.dispose()
    assert (tmp_path / "by-url.db").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be created"):
        open_database(tmp_path / "file" / "data")


def test_many_open_a_new_database_at_once(tmp_path: Path) -> None:
    started = [_start(_open_by_threads, address(tmp_path)) for _ in range(3)]
    for child, reports in started:
        assert _reports(child, reports) == []
        assert child.exitcode == 0


def _open_by_threads(_: Connection, database: Path | str) -> None:
    def opened(_: int) -> str:
        engine = open_database(database)
        with read(engine) as connection:
            version = str(connection.scalar(text("SELECT version_num FROM alembic_version")))
        engine.dispose()
        return version

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(opened, range(8)))) == 1


def test_a_migration_killed_anywhere_leaves_a_database_that_opens(tmp_path: Path) -> None:
    steps = len(_reports(*_start(_migrate_slowly, address(tmp_path / "whole"))))
    assert steps > 20
    for kill_at in (2, steps // 3, steps // 2, steps - 3, steps - 1):
        folder = tmp_path / str(kill_at)
        child, reports = _start(_migrate_slowly, address(folder))
        for _ in range(kill_at):
            reports.recv()
        child.kill()
        assert len(_reports(child, reports)) < steps - kill_at
        engine = open_database(address(folder))
        assert integrity(engine) == "ok"
        assert read_runs(engine) == {"items": [], "total": 0}
        engine.dispose()


def _migrate_slowly(reports: Connection, database: Path | str) -> None:
    def slowly(*_: object) -> None:
        reports.send("statement")
        time.sleep(0.01)

    event.listen(Engine, "after_cursor_execute", slowly)
    open_database(database).dispose()


def test_no_acknowledged_rollout_is_lost_to_sigkill(tmp_path: Path) -> None:
    engine = new_database(tmp_path)
    run_id, _ = stored_runs.started(engine, steps=100_000)
    random.seed(1)
    steps: list[int] = [0]
    for _ in range(15):
        child, reports = _start(_write_on, address(tmp_path), run_id, steps[-1] + 1)
        acknowledged = [reports.recv()]
        time.sleep(random.uniform(0, 0.15))
        child.kill()
        acknowledged += _reports(child, reports)
        before, steps = steps, read_steps(engine, run_id)["columns"]["step"]
        assert {*before[1:], *acknowledged} <= set(steps)
        # Nothing half-written: each step has all of its rollouts, and all can be read.
        page = read_rollouts(engine, run_id, limit=10_000)
        assert page["total"] == 3 * len(steps)
        assert not any(item["damaged"] for item in page["items"])
    assert integrity(engine) == "ok"
    engine.dispose()


def _write_on(reports: Connection, database: Path | str, run_id: str, first: int) -> None:
    writer = RunWriter(open_database(database), run_id, 1)
    for step in range(first, 100_000):
        writer.step(stored_runs.step_event(step, 3), stored_runs.texts)
        reports.send(step)


@pytest.mark.sqlite_only("PRAGMA max_page_count; twin: test_a_full_disk_is_named")
def test_a_full_disk_is_named_and_what_was_written_stays(engine: Engine) -> None:
    run_id, _ = stored_runs.started(engine)
    with read(engine) as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
    engine.dispose()
    event.listen(
        engine,
        "connect",
        lambda raw, _: raw.execute(f"PRAGMA max_page_count={pages + 60}").close(),
    )
    writer = RunWriter(engine, run_id, 1)
    done = 0
    with pytest.raises(DiskFullError, match=r"studio\.db: the disk is full") as caught:
        for step in range(1, 1000):
            writer.step(stored_runs.step_event(step), stored_runs.texts)
            done = step
    assert caught.value.kind == "disk full"
    assert done >= 1
    assert read_steps(engine, run_id)["last"] == done
    assert read_rollouts(engine, run_id)["total"] == 4 * done
    assert integrity(engine) == "ok"


@pytest.mark.sqlite_only("the size of SQLite's log; twin: bench.postgresql, 8 writers")
def test_readers_and_a_writer_never_meet_a_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight readers, of which one is always in the log: it must be emptied all the same."""
    limit = 8 * 2**20
    monkeypatch.setattr(storage_sqlite, "WAL_LIMIT", limit)
    engine = open_database(tmp_path)
    run_id, writer = stored_runs.started(engine, steps=50, records={"budget_mb": 1000})
    log = tmp_path / "studio.db-wal"
    big = [
        stored_runs.rollout(1, n, record=stored_runs.record(1000, k=16, seed=n)) for n in range(4)
    ]
    largest, over = 0, threading.Event()
    with ThreadPoolExecutor(8) as pool:
        readers = [pool.submit(_read_on, engine, run_id, over) for _ in range(8)]
        for step in range(1, 51):
            kept = [replace(rollout, step=step) for rollout in big]
            writer.step(StepEvent(step, {}, 1, 0.0, {}, kept), stored_runs.texts)
            largest = max(largest, log.stat().st_size)
        over.set()
        assert all(reader.result() > 0 for reader in readers)
    assert read_run(engine, run_id)["bytes"] > 5 * limit
    assert limit / 2 < largest < 3 * limit
    engine.dispose()


@pytest.mark.sqlite_only("SQLite's log")
def test_the_log_is_emptied_though_new_readers_take_the_place_of_an_old_one(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_sqlite, "WAL_LIMIT", 2**20)
    log = Path(f"{engine.url.database}-wal")
    _, writer = stored_runs.started(engine, records={"budget_mb": 1000})
    big = [stored_runs.rollout(1, 0, record=stored_runs.record(8000, k=16, seed=1))]
    reader = _reader(engine)
    write = threading.Thread(
        target=writer.step, args=(StepEvent(1, {}, 1, 0.0, {}, big), stored_runs.texts)
    )
    write.start()
    while log.stat().st_size < 2**20:
        time.sleep(0.01)
    time.sleep(0.3)  # by now it waits for the reader, and looks every tenth of a second
    assert write.is_alive()
    until = time.monotonic() + 10
    reader.close()
    reader = _reader(engine)
    while write.is_alive() and time.monotonic() < until:
        following = _reader(engine)
        time.sleep(0.01)
        reader.close()
        reader = following
    in_time = not write.is_alive()
    reader.close()
    write.join()
    assert in_time
    assert log.stat().st_size == 0
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 30_000


def _reader(engine: Engine) -> contextlib.ExitStack:
    """One that sees the database as it is now, until it is closed."""
    reading = contextlib.ExitStack()
    reading.enter_context(read(engine)).execute(select(schema.run.c.id)).all()
    return reading


def _read_on(engine: Engine, run_id: str, over: threading.Event) -> int:
    reads = 0
    while not over.is_set():
        with read(engine) as connection:
            reads += connection.execute(select(schema.run.c.id)).one().id == run_id
            time.sleep(random.uniform(0.02, 0.05))
        read_hot_tokens(engine, run_id, limit=10)
    return reads


def _word(number: int) -> dict[str, object]:
    return {"fingerprint": "f", "id": number, "bytes": b"w", "special": False}


def _start(task: Callable[..., None], *arguments: object) -> tuple[Any, Connection]:
    """A process that runs `task`, and what it reports; forked from a server that has no threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    reports, ours = context.Pipe(duplex=False)
    child = context.Process(target=task, args=(ours, *arguments))
    child.start()
    ours.close()
    return child, reports


def _reports(child: Any, reports: Connection) -> list[Any]:
    """What is left of a process's reports, up to its end."""
    lines = []
    with contextlib.suppress(EOFError):
        while True:
            lines.append(reports.recv())
    reports.close()
    child.join()
    return lines
