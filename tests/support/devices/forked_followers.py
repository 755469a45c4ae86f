"""Processes that train along as forks of the first one, in a test: cheap to start."""

import multiprocessing
import os
import subprocess
import sys
from typing import IO, Any

import torch

from app.worker.ranks import follower


class ForkedFollower:
    """In place of the `subprocess.Popen` of a run's other process."""

    def __init__(self, command: list[str], *, stdout: IO[bytes], **_: Any) -> None:
        arguments = command[command.index("--store") :]
        context = multiprocessing.get_context("fork")
        self._process = context.Process(target=_follow, args=(arguments, stdout.fileno()))
        self._process.start()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("a follower", timeout or 0.0)
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()


def _follow(arguments: list[str], output: int) -> None:
    os.dup2(output, 1)
    os.dup2(output, 2)
    torch.set_num_threads(1)
    sys.exit(follower.main(arguments))
