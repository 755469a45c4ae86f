"""What squeue and scontrol answer, read."""

import re
from dataclasses import replace

from app.worker.launchers.launcher import State
from opd.errors import ErrorKind

FIELDS = "JobID:|,State:|,Reason:|,NodeList:|,exit_code:|,Name:99|"
IO_ERROR = 4021  # slurmd's, where a job's output cannot be opened

WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT")
RUNNING = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING")
REASONS = {
    "None": "being scheduled",
    "Resources": "waiting for resources",
    "Priority": "waiting behind other jobs",
    "BeginTime": "waiting for its time of day",
    "JobHeldUser": "held (scontrol release lets it go on)",
    "JobHeldAdmin": "held by an administrator",
    "PartitionDown": "the partition is down",
    "PartitionInactive": "the partition is inactive",
    "PartitionTimeLimit": "asks for more time than the partition allows",
    "PartitionNodeLimit": "asks for more nodes than the partition has",
    "QOSMaxJobsPerUserLimit": "waiting for other jobs of this user to end",
    "AssocGrpGRES": "waiting for the group's other jobs to end",
}
ENDS: dict[str, tuple[str, ErrorKind]] = {
    "NODE_FAIL": ("{hosts} failed", ErrorKind.LOST),
    "BOOT_FAIL": ("{hosts} did not boot", ErrorKind.LOST),
    "TIMEOUT": ("the job's time was up", ErrorKind.TERMINATED),
    "DEADLINE": ("the job's deadline has passed", ErrorKind.TERMINATED),
    "OUT_OF_MEMORY": ("the job used more memory than it had asked for", ErrorKind.OUT_OF_MEMORY),
    "PREEMPTED": ("the job had to make room for another", ErrorKind.TERMINATED),
    "REVOKED": ("another cluster took the job", ErrorKind.TERMINATED),
    "CANCELLED": ("the job was cancelled", ErrorKind.TERMINATED),
}


def states_of(text: str) -> dict[str, State]:
    """By job, of squeue's lines with `FIELDS`."""
    rows = ([*line.split("|"), ""] for line in text.splitlines() if line.count("|") >= 4)
    cells_of = {row[0].strip(): [cell.strip() for cell in row[1:6]] for row in rows}
    return {job: replace(_state(*cells[:4]), key=cells[4]) for job, cells in cells_of.items()}


def setting(name: str, config: str) -> float | None:
    """A number of seconds in what `scontrol show config` says."""
    match = re.search(rf"^{name}\s*=\s*(\d+)", config, re.M)
    return float(match[1]) if match else None


def _state(state: str, reason: str, nodes: str, exit_code: str) -> State:
    hosts = tuple(_names(nodes))
    if state in WAITING:
        return State("waiting", REASONS.get(reason, reason))
    if state in RUNNING:
        return State("running", state.lower(), hosts)
    if state in ENDS:
        text, kind = ENDS[state]
        on = f"host {', '.join(hosts)}" if hosts else "its host"
        return State("ended", text.format(hosts=on), hosts, kind=kind)
    status = _wait_status(exit_code)
    if status == IO_ERROR:
        why = f"its log could not be opened on {', '.join(hosts)}: is the data directory there?"
        return State("ended", why, hosts, 1)
    return State("ended", "", hosts, _exit_code(status))


def _names(nodes: str) -> list[str]:
    """`n[1-3,7],login` as it is, but in pieces: commas within brackets do not part."""
    return [name for name in re.split(r",(?![^\[]*\])", nodes) if name and name != "(null)"]


def _wait_status(text: str) -> int | None:
    """As wait(2) gives it: `768`, or `3:0` in other versions."""
    if match := re.fullmatch(r"(\d+):(\d+)", text):
        return int(match[1]) << 8 | int(match[2])
    return int(text) if text.isdigit() else None


def _exit_code(status: int | None) -> int | None:
    if status is None:
        return None
    return -(status & 0x7F) if status & 0x7F else status >> 8
