"""What the processes that answer requests have in common: how they start, and how a request ends
that cannot be answered."""

import argparse
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine

from app.worker.errors import describe
from app.worker.launchers.database import address_of, data_dir_at
from app.worker.logs import start_log
from opd.errors import ErrorKind
from storage import locks
from storage.data_dir import DataDir
from storage.engine import open_database
from storage.queue import requests
from storage.queue.failure import Failure

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RequestProcess:
    """`nice`: a run that trains on the processor goes first."""

    name: str
    module: str
    lock: Callable[[DataDir], Path]
    idle: float  # seconds without a request after which it exits
    nice: int

    def main(
        self, arguments: list[str] | None, serve: Callable[[Engine, DataDir, float], None]
    ) -> int:
        """Serves one data directory until none asks, unless another process does; the exit code."""
        parser = argparse.ArgumentParser(prog=self.module)
        parser.add_argument("--data-dir", type=Path, required=True)
        parser.add_argument("--idle", type=float, default=self.idle)
        options = parser.parse_args(arguments)
        data_dir = data_dir_at(options.data_dir)
        start_log()
        data_dir.make_host_folder()
        lock_file = locks.take(self.lock(data_dir))  # held until this process ends
        if lock_file is None:
            log.info("another %s serves %s", self.name, data_dir)
            return 0
        os.environ.setdefault("TQDM_DISABLE", "1")
        os.nice(self.nice)
        engine = open_database(address_of(data_dir))
        serve(engine, data_dir, options.idle)
        return 0


def refuse(engine: Engine, name: str, error: Exception) -> Failure:
    """Ends the request with what went wrong by input or for lack of room; raises anything else."""
    failure = describe(error)
    if failure.kind == ErrorKind.ERROR:
        raise error
    log.warning("%s: %s", name, failure.text)
    requests.fail(engine, name, failure.text, kind=failure.kind, hint=failure.kind.hint)
    return failure
