"""A vLLM server that is started for a job and ends with it: the one that writes, and teachers.

It listens on a Unix socket in a folder that only its user can enter, never on a port: the routes
that take weights know no key.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from app.worker import process
from app.worker.devices.slots import only_visible
from app.worker.engines import guard
from opd.errors import ErrorKind, UserError
from opd.sampling.vllm.python import VllmPython

LONGEST_SOCKET = 100  # bytes of a path; Linux takes 107, macOS 103
LONGEST_NAME = 36  # of the sockets that vLLM makes in TMPDIR
LOOK_EVERY = 0.2
GIB = 2**30
CAUSE = re.compile(r"[\w.]*(Error|Exception)\b: ")
PREFIX = re.compile(r"^(\(\w+ pid=\d+\) ?)?((ERROR|INFO|WARNING) [\d-]+ [\d:]+ \[[^]]*\] ?)?")


@dataclass(frozen=True)
class ServerRole:
    """How errors speak of a server."""

    name: str
    where: str  # the field that asks for it
    kind: ErrorKind


class JobServer:
    """`launch` starts it once; on leaving the block it ends."""

    def __init__(self, role: ServerRole, log: Path, stop: Callable[[], bool]) -> None:
        self.role, self.log, self._stop = role, log, stop
        self.scratch: Path | None = None  # a folder of mode 0700 that ends with it
        self._guard: subprocess.Popen[bytes] | None = None
        self._ended: int | None = None  # how it ended, where it did so before the job

    def __enter__(self) -> "JobServer":
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if self._guard is not None:
            failed = isinstance(error, UserError) and error.kind is self.role.kind
            self._ended = _wait(self._guard, guard.GRACE if failed else 0)
            self._guard.terminate()
            if _wait(self._guard, 2 * guard.GRACE) is None:
                self._guard.kill()
                self._guard.wait()
        if self.scratch is not None:
            shutil.rmtree(self.scratch, ignore_errors=True)

    def prepare(self) -> Path:
        """The folder for its socket, and for what is to end with it."""
        self.scratch = _private_folder()
        return self.scratch

    def launch(
        self, python: VllmPython, arguments: Sequence[str], environment: Mapping[str, str]
    ) -> Path | None:
        """The socket of the server, once it answers; None when asked to stop before.

        Raises UserError where it ends."""
        scratch = self.scratch or self.prepare()
        socket = scratch / "s"
        serving = [python.path, "-m", "vllm.entrypoints.openai.api_server", "--uds", str(socket)]
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            self._guard = subprocess.Popen(
                [*_guarded(scratch), *serving, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is the job's to act on
                # Its own sockets and files lie in TMPDIR, and are left there when it is killed.
                env={**environment, "TMPDIR": str(scratch)},
            )
        return socket if self._answers(socket) else None

    def explained(self, error: UserError) -> UserError:
        """With how the server ended, where it is there no more."""
        if error.kind is not self.role.kind or self._guard is None:
            return error
        where = self.role.where if (error.where or "").endswith(".url") else error.where
        text = error.message
        if self._ended is None:
            said = last_words(self.log, only_errors=True)
            text += (f"; its log ends with: {said}" if said else "") + f" ({self.log})"
        elif str(self.log) not in text:
            text = self._how_it_ended(self._ended)
        return UserError(text, where=where, kind=error.kind)

    def _answers(self, socket: Path) -> bool:
        """Whether it answers, before the job is asked to stop. Raises UserError where it ends."""
        from opd.sampling.vllm.address import ServerAddress  # noqa: PLC0415 - a client of HTTP
        from opd.sampling.vllm.client import VllmClient  # noqa: PLC0415 - loads torch

        assert self._guard is not None
        client = VllmClient(ServerAddress(socket))
        try:
            while not self._stop():
                if (code := self._guard.poll()) is not None:
                    text = self._how_it_ended(code)
                    raise UserError(text, where=self.role.where, kind=self.role.kind)
                if client.healthy():
                    return True
                time.sleep(LOOK_EVERY)
        finally:
            client.close()
        return False

    def _how_it_ended(self, code: int) -> str:
        signalled = code - guard.SIGNALLED
        cause = process.cause_of_exit(-signalled if 0 < signalled < 65 else code, whose="")
        cause = cause.replace("killed", "was killed", 1)
        said = last_words(self.log)
        return f"{self.role.name} {cause}" + (f": {said}" if said else "") + f" ({self.log})"


def environment(python: VllmPython, device: str, cache_bytes: int) -> dict[str, str]:
    """Ours, without what is for our own Python; `device` as the training process counts,
    `cache_bytes` of keys and values."""
    spec = find_spec("opd.sampling.vllm.handed")
    assert spec is not None and spec.submodule_search_locations
    ours = {k: v for k, v in os.environ.items() if k not in ("PYTHONHOME", "VIRTUAL_ENV")}
    path = os.pathsep.join([str(Path(python.path).parent), ours.get("PATH", os.defpath)])
    return {
        **ours,
        **_device_variables(device, cache_bytes),
        "PATH": path,
        "PYTHONPATH": spec.submodule_search_locations[0],
        "PYTHONUNBUFFERED": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
    }


def last_words(path: Path, *, only_errors: bool = False) -> str:
    """The error that stands last in a server's log, else its last line."""
    try:
        text = path.read_bytes()[-100_000:].decode("utf-8", "replace")
    except OSError:
        return ""
    lines = [PREFIX.sub("", line).strip() for line in text.splitlines()]
    lines = [line for line in lines if line]
    causes = [line for line in lines if CAUSE.match(line) and "root cause" not in line.lower()]
    return (causes or ([] if only_errors else lines) or [""])[-1][:300]


def _wait(child: subprocess.Popen[bytes], seconds: float) -> int | None:
    """How it ended, None where it has not."""
    try:
        return child.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def _private_folder() -> Path:
    """A new folder of mode 0700 whose path leaves room for the names of sockets."""
    for parent in (None, "/tmp"):
        folder = Path(tempfile.mkdtemp(prefix="opd-vllm-", dir=parent))
        if len(os.fsencode(folder / ("s" * LONGEST_NAME))) < LONGEST_SOCKET:
            return folder
        folder.rmdir()
    raise UserError("is too long for the path of a socket", where="TMPDIR")


def _guarded(scratch: Path) -> list[str]:
    return [sys.executable, guard.__file__, str(os.getpid()), str(scratch), "--"]


def _device_variables(device: str, cache_bytes: int) -> dict[str, str]:
    if device == "cpu":
        space = max(1, -(-cache_bytes // GIB))
        return {"VLLM_CPU_KVCACHE_SPACE": str(space), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    return only_visible(int(device.partition(":")[2] or 0))
