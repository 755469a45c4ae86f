"""A run that trains in one container, beside a server in another, a second host and a served copy.

    python -m bench.places.namespaces [--opd COMMAND]

The containers are PID, mount and host name namespaces by unshare(1), which is what an engine makes
of an image; the second host has another boot id besides. All share one data directory. Exits 1
where somebody touches the run; where namespaces are not allowed, says so and exits 0.
"""

import argparse
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import update

from bench.places.common import OPD, PATIENCE, wait
from storage import schema
from storage.data_dir import DataDir
from storage.engine import begin, open_database
from storage.queue import jobs
from storage.read.runs import read_run, read_runs

SIZES = ("sampling.prompts_per_step=4", "evaluation.prompts=8", "checkpoints.every=1000")
TRAIN = ("train", "demo", *(f"--set={s}" for s in ("name=slow", "steps=5000", *SIZES)))
OTHER_BOOT = "11111111-2222-3333-4444-555555555555"
LOOKS = "seconds that everybody gets to do something wrong"


def container(name: str, boot: Path | None = None) -> list[str]:
    """The start of a command in namespaces of its own."""
    bind = f"mount --bind {boot} /proc/sys/kernel/random/boot_id && " if boot else ""
    spaces = ("--user", "--map-root-user", "--mount", "--uts", "--pid", "--fork", "--mount-proc")
    inside = f'hostname {name} && {bind}exec "$@"'
    return ["unshare", *spaces, "--kill-child", "sh", "-c", inside, "sh"]


def why_not() -> str:
    """Why namespaces cannot be had; "" where they can."""
    try:
        command = [*container("probe"), "true"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return str(error)
    return done.stderr.strip() or "not allowed" if done.returncode else ""


@dataclass
class Stage:
    """The shared directory, and all that works on it."""

    folder: Path
    opd: list[str]
    started: list["subprocess.Popen[str]"] = field(default_factory=list)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def start(self, data: Path, *arguments: str, inside: list[str]) -> "subprocess.Popen[str]":
        log = (self.folder / f"log-{len(self.started)}.txt").open("w")
        with log:
            process = subprocess.Popen(
                [*inside, *self.opd, *arguments, "--data-dir", str(data)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def said(self) -> str:
        logs = sorted(self.folder.glob("log-*.txt"))
        return "".join(f"--- {log.name}\n{log.read_text()[-1500:]}\n" for log in logs)

    def end(self) -> None:
        for process in self.started:  # unshare(1) follows no other signal; its child goes with it
            contained = "unshare" in str(process.args)
            process.send_signal(signal.SIGKILL if contained else signal.SIGTERM)
        for process in self.started:
            process.wait(PATIENCE)


@contextmanager
def stage(opd: list[str]) -> Iterator[Stage]:
    with tempfile.TemporaryDirectory() as folder:
        made = Stage(Path(folder), opd)
        try:
            yield made
        finally:
            made.end()


def played(scene: Stage, looks: float) -> dict[str, bool]:
    """What each did that must not touch the run → whether it did not."""
    engine = open_database(scene.data)
    scene.start(scene.data, *TRAIN, inside=container("trainer"))
    run: Callable[[], dict[str, Any]] = lambda: read_runs(engine)["items"][-1]  # noqa: E731
    wait(lambda: read_runs(engine)["total"] and run()["step"] >= 1, "the first step")
    run_id = run()["id"]

    copied = scene.folder / "copy"
    shutil.copytree(scene.data, copied)
    copy = open_database(copied)
    with begin(copy) as connection:  # as if the copy had been made long ago
        old = schema.run.c.heartbeat_at - 3600
        connection.execute(update(schema.run).values(heartbeat_at=old))
    jobs.request_cancel(copy, run_id, "save")
    scene.start(copied, "serve", "--port", "0", inside=[])
    scene.start(scene.data, "serve", "--port", "0", inside=container("server"))
    boot = scene.folder / "boot_id"
    boot.write_text(f"{OTHER_BOOT}\n")
    second = scene.start(scene.data, *TRAIN, inside=container("second", boot))

    wait(lambda: read_run(copy, run_id)["status"] != "running", "the copy lets its own row go")
    wait(lambda: DataDir(scene.data).server_note.exists(), "the server is there")
    wait(lambda: read_runs(engine)["total"] == 2, "the second host queues a run")
    other: Callable[[], dict[str, Any]] = lambda: read_runs(engine)["items"][0]  # noqa: E731
    wait(lambda: other()["status"] != "queued", "the second host starts it")
    step, until = run()["step"], time.monotonic() + looks
    wait(lambda: time.monotonic() > until or run()["status"] != "running", "everybody looks")
    wait(lambda: run()["status"] != "running" or run()["step"] > step, "a further step")
    now = run()
    alive = now["status"] == "running" and now["attempt"] == 1 and now["step"] > step
    checks = {
        "a server in another container leaves a living run alone": alive,
        "a command on another host trains on a device of its own": second.poll() is None
        and other()["status"] == "running",
        "a copy lets go of its own row, not of the process": alive
        and read_run(copy, run_id)["status"] == "cancelled",
    }
    for opened in (engine, copy):
        opened.dispose()
    return checks


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.places.namespaces")
    parser.add_argument("--opd", default=OPD, help="command in place of opd")
    parser.add_argument("--looks", type=float, default=12.0, help=LOOKS)
    options = parser.parse_args()
    if reason := why_not():
        print(f"namespaces: skipped, this machine does not allow them ({reason})")
        return 0
    with stage(shlex.split(options.opd)) as scene:
        try:
            checks = played(scene, options.looks)
        except TimeoutError as error:
            print(f"WRONG: {error}\n{scene.said()}")
            return 1
        for what, right in checks.items():
            print(f"{'right' if right else 'WRONG'}: {what}")
        if not all(checks.values()):
            print(scene.said())
    return int(not all(checks.values()))


if __name__ == "__main__":
    sys.exit(main())
