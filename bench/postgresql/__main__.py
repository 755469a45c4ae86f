"""Whether many processes at once on PostgreSQL get in each other's way.

    python -m bench.postgresql [--races 1000] [--seconds 60] [--writers 8] [--url URL]

As often as --races says, eight processes open a new database at once, which one of them migrates;
and eight threads of two engines claim one run, for two slots. Writers: each a run of its own with
the same vocabulary, for --seconds. Nobody may raise, and nobody win twice.
Starts a throw-away server, or makes databases at --url, whose user must be allowed to.
"""

import argparse
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from queue import SimpleQueue

from bench.postgresql.races import claim_races, migration_races, openers, writers
from bench.support.postgresql import run_sql, throwaway
from storage.engine import open_database

AT_ONCE = 3  # races of first migrations
Sql = Callable[[str], object]


@contextmanager
def server(url: str | None) -> Iterator[tuple[str, Sql]]:
    """The address before a database's name, and what runs statements there."""
    if url is None:
        with throwaway() as started:
            yield started.url(""), started.sql
        return
    yield url.rpartition("/")[0] + "/", partial(run_sql, url)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--races", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--url")
    options = parser.parse_args()
    numbers = itertools.count()
    with server(options.url) as (address, sql), ExitStack() as stack:
        idle: SimpleQueue[Executor] = SimpleQueue()
        for _ in range(AT_ONCE):
            idle.put(stack.enter_context(openers()))

        def new_database() -> str:
            name = f"opd_bench_{next(numbers)}"
            sql(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
            return f"{address}{name}"

        def drop(url: str) -> None:
            sql(f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)")

        def race(_: int) -> Counter[str]:
            pool = idle.get()
            outcome = migration_races(pool, new_database, drop, 1)
            idle.put(pool)
            return outcome

        migrations: Counter[str] = Counter()
        start = time.monotonic()
        with ThreadPoolExecutor(AT_ONCE) as threads:
            for number, outcome in enumerate(threads.map(race, range(options.races)), start=1):
                migrations += outcome
                if number % 50 == 0 or number == options.races:
                    seconds = time.monotonic() - start
                    heading = f"first migrations: {number} races, {seconds:.0f} s:"
                    print(heading, dict(migrations), flush=True)
        database = new_database()
        engines = [open_database(database) for _ in range(2)]
        claims = claim_races(engines, options.races)
        print("claims:", dict(claims))
        print("writers:", writers(engines[0], options.writers, options.seconds))
        for engine in engines:
            engine.dispose()
        drop(database)
    wrong = migrations.total() - migrations["opened"] + claims.total() - claims["once"]
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
