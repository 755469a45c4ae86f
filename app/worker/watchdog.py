"""Keeps a supervisor beside the server: started with it, started again when it dies."""

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from app.worker.process import start_detached
from storage.data_dir import DataDir

log = logging.getLogger(__name__)
SUPERVISOR = (sys.executable, "-m", "app.worker.supervisor")
LOOK_EVERY = 0.5


@contextmanager
def supervised(
    data_dir: DataDir, environment: Mapping[str, str], command: Sequence[str] = SUPERVISOR
) -> Iterator[None]:
    """A supervisor for as long as the block lasts. It leaves jobs running when it is ended."""
    over = threading.Event()
    process = _start(data_dir, environment, command)

    def watch() -> None:
        nonlocal process
        while not over.wait(LOOK_EVERY):
            if process.poll() is not None:
                log.warning("the supervisor ended (%s); starting another", process.returncode)
                process = _start(data_dir, environment, command)

    thread = threading.Thread(target=watch, name="watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        process.terminate()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _start(
    data_dir: DataDir, environment: Mapping[str, str], command: Sequence[str]
) -> subprocess.Popen[bytes]:
    """Detached: Ctrl-C in the terminal is the server's to handle."""
    arguments = ["--data-dir", str(data_dir), "--parent", str(os.getpid())]
    return start_detached([*command, *arguments], environment=environment)
