"""What places jobs on machines: the seam between the supervisor and a cluster.

The truth about a run is its lease in the database. What a launcher answers only says earlier why a
job waits, where it runs, and how one that told nothing has ended.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol


@dataclass(frozen=True)
class Wanted:
    """What a job needs; None and empty: whatever the cluster gives by default."""

    gpus: int = 0
    nodes: int = 1
    memory_gb: float | None = None  # of each node
    hours: float | None = None
    partition: str | None = None  # of SLURM
    labels: dict[str, str] = field(default_factory=dict)  # of nodes, for Ray


@dataclass(frozen=True)
class State:
    """Of a job as its launcher tells it.

    waiting: not started, `why` says what for; running: on `hosts`; ended: `exit_code` where it is
    known (as subprocess gives it) and `why` it ended, in the launcher's words; unknown: the
    launcher has no such job, or does not answer (`why`)."""

    phase: Literal["waiting", "running", "ended", "unknown"]
    why: str = ""
    hosts: tuple[str, ...] = ()
    exit_code: int | None = None


class Launcher(Protocol):
    """Raises UserError where the cluster refuses, or does not answer."""

    name: str  # as in `--launcher`, and before the colon of a stored job
    grace: float  # seconds between a stop and the kill

    def check(self) -> None:
        """Once, before anything is submitted: whether the cluster answers."""

    def submit(self, key: str, command: Sequence[str], wanted: Wanted, log: Path) -> str:
        """Starts the command on a machine of the cluster, once for a key; returns the job's id.

        A key that was submitted before, by a supervisor that died before it could say so, gives
        that job again. No secret may be in the command."""

    def states(self, jobs: Collection[str]) -> dict[str, State]:
        """Of every one of these jobs, in one question."""

    def stop(self, job: str) -> None:
        """SIGTERM, and SIGKILL after `grace`; nothing where it has ended."""

    def log(self, job: str) -> str:
        """The job's last output where the log file cannot be seen from here; "" where there is
        none."""
