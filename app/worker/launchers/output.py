"""A run's log from wherever it runs: its file, or what the launcher has of the job."""

import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from app.worker.launchers.choice import launcher_named
from app.worker.launchers.launcher import VARIABLE
from app.worker.owners.place import host_name
from app.worker.run_files.choice import run_files
from app.worker.run_files.seam import GrowingFile
from opd.errors import UserError
from storage.data_dir import DataDir

LISTED_WITHIN = 3.0  # seconds; what a run that goes on writes is seen no sooner at a store


class LauncherOutput:
    """What a launcher told of a job's output."""

    def __init__(self, text: str) -> None:
        self._data = text.encode()
        self.size = len(self._data)

    def read(self, start: int, limit: int) -> bytes:
        return self._data[start : start + limit]


def log_of(data_dir: DataDir, run: Mapping[str, Any]) -> GrowingFile | None:
    """The file where it can be seen from here or at the address of files, else what the launcher of
    this server has; None where there is neither."""
    within = LISTED_WITHIN if run["status"] == "running" else 0.0
    return run_files(data_dir).log(run["id"], within) or _of_launcher(run["cluster_job"] or "")


def log_elsewhere(run: Mapping[str, Any]) -> str | None:
    """The host on which the log of a run lies that has none here; None where that is this one."""
    return None if run["host"] in (None, host_name()) else str(run["host"])


def _of_launcher(cluster_job: str) -> LauncherOutput | None:
    name, _, job = cluster_job.partition(":")
    if not job or job.startswith("?"):  # none, or one that is being submitted
        return None
    with suppress(UserError):  # a cluster that does not answer: the host is told instead
        launcher = launcher_named(os.environ.get(VARIABLE))
        if launcher is not None and launcher.name == name and (text := launcher.log(job)):
            return LauncherOutput(text)
    return None
