"""Claims, first migrations and writers that race each other."""

import multiprocessing
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.synchronize import Barrier

from sqlalchemy import Engine

from bench.support.synthetic import RolloutMaker
from opd.config.run import parse
from opd.types import ModelsEvent, StepEvent
from storage.engine import open_database
from storage.queue import jobs
from storage.read.runs import read_runs, read_steps
from storage.write.records import RunWriter

THREADS = 8
OWNER = jobs.Owner(1, 1.0, "bench")


def claim_races(engines: list[Engine], races: int) -> Counter[str]:
    """What became of them: won once, twice, by nobody, raised."""
    outcomes: Counter[str] = Counter()
    with ThreadPoolExecutor(THREADS) as pool:
        for race in range(races):
            run_id = jobs.create_run(engines[0], parse({}))
            barrier = threading.Barrier(THREADS)

            def claim(n: int, run_id: str = run_id, barrier: threading.Barrier = barrier) -> object:
                barrier.wait()
                owner = replace(OWNER, pid=n)
                return jobs.claim(engines[n % len(engines)], run_id, f"slot {n % 2}", owner)

            tries = [pool.submit(claim, n) for n in range(THREADS)]
            raised = [t for t in tries if t.exception() is not None]
            won = [t for t in tries if t.exception() is None and t.result() is not None]
            outcomes["raised"] += len(raised)
            outcomes[{0: "nobody", 1: "once"}.get(len(won), "twice")] += 1
            if race % 2 == 0 and won:  # whether its slot can be had beside it
                taken = next(row["slot"] for row in jobs.running(engines[0]))
                other = jobs.create_run(engines[0], parse({}))
                outcomes["slot taken twice"] += (
                    jobs.claim(engines[1], other, taken, replace(OWNER, pid=99)) is not None
                )
                jobs.request_cancel(engines[0], other, "save")
            for row in jobs.running(engines[0]):
                jobs.finish(engines[0], row["id"], row["attempt"], "finished")
    return outcomes


@contextmanager
def openers() -> Iterator[Executor]:
    """THREADS processes, each of which takes part in every race of `migration_races`."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([__name__])
    barrier = processes.Barrier(THREADS)
    with ProcessPoolExecutor(THREADS, processes, _take_part, (barrier,)) as pool:
        yield pool


def migration_races(
    pool: Executor, new_database: Callable[[], str], drop: Callable[[str], None], races: int
) -> Counter[str]:
    """How many of the processes opened their new database, and what the others met."""
    outcomes: Counter[str] = Counter()
    for _ in range(races):
        url = new_database()
        tries = [pool.submit(_opened, url) for _ in range(THREADS)]
        outcomes.update(one.result() for one in tries)
        drop(url)
    return outcomes


_together: list[Barrier] = []


def _take_part(barrier: Barrier) -> None:
    _together.append(barrier)


def _opened(url: str) -> str:
    """A process that waits here takes no second one: each opens the database once."""
    _together[0].wait()
    try:
        engine = open_database(url)
        total = read_runs(engine)["total"]
        engine.dispose()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is counted
        return f"raised {type(error).__name__}: {error}"
    return "opened" if total == 0 else "found runs"


def writers(engine: Engine, count: int, seconds: float) -> dict[str, float]:
    """Each stores steps of 16 rollouts as fast as it can, all with one vocabulary."""
    until = time.monotonic() + seconds
    slowest: list[float] = []

    def write(number: int) -> int:
        config = parse({"name": f"writer {number}", "records": {"budget_mb": 100_000}})
        run_id = jobs.create_run(engine, config)
        attempt = jobs.claim(engine, run_id, f"writer {number}", OWNER)
        assert attempt is not None
        maker, step = RolloutMaker(number), 0
        writer = RunWriter(engine, run_id, attempt)
        writer.models(ModelsEvent({}, "one vocabulary", "cpu"), {})
        while time.monotonic() < until:
            step += 1
            rollouts = [
                maker.rollout(100, step=step, group=n // 4, sample=n % 4, fade=0.5)
                for n in range(16)
            ]
            event = StepEvent(step, {}, 1600, 1.0, {"reverse_kl": 0.5}, rollouts)
            slowest.append(writer.step(event, maker.vocabulary.lookup))
            jobs.heartbeat(engine, run_id, attempt)
        assert read_steps(engine, run_id)["columns"]["step"] == list(range(1, step + 1))
        jobs.finish(engine, run_id, attempt, "finished")
        return step

    with ThreadPoolExecutor(count) as pool:
        steps = sum(pool.map(write, range(count)))
    ordered = sorted(slowest)
    return {
        "steps": steps,
        "ms a step, median": 1000 * ordered[len(ordered) // 2],
        "ms a step, 99%": 1000 * ordered[int(len(ordered) * 0.99)],
    }
