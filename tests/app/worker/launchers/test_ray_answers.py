from typing import Any

import pytest

from app.worker.launchers.launcher import State
from app.worker.launchers.ray_answers import asked_for, jobs_in, refusal, state_of
from opd.errors import ErrorKind, UserError

AGENT = {"driver_agent_http_address": "http://10.0.0.7:52365"}
HOSTS = ("10.0.0.7",)


@pytest.mark.parametrize(
    ("job", "state"),
    [
        ({"status": "PENDING"}, State("waiting", "waiting for a node")),
        (
            {"status": "PENDING", "metadata": {"asks": "1 CPU, 2 GPU"}},
            State("waiting", "waiting for 1 CPU, 2 GPU"),
        ),
        (
            {"status": "RUNNING", "metadata": {"asks": "2 nodes", "nodes": "2"}, **AGENT},
            State("running", "waiting for 2 nodes"),
        ),
        ({"status": "RUNNING", **AGENT}, State("running", "running", HOSTS)),
        (
            {"status": "SUCCEEDED", "driver_exit_code": 0, **AGENT},
            State("ended", "", HOSTS, 0),
        ),
        ({"status": "FAILED", "driver_exit_code": -9, **AGENT}, State("ended", "", HOSTS, -9)),
        (
            {"status": "STOPPED", **AGENT},
            State("ended", "the job was stopped", HOSTS, kind=ErrorKind.TERMINATED),
        ),
        (
            {"status": "FAILED", "message": "Job supervisor actor died: node\nmore", **AGENT},
            State(
                "ended",
                "the job ended: Job supervisor actor died: node",
                HOSTS,
                kind=ErrorKind.LOST,
            ),
        ),
        (
            {"status": "FAILED", "error_type": "JOB_SUPERVISOR_ACTOR_START_TIMEOUT"},
            State("unknown", "Ray gave up waiting for its resources"),
        ),
        ({"status": "NEW"}, State("unknown", "Ray calls it NEW")),
    ],
)
def test_a_job_is_told_as_a_state(job: dict[str, Any], state: State) -> None:
    assert state_of(job) == state


def test_what_a_job_asks_for_is_told_whole() -> None:
    resources = {"CPU": 1, "GPU": 2.0, "memory": 16_000_000_000}
    text = "1 CPU, 2 GPU, 16 GB of memory, label kind=h100"
    assert asked_for(resources, {"kind": "h100"}) == text
    assert asked_for({"CPU": 4}, {}, nodes=3) == "3 nodes, each with 4 CPU"


def test_only_jobs_that_were_submitted_count() -> None:
    listed = [{"submission_id": "a", "status": "RUNNING"}, {"submission_id": None}]
    assert list(jobs_in(listed, "here")) == ["a"]
    with pytest.raises(UserError, match="list of jobs"):
        jobs_in({"jobs": []}, "here")


def test_of_a_traceback_the_last_line_is_told() -> None:
    assert (
        refusal("Traceback\n  File x\n\nValueError: no such label\n") == "ValueError: no such label"
    )
    assert refusal("") == "nothing more is told"
