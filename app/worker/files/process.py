"""The file process: makes the files that pages offer for download.

    python -m app.worker.files.process --data-dir DIR [--idle SECONDS]

The supervisor starts it when a file is asked for; at most one runs per data directory, and it exits
when nothing was asked for a while. A file lies under its request's id once it is whole, never
before; what a killed one left is removed by the next.
"""

import logging
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from app.version import program_version
from app.worker.files.kept import RESERVE, file_name, free_bytes, path_of, sweep
from app.worker.files.rollouts import RolloutExport, write_rollouts
from app.worker.files.saved_model import archive_size, folder_sizes, save_model, write_archive
from app.worker.models.request import ProgressReporter
from app.worker.models.request_process import RequestProcess, refuse
from app.worker.process import this_process
from opd.errors import ErrorKind, UserError
from opd.files import remove, written_aside
from storage.data_dir import DataDir
from storage.queue import requests
from storage.read.rollouts import read_rollouts

log = logging.getLogger(__name__)
LOOK_EVERY = 0.2
PROCESS = RequestProcess(
    "file process",
    "app.worker.files.process",
    lambda data_dir: data_dir.file_lock,
    idle=30.0,
    nice=10,
)


class FileWork:
    """A request for a file while it is being made: how far, and whether to go on."""

    def __init__(self, engine: Engine, data_dir: DataDir, request: Mapping[str, Any]) -> None:
        self.engine = engine
        self.data_dir = data_dir
        self.name: str = request["id"]
        self.payload: dict[str, Any] = request["payload"]
        self.total = 0
        self.done = 0
        self._reporter = ProgressReporter(self._progress, self._state)

    def say(self, phase: str, total: int = 0) -> None:
        """A new phase of so many parts; 0: not known."""
        self.total, self.done = total, 0
        self._reporter.say(phase)

    def advance(self, done: int) -> None:
        """Raises UserError where the file is not wanted any more, or the disk nearly full."""
        self.done = done
        if self._reporter.stop():
            raise UserError("cancelled", where=self.name, kind=ErrorKind.CANCELLED)
        if free_bytes(self.data_dir) < RESERVE:
            raise UserError(
                f"stopped with less than {RESERVE / 1e6:.0f} MB left on the disk",
                where=str(self.data_dir.downloads),
                kind=ErrorKind.DISK_FULL,
            )

    def _progress(self, phase: str, partial: dict[str, Any]) -> bool:
        return requests.progress(self.engine, self.name, phase=phase, answer=partial)

    def _state(self) -> dict[str, Any]:
        return {"progress": {"done": self.done, "total": self.total}}


def export(work: FileWork, path: Path) -> dict[str, Any]:
    """Of kind "export": {"runs", "format", "table"}."""
    rollouts = RolloutExport(work.payload["runs"], work.payload["format"], work.payload["table"])
    total = sum(read_rollouts(work.engine, run, limit=0)["total"] for run in rollouts.runs)
    work.say("writing rollouts", total)
    damaged: list[str] = []
    rows = rollouts.rows(work.engine, lambda error: damaged.append(error.where))

    def watched() -> Iterator[dict[str, Any]]:
        for number, row in enumerate(rows):
            work.advance(number)
            yield row

    count = write_rollouts(path, rollouts, watched())
    return {"rollouts": count, "damaged": len(damaged)}


def report(work: FileWork, path: Path) -> dict[str, Any]:
    """Of kind "report": {"runs": [one], "rollouts"}."""
    from app.report import report as made_of  # noqa: PLC0415 - reads the pages' scripts

    work.say("collecting rollouts")
    run, count = work.payload["runs"][0], work.payload["rollouts"]
    made = made_of(work.engine, run, rollouts=count, version=program_version())
    work.advance(0)
    path.write_bytes(made.html.encode())
    return {"rollouts": made.rollouts, "damaged": 0}


def save(work: FileWork, path: Path) -> dict[str, Any]:
    """Of kind "save": {"runs": [one], "merge"}; the folder of `opd save` as an archive."""
    run, merge = work.payload["runs"][0], work.payload["merge"]
    folder = path.with_name(f"{path.name}.folder")
    try:
        work.say("merging the adapter" if merge else "checking the checkpoint")
        step = save_model(work.engine, work.data_dir, run, folder, merge=merge, link=True)
        sizes = folder_sizes(folder)
        work.say("writing the archive", archive_size(sizes))
        write_archive(folder, path, f"{run}-model", work.advance)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {"step": step}


Make = Callable[[FileWork, Path], dict[str, Any]]
MAKERS: Mapping[str, Make] = {"export": export, "report": report, "save": save}


def serve(
    engine: Engine, data_dir: DataDir, idle: float, makers: Mapping[str, Make] = MAKERS
) -> None:
    """Makes files until none was asked for in `idle` seconds."""
    data_dir.downloads.mkdir(exist_ok=True)
    sweep(engine, data_dir)
    last = time.monotonic()
    while time.monotonic() - last < idle:
        claimed = requests.claim(engine, this_process(data_dir), files=True)
        if claimed is None:
            time.sleep(LOOK_EVERY)
            continue
        log.info("%s: %s", claimed["id"], claimed["kind"])
        _make(FileWork(engine, data_dir, claimed), claimed["kind"], makers)
        sweep(engine, data_dir)
        last = time.monotonic()


def _make(work: FileWork, kind: str, makers: Mapping[str, Make]) -> None:
    """What goes wrong by input or for lack of room is the answer; anything else ends us."""
    path = path_of(work.data_dir, work.name)
    try:
        with written_aside(path, durable=True) as aside:
            answer = makers[kind](work, aside)
    except (UserError, MemoryError, OSError, RuntimeError) as error:
        refuse(work.engine, work.name, error)
        return
    answer |= {"file": file_name(kind, work.payload), "bytes": path.stat().st_size}
    if not requests.finish(work.engine, work.name, answer):
        remove(path)  # cancelled meanwhile


def main(arguments: list[str] | None = None, makers: Mapping[str, Make] = MAKERS) -> int:
    return PROCESS.main(arguments, partial(serve, makers=makers))


if __name__ == "__main__":
    sys.exit(main())
