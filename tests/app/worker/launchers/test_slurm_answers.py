"""What SLURM 22.05 has answered, recorded."""

import pytest

from app.worker.launchers.launcher import State
from app.worker.launchers.slurm_answers import setting, states_of
from opd.errors import ErrorKind

SQUEUE = """\
1|CANCELLED|None|n1|0|
3|PENDING|PartitionTimeLimit||0|
5|FAILED|JobLaunchFailure|n2|4021|
6|RUNNING|None|n[1-2]|0|
7|FAILED|NonZeroExitCode|n2|768|
8|FAILED|JobLaunchFailure|n2|9|
9|FAILED|JobLaunchFailure|n1|11|
10|FAILED|NonZeroExitCode|n1|33280|
12|COMPLETED|None|n1|0|
13|PENDING|Resources||0|
14|NODE_FAIL|None|n1|0|
15|TIMEOUT|TimeLimit|n1|15|
16|OUT_OF_MEMORY|OutOfMemory|n1|125|
17|PREEMPTED|None|n1|0|
18|FAILED|NonZeroExitCode|n2|3:0|
19|PENDING|ReqNodeNotAvail, UnavailableNodes:n2||0|
"""


def test_states() -> None:
    states = states_of(SQUEUE)
    assert list(states) == [line.split("|")[0] for line in SQUEUE.splitlines()]
    assert states["6"] == State("running", "running", ("n[1-2]",))
    assert states["13"] == State("waiting", "waiting for resources")
    assert states["3"].why == "asks for more time than the partition allows"
    assert states["19"].why == "ReqNodeNotAvail, UnavailableNodes:n2"
    codes = {job: s.exit_code for job, s in states.items() if s.phase == "ended" and not s.kind}
    assert codes == {"5": 1, "7": 3, "8": -9, "9": -11, "10": 130, "12": 0, "18": 3}
    assert states["5"].why == "its log could not be opened on n2: is the data directory there?"


@pytest.mark.parametrize(
    ("job", "kind", "why"),
    [
        ("1", ErrorKind.TERMINATED, "the job was cancelled"),
        ("14", ErrorKind.LOST, "host n1 failed"),
        ("15", ErrorKind.TERMINATED, "the job's time was up"),
        ("16", ErrorKind.OUT_OF_MEMORY, "the job used more memory than it had asked for"),
        ("17", ErrorKind.TERMINATED, "the job had to make room for another"),
    ],
)
def test_what_the_cluster_has_ended(job: str, kind: ErrorKind, why: str) -> None:
    state = states_of(SQUEUE)[job]
    assert (state.phase, state.kind, state.why, state.exit_code) == ("ended", kind, why, None)


def test_a_job_says_whose_it_is() -> None:
    states = states_of("2|RUNNING|None|n1|0|opd-run-fm1z78y4-1-4711      |\n")
    assert states == {"2": State("running", "running", ("n1",), key="opd-run-fm1z78y4-1-4711")}


def test_no_lines_and_a_setting() -> None:
    assert states_of("") == states_of("slurm_load_jobs error: Invalid job id specified") == {}
    config = "KeepAliveTime           = SYSTEM_DEFAULT\nKillWait                = 30 sec\n"
    assert setting("KillWait", config) == 30
    assert setting("KillWait", "") is None
