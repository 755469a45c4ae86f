"""The controller, against a cluster that does as it is told."""

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, update
from sqlalchemy.exc import OperationalError

from app.worker.devices.waiting import why_queued
from app.worker.job import EXIT_NOT_CLAIMED
from app.worker.launchers import cluster
from app.worker.launchers.cluster import Controller, needs_of
from app.worker.launchers.launcher import ClusterSilentError, JobNeeds, State
from opd.config.run import parse
from opd.errors import ErrorKind, UserError
from storage.data_dir import DataDir
from storage.engine import begin
from storage.queue import jobs, placing
from storage.queue.jobs import Owner
from storage.read.runs import read_run
from storage.schema import run

NODE = Owner(7, 1.0, "boot-of-the-node", "node 1 dir")
WAITING = State("waiting", "waiting for resources")
RUNNING = State("running", "running", ("node-1",))


@dataclass
class FakeCluster:
    name: str = "fake"
    title: str = "Fake"
    grace: float = 30.0
    jobs: dict[str, State] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    commands: list[Sequence[str]] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    error: UserError | None = None
    dies: bool = False  # the controller, before it could write down what it submitted

    def check(self) -> None:
        if self.error:
            raise self.error

    def submit(self, key: str, command: Sequence[str], needs: JobNeeds, log: Path) -> str:
        if self.error:
            raise self.error
        if key not in self.keys:
            self.commands.append(command)
            self.keys[key] = str(len(self.keys) + 1)
            self.jobs[self.keys[key]] = WAITING
        if self.dies:
            raise KeyboardInterrupt
        return self.keys[key]

    def states(self, jobs: Collection[str]) -> dict[str, State]:
        if self.error:
            raise self.error
        return {job: self.jobs.get(job, State("unknown")) for job in jobs}

    def stop(self, job: str) -> None:
        self.stopped.append(job)

    def log(self, job: str) -> str:
        return ""


@dataclass
class Case:
    engine: Engine
    data_dir: DataDir
    cluster: FakeCluster = field(default_factory=FakeCluster)

    def __post_init__(self) -> None:
        self.controller = self.another()

    def another(self) -> Controller:
        return Controller(self.engine, self.data_dir, ["job"], self.cluster)

    def turns(self) -> None:
        """Two, with more than the shortened patience between them."""
        self.controller.turn()
        time.sleep(0.25)
        self.controller.turn()

    def queue(self, **config: Any) -> str:
        return jobs.create_run(self.engine, parse({"device": "cpu"} | config))

    def run(self, run_id: str) -> dict[str, Any]:
        return read_run(self.engine, run_id)

    def job(self, run_id: str) -> str | None:
        rows = placing.placed(self.engine, "fake") + placing.unplaced(self.engine, "fake")
        return next((row.job for row in rows if row.id == run_id), None)

    def claim(self, run_id: str, job: str = "fake:1") -> int | None:
        """As the job on its node does."""
        return jobs.claim(self.engine, run_id, "cpu", NODE, job, (job,))

    def waits_for(self, run_id: str) -> str | None:
        return why_queued(self.engine, [self.run(run_id)], "").get(run_id)


@pytest.fixture
def case(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    for name in ("QUIET", "STOPS_BY_ITSELF"):
        monkeypatch.setattr(cluster, name, 0.2)
    yield Case(engine, DataDir(tmp_path))


def test_a_queued_run_is_submitted_once_and_its_job_runs_it(case: Case) -> None:
    run_id = case.queue()
    case.controller.turn()
    case.another().turn()
    case.controller.turn()
    [command] = case.cluster.commands
    assert list(command[:2]) == ["job", run_id]
    assert f"fake:?opd-{run_id}-1-" in " ".join(command) and "--grace 30" in " ".join(command)
    assert case.job(run_id) == "fake:1"
    assert case.waits_for(run_id) == "Fake: waiting for resources"
    case.cluster.jobs["1"] = RUNNING
    case.controller.turn()
    assert case.waits_for(run_id) == "Fake: starts on node-1"
    case.cluster.jobs["1"] = State("running", "waiting for 2 nodes")  # which it is to take itself
    case.controller.turn()
    assert case.waits_for(run_id) == "Fake: waiting for 2 nodes"
    assert case.claim(run_id) == 1
    case.controller.turn()
    jobs.finish(case.engine, run_id, 1, "finished")
    case.controller.turn()
    assert case.cluster.stopped == [] and case.job(run_id) == "fake:1"  # it may be tidying up
    case.cluster.jobs["1"] = State("ended", exit_code=0)
    case.controller.turn()
    assert case.job(run_id) is None and case.run(run_id)["status"] == "finished"


def test_a_command_lines_own_run_is_not_submitted(case: Case) -> None:
    jobs.create_run(case.engine, parse({"device": "cpu"}), waiter=NODE)
    case.controller.turn()
    assert case.cluster.commands == []


def test_a_controller_that_dies_before_it_has_written_down_the_job(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = case.queue()
    case.cluster.dies = True
    with pytest.raises(KeyboardInterrupt):
        case.controller.turn()
    case.cluster.dies = False
    assert str(case.job(run_id)).startswith("fake:?opd-")
    case.another().turn()
    assert str(case.job(run_id)).startswith("fake:?opd-")  # as another one may be about to
    monkeypatch.setattr(cluster, "SUBMITTED_WITHIN", 0.0)
    case.another().turn()
    assert case.job(run_id) == "fake:1" and len(case.cluster.commands) == 1


def test_a_job_claims_its_run_before_the_controller_has_written_it_down(case: Case) -> None:
    run_id = case.queue()
    case.cluster.dies = True
    with pytest.raises(KeyboardInterrupt):
        case.controller.turn()
    names = ("fake:1", str(case.job(run_id)))
    assert jobs.claim(case.engine, run_id, "cpu", NODE, names[0], names) == 1
    assert case.job(run_id) == "fake:1"
    assert jobs.claim(case.engine, run_id, "cpu", NODE, names[0], names) is None


def test_a_cancelled_run_that_waits_has_its_job_stopped(case: Case) -> None:
    run_id = case.queue()
    case.controller.turn()
    jobs.request_cancel(case.engine, run_id, "save")
    case.controller.turn()
    case.controller.turn()
    assert case.cluster.stopped == ["1"]
    case.cluster.jobs["1"] = State("ended", "the job was cancelled", kind=ErrorKind.TERMINATED)
    case.controller.turn()
    assert case.job(run_id) is None and case.run(run_id)["status"] == "cancelled"
    jobs.requeue(case.engine, run_id)
    case.controller.turn()
    assert len(case.cluster.commands) == 2 and case.job(run_id) == "fake:2"
    assert case.claim(run_id, "fake:1") is None  # the old job is of no use any more


def test_a_cancelled_job_that_does_not_listen_is_stopped(case: Case) -> None:
    run_id = case.queue()
    case.controller.turn()
    case.claim(run_id)
    case.cluster.jobs["1"] = RUNNING
    jobs.request_cancel(case.engine, run_id, "save")
    case.controller.turn()
    assert case.cluster.stopped == []
    time.sleep(0.25)
    case.controller.turn()
    assert case.cluster.stopped == ["1"]
    case.cluster.jobs["1"] = State("ended", exit_code=-9)
    case.turns()
    assert case.run(run_id)["status"] == "cancelled"


def test_a_job_that_ends_unclaimed_fails_its_run_with_its_last_words(case: Case) -> None:
    run_id = case.queue()
    case.controller.turn()
    log = case.data_dir.run(run_id).log
    log.write_text("Traceback\nError: opd-studio: on node-1 is 0.2, the server's is 0.1\n")
    case.cluster.jobs["1"] = State("ended", exit_code=2)
    case.controller.turn()
    row = case.run(run_id)
    assert row["status"] == "failed"
    assert "Fake: the job did not start: the job ended with exit code 2" in row["error_text"]
    assert "on node-1 is 0.2, the server's is 0.1" in row["error_text"]
    case.controller.turn()
    assert case.job(run_id) is None and len(case.cluster.commands) == 1


def test_a_job_whose_host_fails_is_interrupted_with_that_cause_once_it_is_silent(
    case: Case,
) -> None:
    run_id = case.queue()
    case.controller.turn()
    case.claim(run_id)
    case.cluster.jobs["1"] = State("ended", "host node-1 failed", kind=ErrorKind.LOST)
    for _ in range(4):  # it is said to be dead, and lives
        case.controller.turn()
        time.sleep(0.1)
        jobs.heartbeat(case.engine, run_id, 1)
    assert case.run(run_id)["status"] == "running"
    case.turns()
    row = case.run(run_id)
    assert row["status"] == "interrupted" and row["error_kind"] == "lost"
    assert row["error_text"] == "Fake: host node-1 failed"
    jobs.requeue(case.engine, run_id)
    case.controller.turn()
    assert case.job(run_id) == "fake:2" and "-2-" in list(case.cluster.keys)[1]


def test_a_job_that_outlives_its_lease_is_stopped(case: Case) -> None:
    run_id = case.queue()
    case.controller.turn()
    case.claim(run_id)
    case.cluster.jobs["1"] = RUNNING
    jobs.finish(case.engine, run_id, 1, "interrupted")
    case.turns()
    assert case.cluster.stopped == ["1"]


def test_a_run_that_this_machine_took_needs_its_job_no_more(case: Case) -> None:
    run_id = case.queue()
    case.controller.turn()
    assert jobs.claim(case.engine, run_id, "cpu", NODE) == 1
    case.controller.turn()
    assert case.cluster.stopped == ["1"] and case.run(run_id)["status"] == "running"


def test_a_job_that_the_cluster_has_forgotten_is_submitted_again(case: Case) -> None:
    run_id = case.queue()
    case.controller.turn()
    case.cluster.jobs.clear()
    case.cluster.keys.clear()
    case.controller.turn()
    case.controller.turn()
    assert len(case.cluster.commands) == 2 and case.job(run_id) == "fake:1"


def test_what_the_cluster_refuses_fails_with_the_field(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> str:
        raise UserError("is no partition (got nope)", where="resources.partition")

    run_id = case.queue(resources={"partition": "nope"})
    monkeypatch.setattr(case.cluster, "submit", refuse)
    case.controller.turn()
    row = case.run(run_id)
    assert row["status"] == "failed" and row["error_kind"] == "bad input"
    assert row["error_text"] == "resources.partition: is no partition (got nope)"
    assert row["cluster_job"] is None


def test_a_cluster_that_does_not_answer_is_named_and_asked_again(case: Case) -> None:
    run_id = case.queue()
    case.cluster.error = ClusterSilentError("does not answer: no route", where="--launcher fake")
    assert case.controller.turn() == cluster.TURN_SILENT
    assert case.waits_for(run_id) == "Fake: does not answer: no route"
    case.cluster.error = None
    assert case.controller.turn() == cluster.TURN
    assert case.job(run_id) == "fake:1"


def test_a_database_that_fails_while_a_cluster_is_silent_ends_no_turn(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = case.queue()
    case.cluster.error = ClusterSilentError("does not answer: no route", where="--launcher fake")

    def fail(*_: Any) -> None:
        raise OperationalError("UPDATE run", {}, Exception("deadlock detected"))

    with monkeypatch.context() as patched:
        patched.setattr(placing, "tell", fail)
        assert case.controller.turn() == cluster.TURN_SILENT
    assert case.waits_for(run_id) is None
    assert case.controller.turn() == cluster.TURN_SILENT
    assert case.waits_for(run_id) == "Fake: does not answer: no route"


@pytest.mark.parametrize(("other", "stopped"), [("fake:9", ["1"]), ("fake:1", [])])
def test_a_job_that_another_controller_submitted_meanwhile_is_the_only_one(
    case: Case, monkeypatch: pytest.MonkeyPatch, other: str, stopped: list[str]
) -> None:
    run_id = case.queue()
    submit = case.cluster.submit

    def late(*arguments: Any) -> str:
        assert placing.record(case.engine, run_id, str(case.job(run_id)), other)
        return submit(*arguments)

    monkeypatch.setattr(case.cluster, "submit", late)
    case.controller.turn()
    assert case.job(run_id) == other and case.cluster.stopped == stopped


def test_a_deleted_row_of_another_launcher_is_left_alone(case: Case) -> None:
    run_id = case.queue()
    with begin(case.engine) as connection:
        connection.execute(update(run).where(run.c.id == run_id).values(cluster_job="slurm:9"))
    case.controller.turn()
    assert case.cluster.commands == []


def test_a_cluster_that_counts_anew_says_nothing_of_a_run_before(case: Case) -> None:
    """Killed before it has kept its state, SLURM gives numbers of jobs out a second time."""
    run_id = case.queue()
    case.controller.turn()
    assert case.claim(run_id) == 1
    case.cluster.jobs["1"] = State("ended", exit_code=0, key="opd-run-another0-1-5")
    case.turns()
    case.turns()
    assert case.run(run_id)["status"] == "running"


def test_a_job_that_was_started_twice_is_interrupted(case: Case) -> None:
    run_id = case.queue()
    case.controller.turn()
    assert case.claim(run_id) == 1
    case.cluster.jobs["1"] = State("ended", exit_code=EXIT_NOT_CLAIMED)
    case.turns()
    row = case.run(run_id)
    assert (row["status"], row["error_kind"]) == ("interrupted", "killed")
    assert row["error_text"].startswith("Fake: started the job again, which ended the first")


def test_what_a_run_wants() -> None:
    resources = {"nodes": 2, "cpus": 8, "memory_gb": 64, "hours": 2, "partition": "gpu"}
    needs = needs_of(parse({"device": "cuda", "devices": 8, "resources": resources}))
    assert needs == JobNeeds(4, False, 4, 2, 8, 64, 2, "gpu")
    assert needs_of(parse({})) == JobNeeds(gpus=1, gpus_if_any=True)
    assert needs_of(parse({"device": "cpu"})) == JobNeeds()


@pytest.mark.parametrize("device", ["cuda:1", "mps"])
def test_a_device_of_a_certain_machine_is_refused(case: Case, device: str) -> None:
    run_id = case.queue(device=device)
    case.controller.turn()
    text = f"where a cluster gives out its GPUs (got {device})"
    assert text in case.run(run_id)["error_text"]
    assert case.cluster.commands == []
