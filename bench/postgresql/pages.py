"""Reads of pages on PostgreSQL beside SQLite, and the copy of a studio there and back.

    python -m bench.postgresql.pages --data-dir DIR [--tries 15]

DIR is a data directory, such as one of `bench.fill --tokens 10000000`. It is copied to a throw-away
server that waits for its disk, and back to a temporary folder; what has come back is compared. Then
every route that a page of the newest run asks for is asked for by turns on both: ms, median of the
tries, of the server alone, without a network before it.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from bench.support.postgresql import throwaway
from storage.engine import open_database
from storage.read.rollouts import read_rollouts
from storage.read.runs import read_runs
from storage.transfer.copy import copy_studio
from tests.support.api_client import Api

RUN_ROUTES = (
    *("/runs/{run}", "/runs/{run}/steps", "/runs/{run}/evaluations", "/runs/{run}/diagnosis"),
    *("/runs/{run}/rollouts?limit=50", "/runs/{run}/rollouts?limit=50&sort=kl_max&step=20"),
    *("/runs/{run}/hot-tokens?limit=50", "/runs/{run}/insights"),
)
ROLLOUT_ROUTES = ("/rollouts/{rollout}", "/rollouts/{rollout}/tokens")
LIST_ROUTES = ("/runs?limit=50", "/runs?limit=50&search=word", "/runs?limit=50&sort=reverse_kl:min")


def routes(engine: Engine) -> list[str]:
    """Of the newest run, its longest rollout and one of usual length."""
    run = read_runs(engine)["items"][0]["id"]
    listed = read_rollouts(engine, run, sort="tokens", limit=1)["items"]
    usual = read_rollouts(engine, run, step=3, limit=1)["items"]
    return [
        *LIST_ROUTES,
        *(route.format(run=run) for route in RUN_ROUTES),
        *(r.format(rollout=one["id"]) for one in (*listed, *usual) for r in ROLLOUT_ROUTES),
    ]


def timed(api: Api, path: str) -> float:
    """Milliseconds until the answer is whole. Raises where it is none."""
    start = time.perf_counter()
    response = api("GET", path)
    assert response.status_code == 200, (path, response.text[:200])
    return 1000 * (time.perf_counter() - start)


def copied(engine: Engine, target: Engine, what: str) -> Any:
    start = time.perf_counter()
    tables = copy_studio(engine, target, print)
    seconds, size = time.perf_counter() - start, sum(table.bytes for table in tables)
    print(f"{what}: {size / 1e9:.2f} GB in {seconds:.0f} s, compared and equal", flush=True)
    return tables


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--tries", type=int, default=15)
    parser.add_argument("--no-way-back", action="store_true")
    options = parser.parse_args()
    sqlite = open_database(options.data_dir)
    with throwaway(durable=True) as server, tempfile.TemporaryDirectory() as folder:
        server.sql("CREATE DATABASE studio")
        postgresql = open_database(server.url("studio"))
        there = copied(sqlite, postgresql, "to PostgreSQL")
        if not options.no_way_back:
            back = open_database(Path(folder, "back"))
            assert copied(postgresql, back, "and back") == there
            back.dispose()
        server.sql("ANALYZE", "studio")
        apis = {"SQLite": Api(sqlite, Path(folder)), "PostgreSQL": Api(postgresql, Path(folder))}
        print("| route | SQLite, ms | PostgreSQL, ms | ratio |\n|---|---:|---:|---:|")
        for path in routes(sqlite):
            times: dict[str, list[float]] = {name: [] for name in apis}
            for _ in range(options.tries):
                for name, api in apis.items():
                    times[name].append(timed(api, path))
            first, second = (statistics.median(of[1:] or of) for of in times.values())
            print(f"| `{path}` | {first:.1f} | {second:.1f} | {second / first:.2f} |", flush=True)
        postgresql.dispose()
    sqlite.dispose()


if __name__ == "__main__":
    main()
