"""What places jobs on machines: the seam between the supervisor and a cluster.

The truth about a run is its lease in the database. What a launcher answers only says earlier why a
job waits, where it runs, and how one that told nothing has ended.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from opd.errors import ErrorKind, UserError

VARIABLE = "OPD_LAUNCHER"  # `opd serve --launcher` for its supervisor
JOB_VARIABLE = "OPD_CLUSTER_JOB"  # LAUNCHER:JOB, in a job's environment
PATIENCE = 25.0  # seconds for an answer of the cluster's
QUESTIONS = 4  # that a submission asks it at most
LEAD = 60  # seconds before a job's time is up in which it saves


class ClusterSilentError(UserError):
    """The cluster does not answer; it may do so later."""


@dataclass(frozen=True)
class JobNeeds:
    """What a job needs; None and empty: whatever the cluster gives by default."""

    gpus: int = 0  # of each node
    gpus_if_any: bool = False  # only where the cluster has GPUs
    processes: int = 1  # that train together, on each node
    nodes: int = 1
    cpus: int | None = None  # cores of each node
    memory_gb: float | None = None  # of each node
    hours: float | None = None
    partition: str | None = None  # of SLURM
    labels: dict[str, str] = field(default_factory=dict)  # of nodes, for Ray


@dataclass(frozen=True)
class State:
    """Of a job as its launcher tells it.

    waiting: not started, `why` says what for; running: on `hosts`, and where they are not known,
    `why` says what it may wait for yet; ended: `exit_code` where it is
    known (as subprocess gives it) and `why` it ended, in the launcher's words; unknown: the
    launcher has no such job.

    `kind` is that of a failure by the cluster's doing, where no exit code tells of it; `key` that
    with which the job was submitted, where the launcher tells it."""

    phase: Literal["waiting", "running", "ended", "unknown"]
    why: str = ""
    hosts: tuple[str, ...] = ()
    exit_code: int | None = None
    kind: ErrorKind | None = None
    key: str = ""

    @property
    def over(self) -> bool:
        """Whether nothing more comes of the job."""
        return self.phase in ("ended", "unknown")


class Launcher(Protocol):
    """Raises UserError where the cluster refuses, ClusterSilentError where it does not answer."""

    name: str  # as in `--launcher`, and before the colon of a stored job
    title: str  # as people call it
    grace: float  # seconds between a stop and the kill

    def check(self) -> None:
        """Once, before anything is submitted: whether the cluster answers."""

    def submit(self, key: str, command: Sequence[str], needs: JobNeeds, log: Path) -> str:
        """Starts the command on a machine of the cluster, once for a key; returns the job's id.

        A key whose job lives gives that job again: it was submitted by a supervisor that died
        before it could say so. The command's output is added to `log`. No secret may be in the
        command."""

    def states(self, jobs: Collection[str]) -> dict[str, State]:
        """Of every one of these jobs, in one question."""

    def stop(self, job: str) -> None:
        """SIGTERM, and SIGKILL after `grace`; nothing where it has ended."""

    def log(self, job: str) -> str:
        """The job's last output where the log file cannot be seen from here; "" where there is
        none."""
