"""What every launcher does, as tests; a subclass has the fixtures `launcher` and `folder`, a folder
that its hosts see."""

import sys
import time
import uuid
from pathlib import Path

from app.worker.launchers.launcher import JobNeeds, Launcher, State

SAYS = "import os, sys; print('hello from', os.getpid(), flush=True); sys.exit(3)"
WAITS = (
    "import pathlib, signal, sys, time\n"
    "path, seconds = pathlib.Path(sys.argv[1]), float(sys.argv[2])\n"
    "def stop(*_):\n"
    "    path.touch(); time.sleep(seconds); path.with_suffix('.saved').touch(); sys.exit()\n"
    "signal.signal(signal.SIGTERM, stop); print('ready', flush=True)\n"
    "while True: time.sleep(0.05)"
)
SECONDS = 60.0


class LauncherContract:
    def wait(self, launcher: Launcher, job: str, phase: str) -> State:
        until = time.monotonic() + SECONDS
        while (state := launcher.states([job])[job]).phase != phase:
            assert time.monotonic() < until, f"{state}, not {phase}"
            time.sleep(0.1)
        return state

    def wait_for_line(self, log: Path, text: str) -> None:
        until = time.monotonic() + SECONDS
        while not log.is_file() or text not in log.read_text():
            assert time.monotonic() < until, f"{text} was not said"
            time.sleep(0.05)

    def submit(self, launcher: Launcher, folder: Path, *code: str, key: str | None = None) -> str:
        command = [sys.executable, "-c", *code]
        return launcher.submit(
            key or f"opd-{uuid.uuid4().hex}", command, JobNeeds(), folder / "log"
        )

    def test_a_job_says_where_it_runs_and_how_it_ended(
        self, launcher: Launcher, folder: Path
    ) -> None:
        launcher.check()
        job = self.submit(launcher, folder, SAYS)
        state = self.wait(launcher, job, "ended")
        assert state.exit_code == 3
        assert len(state.hosts) == 1
        self.wait_for_line(folder / "log", "hello from")
        assert "hello from" in launcher.log(job)

    def test_output_is_added_to_the_log(self, launcher: Launcher, folder: Path) -> None:
        (folder / "log").write_text("of an attempt before\n")
        self.wait(launcher, self.submit(launcher, folder, SAYS), "ended")
        self.wait_for_line(folder / "log", "hello from")
        assert (folder / "log").read_text().startswith("of an attempt before\n")

    def test_stop_is_sigterm_and_time_to_save(self, launcher: Launcher, folder: Path) -> None:
        signalled = folder / "signalled"
        seconds = min(1.0, launcher.grace / 2)
        job = self.submit(launcher, folder, WAITS, str(signalled), str(seconds))
        self.wait(launcher, job, "running")
        self.wait_for_line(folder / "log", "ready")
        launcher.stop(job)
        self.wait(launcher, job, "ended")
        assert signalled.with_suffix(".saved").exists()
        launcher.stop(job)  # of one that has ended: nothing

    def test_one_that_does_not_stop_is_killed_after_the_grace(
        self, launcher: Launcher, folder: Path
    ) -> None:
        signalled = folder / "signalled"
        job = self.submit(launcher, folder, WAITS, str(signalled), "600")
        self.wait_for_line(folder / "log", "ready")
        launcher.stop(job)
        self.wait(launcher, job, "ended")
        assert signalled.exists() and not signalled.with_suffix(".saved").exists()

    def test_a_living_key_is_one_job(self, launcher: Launcher, folder: Path) -> None:
        arguments = (WAITS, str(folder / "signalled"), "0")
        first = self.submit(launcher, folder, *arguments, key="opd-once")
        assert self.submit(launcher, folder, *arguments, key="opd-once") == first
        self.wait_for_line(folder / "log", "ready")
        launcher.stop(first)
        self.wait(launcher, first, "ended")
        assert (folder / "log").read_text().count("ready") == 1
        other = self.submit(launcher, folder, SAYS, key="opd-once")
        assert other != first
        self.wait(launcher, other, "ended")

    def test_a_job_that_never_was(self, launcher: Launcher, folder: Path) -> None:
        job = self.submit(launcher, folder, SAYS)
        self.wait(launcher, job, "ended")
        unknown = self.unknown(job)
        states = launcher.states([unknown, job])
        assert (states[unknown].phase, states[job].phase) == ("unknown", "ended")
        assert launcher.states([]) == {}
        assert launcher.log(unknown) == ""
        launcher.stop(unknown)

    def unknown(self, job: str) -> str:
        """An id that the launcher never gave."""
        return f"9{job}"
