"""Python processes of the tests as forks of one process that has the libraries loaded.

    end = install()     # until then `subprocess` starts the project's modules as forks

A process that imports torch and transformers spends five seconds on that, one of Gradio three, and
the suite starts hundreds. A fork is the very process that was asked for: a child of its starter,
with its arguments, environment, working directory, files and session, and signals reach it as any
other. It differs in what an interpreter or a library reads as it starts; so where the environment
differs there, or has `COLD`, the start is an ordinary one, and so are all below that one.

How: each such process has a spare, forked before it ran anything. To start a child, the spare forks
twice, and its starter, for that moment a "subreaper", becomes the parent of the orphan.
"""

import atexit
import ctypes
import faulthandler
import gc
import importlib
import importlib.util
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any, cast

ROOT = Path(__file__).parents[1]
COLD = "TESTS_COLD_START"
LOADED = (
    "app.cli.commands",
    "app.cli.main",
    "app.pages",
    "app.server",
    "app.worker.models.chat",
    "app.worker.models.process",
    "app.worker.models.what_if",
    "app.worker.supervisor",
    "app.worker.watchdog",
    "opd.doctor.examine",
    "opd.training.trainer",
    "storage.migrate",
    "transformers.models.qwen3.modeling_qwen3",
    "uvicorn",
)
LAUNCHER = f"-P {ROOT}/opd_launcher.py "
STARTED = (LAUNCHER, "-m app.", "-m bench.", f"{ROOT}/tests/support/")
WITHOUT_CHILDREN = {
    *("app.worker.job", "app.worker.models.process", "app.worker.ranks.follower", "job"),
}
# What a job sets for itself before torch reads it
READ_BY_TORCH = {"GOMP_SPINCOUNT": "1000", "MKL_CBWR": "AUTO", "TQDM_DISABLE": "1"}
READ_EARLY = ("HF_", "LANG", "LC_", "LD_", "MKL_", "OMP_", "PYTHON", "TRANSFORMERS", COLD)
TAKEN_OVER = {
    *("HF_TOKEN", "PYTHONUNBUFFERED", "PYTHONFAULTHANDLER"),
    "HF_HUB_DISABLE_TELEMETRY",  # Gradio sets it for pages without analytics
    "HF_XET_HIGH_PERFORMANCE",  # lm_eval sets it as it is imported; only downloads read it
    *READ_BY_TORCH,
}
PADDING = "TESTS_PADDING"  # room in which a fork shows its own command and environment
SET_CHILD_SUBREAPER = 36
LARGEST = 2**17  # bytes of a request
OPTIONS = (
    *("close_fds", "pass_fds", "cwd", "env", "startupinfo", "creationflags", "shell"),
    *("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite"),
    *("restore_signals", "gid", "gids", "uid", "umask", "start_new_session", "process_group"),
)


class Starter:
    """Has this process's children started by its spare; by `subprocess` where that cannot be."""

    def __init__(self, spare: socket.socket, environment: Mapping[str, str]) -> None:
        self._spare: socket.socket | None = spare
        self._read = read_early(environment)
        self._lock = threading.Lock()

    def install(self) -> None:
        ordinary = subprocess.Popen._execute_child  # type: ignore[attr-defined]

        def execute(popen: Any, args: Any, executable: Any, preexec: Any, *values: Any) -> None:
            options = dict(zip(OPTIONS, values, strict=True))
            env = dict(os.environ if options["env"] is None else options["env"])
            simple = isinstance(args, (list, tuple)) and not (preexec or executable)
            command = [os.fspath(part) for part in args] if simple else []
            pid = self._start(command, env, options) if self._can(command, env) else 0
            if not pid:
                ordinary(popen, args, executable, preexec, *values)
                return
            popen.pid, popen._child_created = pid, True
            popen._close_pipe_fds(*values[7:13])

        subprocess.Popen._execute_child = execute  # type: ignore[attr-defined]

    def _can(self, command: list[str], env: Mapping[str, str]) -> bool:
        python = command[:1] == [sys.executable]
        ours = python and " ".join(command[1:]).startswith(STARTED)
        return ours and self._spare is not None and read_early(env) == self._read

    def _start(self, command: list[str], env: dict[str, str], options: dict[str, Any]) -> int:
        given = (options["p2cread"], options["c2pwrite"], options["errwrite"])
        files = {n: n if file == -1 else file for n, file in enumerate(given)}
        files |= {file: file for file in options["pass_fds"]}
        request = {
            "command": command,
            "env": env,
            "folder": os.fspath(options["cwd"] or os.getcwd()),
            "session": options["start_new_session"],
            "parent": os.getpid(),
            "files": list(files),
        }
        prctl = ctypes.CDLL(None).prctl
        with self._lock:
            if self._spare is None:
                return 0
            prctl(SET_CHILD_SUBREAPER, 1)
            try:
                text = json.dumps(request).encode()
                socket.send_fds(self._spare, [text], list(files.values()))
                answer = self._spare.recv(64)
            except OSError:
                answer = b""
            finally:
                prctl(SET_CHILD_SUBREAPER, 0)
            if not answer:
                print("warm starts: the spare has ended; from now on cold", file=sys.__stderr__)
                self._spare = None
            return int(answer or 0)


def read_early(environment: Mapping[str, str]) -> dict[str, str]:
    ours = {"PYTHONPATH": str(ROOT)}  # where it looks anyway
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(READ_EARLY) and name not in TAKEN_OVER and ours.get(name) != value
    }


def install() -> Callable[[], None]:
    """Starts the first spare, and waits until it has loaded. Returns what ends it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = dict(os.environ)
    code = "from tests import warm_starts; warm_starts.main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(theirs.fileno()), " " * 2**13],
        cwd=ROOT,
        env=environment | READ_BY_TORCH | {PADDING: " " * 2**14},
        stdin=subprocess.DEVNULL,
        pass_fds=[theirs.fileno()],
    )
    theirs.close()
    ours.recv(1)  # what it has compiled, this process need not compile again
    Starter(ours, environment).install()

    def end() -> None:
        ours.close()
        process.wait()

    return end


def main() -> None:
    """The first spare, and whatever is forked from it."""
    requests = socket.socket(fileno=int(sys.argv[1]))
    early = {n: v for n, v in os.environ.items() if n not in (PADDING, *READ_BY_TORCH)}
    for name in LOADED:
        importlib.import_module(name)
    assert threading.active_count() == 1, "a thread would be lost in a fork"
    gc.collect()
    gc.freeze()  # the forks leave its pages alone, and share them
    requests.send(b"+")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that it serves
    while True:
        request, files = _spare(requests)
        _arrange(files, request["files"])
        if not WITHOUT_CHILDREN & set(request["command"]):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            if os.fork() == 0:
                nothing = os.open(os.devnull, os.O_RDWR)
                _arrange([nothing, nothing, nothing, theirs.detach()], [0, 1, 2, 3])
                ours.detach()
                requests = socket.socket(fileno=3)
                continue
            theirs.close()
            Starter(ours, early).install()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        code, names = _become(request)
        _leave(_exit_code(code, names))


def _exit_code(code: types.CodeType, names: dict[str, Any]) -> int:
    try:
        exec(code, names)
    except SystemExit as left:
        if left.code is None or isinstance(left.code, int):
            return left.code or 0
        sys.stderr.write(f"{left.code}\n")
        return 1
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
        return 130
    except BaseException:  # noqa: BLE001 - as the interpreter does
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def _leave(code: int) -> None:
    """Ends as the interpreter does, but for taking the loaded libraries apart."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(ValueError, OSError):
            stream.flush()
    os._exit(code)


def _spare(requests: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Starts children until nobody can ask any more; returns in each child."""
    while True:
        message, files, _, _ = socket.recv_fds(requests, LARGEST, 16)
        if not message:
            os._exit(0)
        reader, writer = os.pipe()
        if os.fork() == 0:
            if os.fork():
                os._exit(0)
            requests.detach()
            return _born(json.loads(message), writer), files
        os.close(writer)
        os.wait()  # from now on the child is its starter's
        requests.send(os.read(reader, 64))
        for file in (reader, *files):
            os.close(file)


def _born(request: dict[str, Any], writer: int) -> dict[str, Any]:
    """In a child: shows itself as what was asked for, and then tells its number."""
    while os.getppid() != request["parent"]:
        time.sleep(0.001)
    if request["session"]:
        os.setsid()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["env"])
    _show(request["command"], request["env"])
    os.write(writer, str(os.getpid()).encode())
    return request


def _arrange(files: list[int], numbers: list[int]) -> None:
    """Each file at its number, and nothing else open."""
    above = max(*files, *numbers) + 1
    for i, file in enumerate(files):
        os.dup2(file, above + i)
    for i, number in enumerate(numbers):
        os.dup2(above + i, number)
    numbers = sorted(numbers)
    for number, following in zip(numbers, [*numbers[1:], os.sysconf("SC_OPEN_MAX")], strict=True):
        if following > number + 1:
            os.closerange(number + 1, following)


def _become(request: dict[str, Any]) -> tuple[types.CodeType, dict[str, Any]]:
    """Makes this process what was asked for; the code to run."""
    if os.environ.get("PYTHONFAULTHANDLER"):
        faulthandler.enable()
    stdout = cast(io.TextIOWrapper, sys.stdout)
    stdout.reconfigure(line_buffering=os.isatty(1) or "PYTHONUNBUFFERED" in os.environ)
    first, *rest = request["command"][1:]
    main = types.ModuleType("__main__")
    if first == "-m":
        sys.path[0] = request["folder"]
        main.__spec__ = spec = importlib.util.find_spec(rest.pop(0))
        assert spec is not None and spec.origin is not None
        main.__package__, first = spec.parent, spec.origin
    else:
        if first == "-P":
            first = rest.pop(0)
        sys.path[0] = str(Path(first).parent)
    main.__file__ = first
    sys.argv = [first, *rest]
    sys.modules["__main__"] = main
    code = SourceFileLoader("__main__", first).get_code("__main__")
    assert code is not None
    return code, main.__dict__


def _show(command: list[str], env: dict[str, str]) -> None:
    """Writes the command and the environment where /proc/PID/cmdline and environ show them."""
    fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    arguments, arguments_end, variables, variables_end = map(int, fields[45:49])
    for start, end, parts in (
        (arguments, arguments_end, command),
        (variables, variables_end, [f"{name}={value}" for name, value in env.items()]),
    ):
        text = "".join(f"{part}\0" for part in parts).encode()
        ctypes.memset(start, 0, end - start)
        ctypes.memmove(start, text, min(len(text), end - start - 1))
