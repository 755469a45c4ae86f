"""Random life cycles of runs on two hosts with three PID namespaces, one data directory shared by
all of them and a copy of it.

    python -m bench.places.life_cycles [--count 200] [--seed 0] [--unchecked]

Rows, claims, heartbeats, judgements and burials are the product's own, on real directories;
processes, hosts and clocks are simulated. No living run may be ended by another, none may run
twice, and none may stay "running" without a process. `--unchecked` lets every owner be judged by
its pid, wherever it lives: then cycles must fail. Exits 1 where they do otherwise.
"""

import argparse
import logging
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from sqlalchemy import Engine, event

from app.worker import process, recovery
from app.worker.owners import place, standing
from app.worker.owners.place import Place
from app.worker.owners.standing import LOST_AFTER, Judge
from opd.config.run import parse
from storage.data_dir import DataDir
from storage.engine import open_database
from storage.queue import jobs
from storage.queue.jobs import Owner
from storage.read.runs import read_run

MOVES = 25  # of a cycle
TICK = 8.0  # seconds between two heartbeats, here
EPOCH = 2440587.5  # 1970 as a Julian day
RUNS = 2
SETTLING = 14  # heartbeats, longer than a silent owner is waited for


@dataclass(eq=False)
class Namespace:
    """Where process ids are counted; its ids are few, so that other namespaces have the same."""

    host: str
    name: str
    boots: dict[str, str]
    processes: dict[int, "SimulatedJob"] = field(default_factory=dict)

    def free_pid(self) -> int:
        return next(pid for pid in range(2, 1000) if pid not in self.processes)


@dataclass(eq=False)
class SimulatedJob:
    """A process that trains; its heartbeats stop while it is held still."""

    home: Namespace
    directory: "Directory"
    run_id: str
    attempt: int
    owner: Owner
    mark: str
    beat_at: float
    held_until: float = 0.0
    was_silent: bool = False


@dataclass(eq=False)
class Directory:
    data_dir: DataDir
    engine: Engine
    cancelled: set[str] = field(default_factory=set)
    judges: dict[Namespace, Judge] = field(default_factory=dict)


class World:
    """Everything that happens in one cycle; `faults` says what must not have happened."""

    def __init__(self, folder: Path, template: Path, dice: random.Random) -> None:
        self.faults: list[str] = []
        self.dice = dice
        self.now = 1_000_000.0
        self._folder = folder
        boots = {"a": "a1", "b": "b1"}
        self.namespaces = [Namespace(h, n, boots) for h, n in (("a", "1"), ("a", "2"), ("b", "1"))]
        self.acting = self.namespaces[0]
        self.directories = [self.opened(template)]
        config = parse({"name": "one", "device": "cpu", "steps": 5})
        first = self.directories[0].engine
        self.run_ids = [jobs.create_run(first, config) for _ in range(RUNS)]

    # What the product asks of the system, answered for the namespace that acts

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def owner_of(self, pid: int) -> Owner | None:
        job = self.acting.processes.get(pid)
        return None if job is None else Owner(pid, job.owner.started, self.boot_id())

    def boot_id(self) -> str:
        return self.acting.boots[self.acting.host]

    def carries(self, pid: int, mark: str) -> bool:
        return self.acting.processes[pid].mark == mark

    def send(self, pids: Iterable[int], number: signal.Signals) -> None:
        for pid in pids:
            job = self.acting.processes.pop(pid, None)
            if job is not None and job.run_id not in job.directory.cancelled:
                self.faults.append(f"{job.run_id} was ended by another ({number.name})")

    # Moves

    def opened(self, source: Path) -> Directory:
        path = self._folder / f"copy-{len(list(self._folder.iterdir()))}"
        shutil.copytree(source, path)
        engine = open_database(path)

        def connected(connection: object, _: object) -> None:
            clock = lambda _: EPOCH + self.now / 86400.0  # noqa: E731
            connection.create_function("julianday", 1, clock)  # type: ignore[attr-defined]

        event.listen(engine, "connect", connected)
        engine.dispose()
        return Directory(DataDir(path), engine)

    def living(self) -> list[SimulatedJob]:
        return [job for home in self.namespaces for job in home.processes.values()]

    def start(self) -> None:
        directory = self.dice.choice(self.directories)
        number, row = self.dice.choice(list(enumerate(self.rows(directory))))
        if row["status"] in ("finished", "running"):
            return
        if row["status"] != "queued":
            jobs.requeue(directory.engine, row["id"])
        directory.cancelled.discard(row["id"])
        pid, home = self.acting.free_pid(), self.acting
        here = Place.of(directory.data_dir)
        owner = Owner(pid, self.now, self.boot_id(), here.text)
        attempt = jobs.claim(directory.engine, row["id"], f"slot-{number}", owner)
        if attempt is not None:
            mark = here.mark(row["id"], attempt)
            home.processes[pid] = SimulatedJob(
                home, directory, row["id"], attempt, owner, mark, self.now
            )

    def kill(self) -> None:
        if jobs_here := list(self.acting.processes):
            del self.acting.processes[self.dice.choice(jobs_here)]

    def reboot(self) -> None:
        host = self.acting.host
        self.acting.boots[host] += "'"
        for home in self.namespaces:
            if home.host == host:
                home.processes.clear()

    def hold(self) -> None:
        if living := self.living():
            self.dice.choice(living).held_until = self.now + self.dice.uniform(5, 2.5 * LOST_AFTER)

    def copy(self) -> None:
        if len(self.directories) < 2:
            self.directories.append(self.opened(self.directories[0].data_dir.path))

    def cancel(self) -> None:
        directory = self.dice.choice(self.directories)
        row = self.dice.choice(self.rows(directory))
        if row["status"] == "running":
            jobs.request_cancel(directory.engine, row["id"], "save")
            directory.cancelled.add(row["id"])

    def finish(self) -> None:
        if living := [job for job in self.living() if job.held_until <= self.now]:
            job = self.dice.choice(living)
            self.left(job, jobs.finish(job.directory.engine, job.run_id, job.attempt, "finished"))

    def look(self) -> None:
        """As a supervisor, which looks again and again, or as a command, which knows nothing."""
        directory = self.dice.choice(self.directories)
        if self.dice.random() < 0.3:
            self.judge(directory, Judge(directory.data_dir))
        else:
            self.judge(directory, self.supervisor(directory))

    def supervisor(self, directory: Directory) -> Judge:
        return directory.judges.setdefault(self.acting, Judge(directory.data_dir))

    def judge(self, directory: Directory, judge: Judge) -> None:
        engine, data_dir = directory.engine, directory.data_dir
        for run in recovery.running(engine):
            if run.cancel_mode and judge.place.judges(run.owner):
                recovery.end_family(run, data_dir)
                recovery.settle_cancel(engine, data_dir, run)
            else:
                recovery.look(engine, data_dir, run, judge)

    def tick(self) -> None:
        self.now += TICK
        beaten: set[tuple[int, str]] = set()
        for job in self.living():
            job.was_silent |= self.now - job.beat_at > LOST_AFTER
            if job.held_until > self.now:
                continue
            try:
                cancelled = jobs.heartbeat(job.directory.engine, job.run_id, job.attempt)
            except jobs.LeaseLost:
                self.left(job, False)
                continue
            job.beat_at = self.now
            if cancelled:
                jobs.finish(job.directory.engine, job.run_id, job.attempt, "cancelled")
                self.left(job, True)
                continue
            held = (id(job.directory), job.run_id)
            if held in beaten:
                self.faults.append(f"{job.run_id} runs twice")
            beaten.add(held)

    def left(self, job: SimulatedJob, its_own: bool) -> None:
        """A job ends by itself, because it is done or because its run is another's by now."""
        del job.home.processes[job.owner.pid]
        if not its_own and not job.was_silent and job.run_id not in job.directory.cancelled:
            self.faults.append(f"{job.run_id} was taken over while it lived")

    def rows(self, directory: Directory) -> list[dict[str, Any]]:
        return [read_run(directory.engine, run_id) for run_id in self.run_ids]

    def settle(self) -> None:
        """Nothing more happens, and everybody looks: whatever has no process is to end."""
        for job in self.living():
            job.held_until = 0.0
        for _ in range(SETTLING):
            self.tick()
            for namespace in self.namespaces:
                self.acting = namespace
                for directory in self.directories:
                    self.judge(directory, self.supervisor(directory))
        holds = {(id(job.directory), job.run_id, job.attempt) for job in self.living()}
        for directory in self.directories:
            for run in jobs.running(directory.engine):
                if (id(directory), run["id"], run["attempt"]) not in holds:
                    self.faults.append(f"{run['id']} is stuck")

    def live(self) -> None:
        moves = (
            *(self.start,) * 4,
            *(self.look,) * 6,
            *(self.tick,) * 6,
            *(self.kill, self.reboot, self.hold, self.copy, self.cancel, self.finish),
        )
        for _ in range(MOVES):
            self.acting = self.dice.choice(self.namespaces)
            self.dice.choice(moves)()
            self.tick()
        self.settle()


@contextmanager
def simulated(world: World, *, checked: bool) -> Iterator[None]:
    """The product's modules ask the world instead of the system."""
    clock = SimpleNamespace(monotonic=world.monotonic, sleep=world.sleep)
    fakes: list[tuple[Any, str, Any]] = [
        (place, "host_name", lambda: world.acting.host),
        (place, "boot_id", world.boot_id),
        (place, "pid_namespace", lambda: world.acting.name),
        (process, "owner_of", world.owner_of),
        (process, "psutil", SimpleNamespace(pids=lambda: list(world.acting.processes))),
        (process, "_session", lambda _: -1),
        (process, "_carries", world.carries),
        (process, "send", world.send),
        (standing, "time", clock),
        (recovery, "time", clock),
    ]
    if not checked:
        fakes.append((Place, "judges", lambda _self, _owner: True))
    with ExitStack() as stack:
        for module, name, fake in fakes:
            stack.enter_context(patch.object(module, name, fake))
        yield


def cycle(seed: int, template: Path, *, checked: bool = True) -> list[str]:
    """What went wrong in one life cycle."""
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), template, random.Random(seed))
        with simulated(world, checked=checked):
            world.live()
        for directory in world.directories:
            directory.engine.dispose()
    return world.faults


def cycles(seeds: Iterable[int], *, checked: bool = True) -> dict[int, list[str]]:
    """Seed → what went wrong, of the cycles in which something did."""
    with tempfile.TemporaryDirectory() as folder:
        open_database(Path(folder)).dispose()
        faults_by_seed = {seed: cycle(seed, Path(folder), checked=checked) for seed in seeds}
    return {seed: faults for seed, faults in faults_by_seed.items() if faults}


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.places.life_cycles")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the first cycle")
    parser.add_argument("--unchecked", action="store_true")
    options = parser.parse_args()
    seeds = range(options.seed, options.seed + options.count)
    wrong = cycles(seeds, checked=not options.unchecked)
    for seed, faults in list(wrong.items())[:5]:
        print(f"  cycle {seed}: {faults[0]}")
    print(f"life cycles on two hosts, with a copy: {len(wrong)} of {options.count} went wrong")
    return int(bool(wrong) != options.unchecked)


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    sys.exit(main())
