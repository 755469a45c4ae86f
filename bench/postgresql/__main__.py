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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from bench.postgresql.races import claim_races, migration_races, openers, writers
from bench.support.postgresql import run_sql, throwaway
from storage.engine import open_database

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
    with server(options.url) as (address, sql), openers() as pool:

        def new_database() -> str:
            name = f"opd_bench_{next(numbers)}"
            sql(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
            return f"{address}{name}"

        def drop(url: str) -> None:
            sql(f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)")

        start = time.monotonic()
        migrations = migration_races(pool, new_database, drop, options.races)
        seconds = time.monotonic() - start
        print(f"first migrations: {options.races} races in {seconds:.0f} s:", dict(migrations))
        database = new_database()
        engines = [open_database(database) for _ in range(2)]
        claims = claim_races(engines, options.races)
        print("claims:", dict(claims))
        print("writers:", writers(engines[0], options.writers, options.seconds))
        for engine in engines:
            engine.dispose()
        drop(database)
    wrong = (
        migrations.total()
        - migrations["opened"]
        + claims["raised"]
        + claims["twice"]
        + claims["nobody"]
    )
    raise SystemExit(1 if wrong + claims["slot taken twice"] else 0)


if __name__ == "__main__":
    main()
