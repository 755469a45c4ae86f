"""How quickly records can be written, by how many writers, and what they take on the disk.

    python -m bench.scaling.records [--database sqlite|postgresql|URL] [--writers 1 2 4 8]
        [--seconds 20] [--top-k 0 8] [--length 1000] [--folder DIR] [--rollouts N]

Writers are processes, each with the product's own RunWriter and a run of its own: steps of 128
completions, as in `bench.telemetry`. A PostgreSQL server is started where no address is given, and
waits for the disk at every commit, as SQLite does.
"""

import argparse
import multiprocessing
import resource
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

from sqlalchemy import Engine, String, cast, func, literal, select, text, true

from bench.support.postgresql import throwaway
from bench.telemetry import StepSize, rollouts_of
from opd.config.run import parse
from opd.types import ModelsEvent, StepEvent
from storage import schema
from storage.engine import begin, open_database
from storage.queue import jobs, run_details
from storage.read.rollouts import read_rollouts
from storage.write.records import RunWriter

ROLLOUTS = 128


@dataclass(frozen=True)
class WriterFigures:
    """Of one writer: tokens and steps in so many seconds, those of its own processor."""

    run_id: str
    tokens: int
    steps: int
    seconds: float
    processor: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--database", default="sqlite")
    parser.add_argument("--writers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--top-k", type=int, nargs="+", default=[0, 8])
    parser.add_argument("--length", type=int, default=1000)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--rollouts", type=int, help="instead: the list of a run of so many")
    options = parser.parse_args()
    if options.rollouts:
        with database(options.database, options.folder) as url:
            print(list_seconds(url, options.rollouts))
        return
    print(
        f"{'database':10} {'step':24} {'writers':>7} {'tokens/s':>10} {'steps/s':>8} "
        f"{'processor':>9} {'B/token':>8} {'WAL B/token':>11} {'delete s/GB':>11} {'copy MB/s':>9}"
    )
    for top_k in options.top_k:
        size = StepSize(f"128 × {options.length}, top-{top_k}", ROLLOUTS, options.length, top_k)
        for writers in options.writers:
            with database(options.database, options.folder) as url:
                print(measured(url, size, writers, options.seconds), flush=True)


@contextmanager
def database(name: str, parent: Path | None) -> Iterator[str]:
    """The address of an empty one."""
    if name == "postgresql":
        with throwaway(durable=True, parent=parent) as server:
            server.sql("CREATE DATABASE studio")
            yield server.url("studio")
    elif name == "sqlite":
        with tempfile.TemporaryDirectory(dir=parent) as folder:
            yield f"sqlite:///{folder}/studio.db"
    else:
        yield name


def measured(url: str, size: StepSize, writers: int, seconds: float) -> str:
    engine = open_database(url)
    write_at_once(url, size, 1, 0.0)  # the vocabulary
    before, logged = occupied(engine), written_ahead(engine)
    figures = write_at_once(url, size, writers, seconds)
    tokens = sum(f.tokens for f in figures)
    wall, per_step = max(f.seconds for f in figures), size.rollouts * size.tokens
    rate = sum(f.steps - 1 for f in figures) / wall  # steps per second; the first is not timed
    space, log = occupied(engine) - before, written_ahead(engine) - logged
    copied = space / 1e6 / copy_seconds(url)
    start = time.perf_counter()
    with begin(engine) as connection:
        run_details.remove(connection, figures[0].run_id)
    deleting = (time.perf_counter() - start) / (space / 1e9 * figures[0].tokens / tokens)
    name = engine.dialect.name
    engine.dispose()
    return (
        f"{name:10} {size.name:24} {writers:7} {rate * per_step:10,.0f} {rate:8.2f} "
        f"{sum(f.processor for f in figures) / wall:9.2f} {space / tokens:8.1f} "
        f"{log / tokens:11.1f} {deleting:11.2f} {copied:9.1f}"
    )


def write_at_once(url: str, size: StepSize, writers: int, seconds: float) -> list[WriterFigures]:
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(writers), context.Queue()
    processes = [
        context.Process(target=_write, args=(url, size, seconds, barrier, results))
        for _ in range(writers)
    ]
    for process in processes:
        process.start()
    figures: list[WriterFigures] = [results.get() for _ in processes]
    for process in processes:
        process.join()
    return figures


def _write(
    url: str, size: StepSize, seconds: float, barrier: Barrier, results: "Queue[WriterFigures]"
) -> None:
    engine = open_database(url)
    config = parse({"steps": 1000, "records": {"budget_mb": 10_000_000}})
    run_id = jobs.create_run(engine, config)
    attempt = jobs.claim(engine, run_id, run_id, jobs.Owner(1, 0.0, ""))
    assert attempt is not None
    writer = RunWriter(engine, run_id, attempt)
    writer.models(ModelsEvent({}, "fingerprint", "cpu"), {})
    rollouts, step = rollouts_of(size), 1
    _store(writer, rollouts, step, size)
    barrier.wait()
    start, used = time.perf_counter(), _processor()
    while time.perf_counter() - start < seconds:
        step += 1
        _store(writer, rollouts, step, size)
    spent, used = time.perf_counter() - start, _processor() - used
    results.put(WriterFigures(run_id, step * size.rollouts * size.tokens, step, spent, used))
    engine.dispose()


def _store(writer: RunWriter, rollouts: Sequence[object], step: int, size: StepSize) -> None:
    kept = [replace(r, step=step) for r in rollouts]  # type: ignore[type-var]
    event = StepEvent(step, {}, size.rollouts * size.tokens, 0.0, {}, kept)  # type: ignore[arg-type]
    writer.step(event, lambda ids: dict.fromkeys(ids, (b"token", False)))


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def occupied(engine: Engine) -> float:
    """Bytes of the database, its write-ahead log emptied into it."""
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
            return float(Path(str(engine.url.database)).stat().st_size)
        size = connection.scalar(select(func.pg_database_size(func.current_database())))
        return float(size or 0)


def written_ahead(engine: Engine) -> float:
    """Bytes that PostgreSQL has written ahead so far; SQLite does not tell."""
    if engine.dialect.name == "sqlite":
        return float("nan")
    with engine.connect() as connection:
        return float(
            connection.scalar(text("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')")) or 0
        )


def copy_seconds(url: str) -> float:
    """A backup while runs go on: SQLite's own, to a file beside it; pg_dump, thrown away."""
    start = time.perf_counter()
    if url.startswith("sqlite"):
        path = url.removeprefix("sqlite:///")
        with sqlite3.connect(path) as source, sqlite3.connect(path + ".backup") as target:
            source.backup(target)
        Path(path + ".backup").unlink()
    else:
        plain = url.replace("postgresql+psycopg://", "postgresql://")
        command = ["pg_dump", "--format=custom", "--compress=0", plain]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def list_seconds(url: str, rollouts: int) -> str:
    """A run of so many rollouts, all but the first step's copied without their tokens: the first
    page of its list, worst first, and the counts beside it."""
    engine = open_database(url)
    (first,) = write_at_once(url, StepSize("", ROLLOUTS, 64, 0), 1, 0.0)
    table = schema.rollout
    numbers = select(literal(1).label("n")).cte("numbers", recursive=True)
    numbers = numbers.union_all(select(numbers.c.n + 1).where(numbers.c.n < rollouts // ROLLOUTS))
    changed = {
        "id": table.c.id + "-" + cast(numbers.c.n, String),
        "kl_sum": table.c.kl_sum + numbers.c.n * 1e-6,
    }
    columns = [changed.get(c.name, c) for c in table.c]
    copied = select(*columns).join_from(table, numbers, true())
    with begin(engine) as connection:
        connection.execute(table.insert().from_select([c.name for c in table.c], copied))
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        total = read_rollouts(engine, first.run_id)["total"]
        seconds.append(time.perf_counter() - start)
    name = engine.dialect.name
    engine.dispose()
    return f"{name}: list of {total:,} rollouts {seconds[0]:.2f} s, again {min(seconds):.2f} s"


if __name__ == "__main__":
    main()
