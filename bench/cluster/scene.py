"""What happens to runs that are queued on two hosts: one host is killed, their controller is
restarted, and one host is cut off."""

import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine

from app.worker.owners.place import host_of
from opd.config.recipes import recipe
from opd.config.run import parse
from storage.queue import jobs
from storage.queue.hosts import read_hosts
from storage.read.runs import read_run, read_runs, read_steps
from tests.support.hosts.network import HostNetwork, HostProcess

STEPS = 2
SIZES = {"sampling": {"prompts_per_step": 4}, "evaluation": {"prompts": 8, "teacher": False}}
PATIENCE = 3600.0  # seconds
FIRST, KILLED = "one", "two"
Start = Callable[[str], HostProcess]  # what takes up work on a host, by the host's name


@dataclass
class Scene:
    """What happens to one set-up; `controllers` by their hosts."""

    network: HostNetwork
    engine: Engine
    control: Start
    revive: Callable[[str], None]  # what else a host runs once it is on again
    cut: str = FIRST
    controllers: dict[str, HostProcess] = field(default_factory=dict)
    runs: list[str] = field(default_factory=list)

    def start(self, host: str) -> None:
        """Until its supervisor is at work."""
        started = time.monotonic()
        self.controllers[host] = self.control(host)
        boot = (self.network.outside if host == "outside" else self.network[host]).boot

        def heard() -> bool:
            ages = [one.age for one in read_hosts(self.engine) if one.boot == boot]
            return any(age < time.monotonic() - started for age in ages)

        self.wait(heard, f"the controller on {host}")

    def queue(self, count: int) -> None:
        config = {**recipe("demo").config, **SIZES, "steps": STEPS, "device": "cpu"}
        for number in range(count):
            numbered = parse({**config, "name": f"run {number}"})
            self.runs.append(jobs.create_run(self.engine, numbered, recipe="demo"))

    def statuses(self) -> Counter[str]:
        listed = read_runs(self.engine, limit=len(self.runs))["items"]
        return Counter(run["status"] for run in listed)

    def wait(self, condition: Callable[[], Any], what: str) -> float:
        start = time.monotonic()
        while not condition():
            if time.monotonic() - start > PATIENCE:
                raise TimeoutError(f"{what}: {dict(self.statuses())}")
            time.sleep(0.2)
        return time.monotonic() - start

    def on(self, host: str) -> list[str]:
        """Runs that a job of that host has."""
        return [run["id"] for run in jobs.running(self.engine) if host_of(run["owner"]) == host]

    def ended(self) -> bool:
        return not {"queued", "running"} & self.statuses().keys()


def played(scene: Scene, cut: float) -> float:
    """What the module's first line says; after how many seconds the killed host's run was told to
    be interrupted."""
    scene.wait(lambda: scene.statuses()["finished"] >= 2, "two runs")
    scene.wait(lambda: scene.on(KILLED), "a run on the host that is killed")
    lost = scene.on(KILLED)
    say(f"{KILLED} is killed with {', '.join(lost)}")
    scene.network[KILLED].kill()
    noticed = scene.wait(lambda: not set(lost) & set(scene.on(KILLED)), "its run to be ended")
    say(f"told after {noticed:.0f} s; {KILLED} is started again, and a controller killed")
    scene.network.start(KILLED)
    scene.revive(KILLED)
    host = next(host for host in scene.controllers if host != KILLED)
    scene.controllers[host].send(signal.SIGKILL)
    scene.start(host)
    if KILLED in scene.controllers:
        scene.start(KILLED)
    scene.wait(lambda: scene.on(scene.cut) or scene.ended(), "a run on the host that is cut off")
    say(f"{scene.cut} is cut off for {cut:.0f} s with {', '.join(scene.on(scene.cut))}")
    scene.network.cut(scene.cut)
    time.sleep(cut)
    scene.network.mend(scene.cut)
    scene.wait(scene.ended, "every run's end")
    return noticed


def twice(scene: Scene) -> list[str]:
    """Runs that were done more than once, or ended without all their steps or a cause."""
    wrong = []
    for run_id in scene.runs:
        run = read_run(scene.engine, run_id)
        done = read_steps(scene.engine, run_id)["columns"]["step"]
        whole = run["status"] == "finished" and done == list(range(1, STEPS + 1))
        cause = run["status"] == "interrupted" and run["error_text"]
        if run["attempt"] != 1 or not (whole or cause):
            wrong.append(f"{run_id}: {run['status']}, attempt {run['attempt']}, steps {done}")
    return wrong


def say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
