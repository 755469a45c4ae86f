"""Data directories on file systems that lack something, by real mounts and preloaded libraries.

    python -m bench.places.file_systems [--opd COMMAND] [SCENE…]

Everything happens in a mount namespace of its own (unshare(1)), which needs root or the right to
make one; the libraries, in whose place calls fail, need cc. Exits 1 where a scene goes wrong; what
cannot be tried here is said.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from bench.places.common import OPD, wait
from opd.config.run import parse
from opd.network import client
from storage.engine import open_database
from storage.queue import jobs

INSIDE = "OPD_BENCH_NAMESPACE"  # set in the namespace
NO_FLOCK = "int flock(int f, int o) { errno = ENOSYS; return -1; }"
NO_RECORDS = """
static int refused(int f, int c, void *p) {
  static int (*real)(int, int, ...);
  if (!real) real = dlsym(RTLD_NEXT, "fcntl64");
  if (c == F_SETLK || c == F_SETLKW) { errno = ENOLCK; return -1; }
  return real(f, c, p);
}
#define REFUSED(f, c) va_list a; va_start(a, c); return refused(f, c, va_arg(a, void *));
int fcntl(int f, int c, ...) { REFUSED(f, c) }
int fcntl64(int f, int c, ...) { REFUSED(f, c) }
"""
HEAD = "#define _GNU_SOURCE\n#include <dlfcn.h>\n#include <errno.h>\n#include <fcntl.h>\n"
HEAD += "#include <stdarg.h>\n"


class UntriedError(Exception):
    """What keeps a scene from being tried here."""


class Ground:
    """A folder for mounts, and the command on a data directory in it."""

    def __init__(self, folder: Path, opd: list[str]) -> None:
        self.folder = folder
        self._opd = opd

    def command(self, data: Path, *arguments: str) -> list[str]:
        return [*self._opd, *arguments, "--data-dir", str(data)]

    def opd(self, data: Path, *arguments: str, **environment: str) -> tuple[int, str, str]:
        done = subprocess.run(
            self.command(data, *arguments),
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    def with_a_run(self, data: Path) -> str:
        engine = open_database(data)
        run_id = jobs.create_run(engine, parse({"name": "slow"}))
        engine.dispose()
        return run_id

    def mounted(self, name: str, options: str) -> Path:
        folder = self.folder / name
        folder.mkdir()
        mount("-t", "tmpfs", "-o", options, "tmpfs", str(folder))
        return folder

    def library(self, text: str) -> str:
        """Raises UntriedError where there is no compiler."""
        if shutil.which("cc") is None:
            raise UntriedError("there is no cc")
        source, built = self.folder / "calls.c", self.folder / "calls.so"
        source.write_text(HEAD + text, encoding="utf-8")
        subprocess.run(["cc", "-shared", "-fPIC", "-o", built, source, "-ldl"], check=True)
        return str(built)


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def archive(ground: Ground) -> None:
    """A read-only mount is read; what writes says why it cannot."""
    data = ground.folder / "archive"
    run_id = ground.with_a_run(data)
    mount("--bind", str(data), str(data))
    mount("-o", "remount,ro,bind", str(data))
    code, out, err = ground.opd(data, "runs", "--json")
    assert (code, json.loads(out)["total"]) == (0, 1), err
    assert ground.opd(data, "show", run_id)[0] == 0
    report = str(ground.folder / "report.html")
    assert ground.opd(data, "report", run_id, "--out", report)[0] == 0
    code, _, err = ground.opd(data, "rename", run_id, "x")
    assert code == 2 and "can only be read" in err, err
    code, out, err = ground.opd(data, "serve", "--port", "0")
    assert (code, out) == (2, "") and "Read-only file system" in err, err


def log_without_index(ground: Ground) -> None:
    """An archive of a killed run, without the index of its log: nothing in the log is missing."""
    data = ground.folder / "killed"
    program = (
        "import os, sys; from pathlib import Path; from opd.config.run import parse\n"
        "from storage.engine import open_database; from storage.queue import jobs\n"
        "jobs.create_run(open_database(Path(sys.argv[1])), parse({})); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", program, data], check=True)
    (data / "studio.db-shm").unlink()
    mount("--bind", str(data), str(data))
    mount("-o", "remount,ro,bind", str(data))
    code, out, err = ground.opd(data, "runs", "--json")
    assert (code, json.loads(out)["total"]) == (0, 1), err


def full(ground: Ground) -> None:
    """A disk that fills amid a run: that is the cause which is stored, and the run goes on from its
    last checkpoint once there is room."""
    disk = ground.mounted("full", "size=80m")  # a checkpoint of the bundled student has 11 MB
    data = disk / "data"
    sizes = ("name=slow", "steps=60", "checkpoints.every=2", "device=cpu")
    short = ("sampling.prompts_per_step=4", "evaluation.prompts=8", "evaluation.every=0")
    options = [f"--set={s}" for s in (*sizes, *short, "evaluation.teacher=false")]
    with running(ground.command(data, "train", "demo", *options)) as train:
        wait(lambda: any(data.glob("runs/*/checkpoints/*")), "the first checkpoint")
        filler = disk / "filler"
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(b"\1" * 4096):
                pass
        _, err = train.communicate()
    assert train.returncode == 1 and "disk is full" in err, err
    filler.unlink()
    [run] = json.loads(ground.opd(data, "runs", "--json")[1])["items"]
    assert (run["status"], run["error_kind"]) == ("failed", "disk full"), run
    code, out, err = ground.opd(data, "resume", run["id"])
    assert code == 0 and "finished after 60 steps" in out, err


def no_record_locks(ground: Ground) -> None:
    """SQLite would wait for half a minute, and blame another program."""
    preload = ground.library(NO_RECORDS)
    start = time.monotonic()
    code, _, err = ground.opd(ground.folder / "records", "runs", LD_PRELOAD=preload)
    assert code == 2 and "without record locks" in err, err
    assert time.monotonic() - start < 10


def no_flock(ground: Ground) -> None:
    """A server starts queued runs all the same, and is alone."""
    data, preload = ground.folder / "flock", ground.library(NO_FLOCK)
    run_id = ground.with_a_run(data)
    command = ground.command(data, "serve", "--port", "0")
    with running(command, LD_PRELOAD=preload):
        wait(lambda: _status(ground, data, run_id) != "queued", "the run starts")
        code, out, err = ground.opd(data, "serve", "--port", "0", LD_PRELOAD=preload)
        assert (code, out) == (2, "") and "is served already" in err, err
        ground.opd(data, "cancel", run_id)


def dangling_link(ground: Ground) -> None:
    """A link to a disk that is not mounted."""
    link = ground.folder / "link"
    link.symlink_to("/mnt/not-mounted")
    for command in (("runs",), ("serve", "--port", "0"), ("train", "demo")):
        code, out, err = ground.opd(link, *command)
        assert (code, out) == (2, ""), err
        assert "leads nowhere (to /mnt/not-mounted)" in err and err.count("\n") == 1, err


def unmounted(ground: Ground) -> None:
    """A disk that goes while it is served: no more runs, and health says so."""
    disk = ground.mounted("gone", "size=50m")
    with running(ground.command(disk, "serve", "--port", "0")) as server:
        assert server.stdout is not None
        address, _, token = server.stdout.readline().strip().partition("?token=")
        health = f"{address}api/v1/health"
        wait(lambda: _answer(health, token)[1].get("ok"), "the server answers")
        subprocess.run(["umount", "--lazy", disk], check=True)
        assert _answer(health, token)[1]["ok"] is False
        status, body = _answer(f"{address}api/v1/runs", token, {"recipe": "demo"})
        assert (status, body["kind"]) == (503, "directory gone"), body


SCENES: tuple[Callable[[Ground], None], ...] = (
    *(archive, log_without_index, full, no_record_locks, no_flock, dangling_link, unmounted),
)


@contextmanager
def running(command: list[str], **environment: str) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        command,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _status(ground: Ground, data: Path, run_id: str) -> str:
    return str(json.loads(ground.opd(data, "show", run_id, "--json")[1])["status"])


def _answer(
    address: str, token: str, body: dict[str, str] | None = None
) -> tuple[int, dict[str, Any]]:
    """Status and JSON of an answer; (0, {}) where there is none."""
    with client(address, headers={"Authorization": f"Bearer {token}"}, timeout=30) as http:
        try:
            answer = http.request("POST" if body else "GET", address, json=body)
        except httpx.TransportError:
            return 0, {}
    return answer.status_code, answer.json()


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.places.file_systems")
    parser.add_argument("--opd", default=OPD, help="the command, as a shell would read it")
    parser.add_argument("scenes", nargs="*", metavar="SCENE")
    options = parser.parse_args()
    if INSIDE not in os.environ:
        return _in_a_namespace()
    wrong = 0
    for scene in SCENES:
        if options.scenes and scene.__name__ not in options.scenes:
            continue
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
            try:
                scene(Ground(Path(name), shlex.split(options.opd)))
                print(f"right: {scene.__name__}")
            except UntriedError as error:
                print(f"not tried: {scene.__name__}: {error}")
            except (AssertionError, TimeoutError, subprocess.CalledProcessError) as error:
                print(f"WRONG: {scene.__name__}: {error}")
                wrong += 1
            for folder in Path(name).iterdir():
                if folder.is_mount():
                    subprocess.run(["umount", "--lazy", folder], check=False)
    return 1 if wrong else 0


def _in_a_namespace() -> int:
    """This command again, where mounts are seen by nobody else."""
    space = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "-Ur"]
    if shutil.which("unshare") is None or subprocess.run([*space, "true"], check=False).returncode:
        print("not tried: mount namespaces are not allowed here")
        return 0
    command = [sys.executable, "-m", "bench.places.file_systems", *sys.argv[1:]]
    return subprocess.run(
        [*space, *command], env=os.environ | {INSIDE: "1"}, check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
