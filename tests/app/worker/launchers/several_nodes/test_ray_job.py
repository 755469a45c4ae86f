import signal
import threading
import time
from pathlib import Path

import pytest

from app.worker.launchers.launcher import JobNeeds
from app.worker.launchers.several_nodes import ray_job
from app.worker.launchers.several_nodes.ray_job import NodeProcess, NodesJob, follow

JOB = NodesJob("opd-a.1", ["train", "a b"], JobNeeds(nodes=2, processes=3), {"CPU": 1}, "/log")


class FakeNodes:
    """`free_after`: questions until they are held; `codes`: of each node, None while torchrun runs
    there, which ends with `stopped` once it is asked to."""

    def __init__(self, *codes: int | None, free_after: int = 0, stopped: int = 1) -> None:
        self.codes = list(codes)
        self.free_after = free_after
        self.stopped = stopped
        self.done: list[str] = []

    def wait(self, seconds: float) -> bool:
        self.free_after -= 1
        return self.free_after < 0

    def start(self, job: NodesJob) -> None:
        self.done.append(f"start {job.key}")

    def ended(self, seconds: float) -> dict[int, int]:
        time.sleep(0.001)
        ended = {node: code for node, code in enumerate(self.codes) if code not in (None, "told")}
        for node in ended:
            self.codes[node] = "told"  # type: ignore[call-overload]
        return ended  # type: ignore[return-value]

    def stop(self) -> None:
        self.done.append("stop")
        self.codes = [self.stopped if code is None else code for code in self.codes]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_job, "ENDS_BY_ITSELF", 0.05)
    monkeypatch.setattr(ray_job, "KILLED_AFTER", 0.1)


def stop(*, now: bool) -> threading.Event:
    event = threading.Event()
    if now:
        event.set()
    return event


def test_a_job_is_told_in_an_argument() -> None:
    assert NodesJob.parse(JOB.text()) == JOB


def test_it_ends_when_all_nodes_have() -> None:
    nodes = FakeNodes(0, 0, free_after=3)
    assert follow(nodes, JOB, stop(now=False)) == 0
    assert nodes.done == ["start opd-a.1"]


@pytest.mark.parametrize(("code", "expected"), [(3, 3), (-9, 137)])
def test_where_one_ends_otherwise_the_others_are_stopped(code: int, expected: int) -> None:
    nodes = FakeNodes(None, code)
    assert follow(nodes, JOB, stop(now=False)) == expected
    assert nodes.done == ["start opd-a.1", "stop"]


def test_all_are_stopped_when_it_is_asked_to() -> None:
    nodes = FakeNodes(None, None, stopped=0)
    assert follow(nodes, JOB, stop(now=True)) == 0
    assert nodes.done == ["start opd-a.1", "stop"]


def test_those_that_do_not_stop_are_not_waited_for() -> None:
    nodes = FakeNodes(4, None)
    nodes.stop = lambda: None  # type: ignore[method-assign]
    assert follow(nodes, JOB, stop(now=False)) == 4


def test_it_can_be_stopped_while_it_waits_for_nodes() -> None:
    nodes = FakeNodes(free_after=10**9)
    assert follow(nodes, JOB, stop(now=True)) == 0
    assert nodes.done == []


def test_a_node_adds_to_the_log_and_passes_on_sigterm(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("before\n")
    node = NodeProcess()
    assert node.run("sh -c 'printf after; exit 7'", str(log)) == 7
    assert log.read_text() == "before\nafter"
    thread = threading.Timer(0.3, node.stop)
    thread.start()
    assert node.run("sleep 60", str(log)) == -signal.SIGTERM
    thread.join()
    assert node.run("sleep 60", str(log)) == -signal.SIGTERM  # asked before it had started
