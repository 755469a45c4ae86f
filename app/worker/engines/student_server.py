"""The vLLM server that writes what a run's student writes: started for its job, ended with it.

It listens on a Unix socket in a folder that only its user can enter, never on a port: the routes
that take weights know no key.
"""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from app.worker import process
from app.worker.devices.slots import only_visible
from app.worker.engines import guard
from opd.config.run import RunConfig
from opd.errors import ErrorKind, UserError
from opd.sampling.vllm.python import WHERE, VllmPython, vllm_python
from opd.sampling.vllm.serving import ServerSettings
from opd.sampling.vllm.share import TOKENS_AT_ONCE
from storage.data_dir import RunDir

log = logging.getLogger(__name__)
LONGEST_SOCKET = 100  # bytes of a path; Linux takes 107, macOS 103
LOOK_EVERY = 0.2
GIB = 2**30
CAUSE = re.compile(r"[\w.]*(Error|Exception)\b: ")
PREFIX = re.compile(r"^(\(\w+ pid=\d+\) ?)?((ERROR|INFO|WARNING) [\d-]+ [\d:]+ \[[^]]*\] ?)?")


class StudentServer:
    """`start()` starts it once; on leaving the block it ends."""

    def __init__(
        self, folder: RunDir, stop: Callable[[], bool], say: Callable[[str], None]
    ) -> None:
        self._log, self._stop, self._say = folder.path / "vllm.txt", stop, say
        self._scratch: Path | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._ended: int | None = None  # how it ended, where it did so before the job

    def __enter__(self) -> "StudentServer":
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if self._guard is not None:
            failed = isinstance(error, UserError) and error.kind is ErrorKind.SAMPLING_SERVER
            self._ended = _wait(self._guard, guard.GRACE if failed else 0)
            self._guard.terminate()
            if _wait(self._guard, 2 * guard.GRACE) is None:
                self._guard.kill()
                self._guard.wait()
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def start(self, settings: ServerSettings) -> Path | None:
        """The socket of the server, once it answers; None when asked to stop before.

        Raises UserError where there is no vLLM, and where the server ends."""
        python = vllm_python()
        self._say(f"starting vLLM {python.version}")
        self._scratch = _private_folder()
        model, socket = self._scratch / "model", self._scratch / "s"
        settings.write_model(model)
        command = [*_guarded(self._scratch), *_command(python, settings, model, socket)]
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as output:
            self._guard = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is the job's to act on
                env=_environment(python, settings),
            )
        return socket if self._answers(socket) else None

    def explained(self, error: UserError) -> UserError:
        """With how the server ended, where it is there no more."""
        if error.kind is not ErrorKind.SAMPLING_SERVER or self._guard is None:
            return error
        if self._ended is None:
            said = last_words(self._log, only_errors=True)
            text = error.message + (f"; its log ends with: {said}" if said else "")
            return UserError(f"{text} ({self._log})", where=error.where, kind=error.kind)
        return UserError(self._how_it_ended(self._ended), where=error.where, kind=error.kind)

    def _answers(self, socket: Path) -> bool:
        """Whether it answers, before the job is asked to stop. Raises UserError where it ends."""
        from opd.sampling.vllm.address import ServerAddress  # noqa: PLC0415 - a client of HTTP
        from opd.sampling.vllm.client import VllmClient  # noqa: PLC0415 - loads torch

        assert self._guard is not None
        client = VllmClient(ServerAddress(socket))
        try:
            while not self._stop():
                if (code := self._guard.poll()) is not None:
                    raise UserError(
                        self._how_it_ended(code), where=WHERE, kind=ErrorKind.SAMPLING_SERVER
                    )
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
        said = last_words(self._log)
        return f"the vLLM server {cause}" + (f": {said}" if said else "") + f" ({self._log})"


def check_engine(config: RunConfig, say: Callable[[str], None] = lambda _: None) -> None:
    """Raises UserError, before anything is loaded, for a run whose server could not be started, or
    could not write for it; says how weights will reach one that runs already."""
    if config.sampling.url is not None:
        from opd.sampling.vllm.offers import server_for  # noqa: PLC0415 - only where it is used

        address, offers, way = server_for(config)
        takes = "the adapter" if way == "adapter" else "all weights, from files,"
        told = f"vLLM at {address.configured} ({offers.model}) gets {takes} after every step"
        log.info("%s", told)
        say(told)
    elif config.sampling.engine == "vllm":
        vllm_python()


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
    """A new folder of mode 0700 whose path leaves room for a socket's name."""
    for parent in (None, "/tmp"):
        folder = Path(tempfile.mkdtemp(prefix="opd-vllm-", dir=parent))
        if len(os.fsencode(folder / "s")) < LONGEST_SOCKET:
            return folder
        folder.rmdir()
    raise UserError("is too long for the path of a socket", where="TMPDIR")


def _guarded(scratch: Path) -> list[str]:
    return [sys.executable, guard.__file__, str(os.getpid()), str(scratch), "--"]


def _command(python: VllmPython, settings: ServerSettings, model: Path, socket: Path) -> list[str]:
    on_processor = settings.device == "cpu"
    return [
        *(python.path, "-m", "vllm.entrypoints.openai.api_server"),
        *("--uds", str(socket), "--model", str(model), "--served-model-name", "student"),
        *("--dtype", settings.dtype, "--seed", str(settings.seed)),
        *("--max-model-len", str(settings.context), "--max-num-seqs", str(settings.rows)),
        *("--logprobs-mode", "processed_logprobs", "--generation-config", "vllm"),
        *_taking_weights(settings.adapter_rank),
        # A prompt read in parts would set its generator back, which a processor's cannot.
        *(
            ["--enforce-eager", "--no-enable-chunked-prefill"]
            if on_processor
            else _of_the_card(settings)
        ),
    ]


def _of_the_card(settings: ServerSettings) -> list[str]:
    """Its cache as it is to be, and all that it may take of a GPU that the training is on too."""
    assert settings.card_bytes is not None
    most = min(1.0, settings.share.total / settings.card_bytes)
    return [
        *("--kv-cache-memory-bytes", str(settings.share.cache)),
        *("--gpu-memory-utilization", f"{most:.4f}"),
        *("--max-num-batched-tokens", str(max(TOKENS_AT_ONCE, settings.rows))),
    ]


def _taking_weights(adapter_rank: int | None) -> list[str]:
    if adapter_rank is not None:
        return ["--enable-lora", "--max-loras", "1", "--max-lora-rank", str(adapter_rank)]
    backend = json.dumps({"backend": "files"})
    extension = "opd_weight_files.WeightFiles"
    return ["--weight-transfer-config", backend, "--worker-extension-cls", extension]


def _environment(python: VllmPython, settings: ServerSettings) -> dict[str, str]:
    """Ours, without what is for our own Python."""
    spec = find_spec("opd.sampling.vllm.handed")
    assert spec is not None and spec.submodule_search_locations
    ours = {k: v for k, v in os.environ.items() if k not in ("PYTHONHOME", "VIRTUAL_ENV")}
    path = os.pathsep.join([str(Path(python.path).parent), ours.get("PATH", os.defpath)])
    return {
        **ours,
        **_device_variables(settings),
        "PATH": path,
        "PYTHONPATH": spec.submodule_search_locations[0],
        "PYTHONUNBUFFERED": "1",
        "VLLM_SERVER_DEV_MODE": "1",  # without it there are no routes that take weights
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
    }


def _device_variables(settings: ServerSettings) -> dict[str, str]:
    if settings.device == "cpu":
        space = max(1, -(-settings.share.cache // GIB))
        return {"VLLM_CPU_KVCACHE_SPACE": str(space), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    return only_visible(int(settings.device.partition(":")[2] or 0))
