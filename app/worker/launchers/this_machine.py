"""Processes of this machine, each in a session of its own."""

import signal
import subprocess
import threading
from collections.abc import Collection, Sequence
from pathlib import Path

from app.worker import process
from app.worker.launchers.launcher import JobNeeds, State
from app.worker.owners.place import host_name
from storage.queue.jobs import Owner


class ThisMachine:
    """A key is known for as long as its supervisor lives; of two jobs for one run, the second finds
    it claimed and leaves."""

    name = "local"
    title = "this machine"
    grace = 8.0

    def __init__(self) -> None:
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._keys: dict[str, str] = {}
        self._logs: dict[str, Path] = {}

    def check(self) -> None:
        """It answers."""

    def submit(self, key: str, command: Sequence[str], needs: JobNeeds, log: Path) -> str:
        """Raises OSError, of the log too. What is wanted is the caller's to give: devices have
        slots."""
        job = self._keys.get(key)
        if job is not None and self._state(job).phase == "running":
            return job
        return self.adopt(key, process.start_detached(command, log=log), log)

    def adopt(self, key: str, child: "subprocess.Popen[bytes]", log: Path) -> str:
        """A process that runs the key's command already."""
        owner = process.owner_of(child.pid)
        job = f"{child.pid}@{owner.started if owner else 0}"
        self._children[job], self._keys[key], self._logs[job] = child, job, log
        return job

    def states(self, jobs: Collection[str]) -> dict[str, State]:
        return {job: self._state(job) for job in jobs}

    def stop(self, job: str) -> None:
        owner = _owner(job)
        if owner is None or not process.alive(owner):
            return
        process.send([owner.pid], signal.SIGTERM)
        timer = threading.Timer(self.grace, self._kill, [owner])
        timer.daemon = True
        timer.start()

    def log(self, job: str) -> str:
        try:
            return self._logs[job].read_text(errors="replace")
        except (KeyError, OSError):
            return ""

    def forget(self, job: str) -> None:
        """One that has ended."""
        self._children.pop(job, None)
        self._logs.pop(job, None)
        self._keys = {key: other for key, other in self._keys.items() if other != job}

    def _state(self, job: str) -> State:
        child = self._children.get(job)
        if child is not None:
            code = child.poll()
            if code is None:
                return State("running", hosts=(host_name(),))
            return State("ended", exit_code=code, hosts=(host_name(),))
        owner = _owner(job)
        if owner is not None and process.alive(owner):
            return State("running", hosts=(host_name(),))
        return State("unknown", "there is no such process")

    @staticmethod
    def _kill(owner: Owner) -> None:
        if process.alive(owner):
            process.send([owner.pid], signal.SIGKILL)


def pid_of(job: str) -> int:
    return int(job.partition("@")[0])


def _owner(job: str) -> Owner | None:
    try:
        owner = process.owner_of(pid_of(job))
        same = owner is not None and abs(owner.started - float(job.partition("@")[2])) < 0.5
    except ValueError:
        return None
    return owner if same else None
