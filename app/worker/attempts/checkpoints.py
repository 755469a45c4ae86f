"""The checkpoints of a run as its attempts find and leave them: on record, and in folders."""

import logging
import shutil
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from app.worker.run_files.choice import run_files
from opd.errors import ErrorKind, UserError
from storage.data_dir import DataDir
from storage.read.runs import read_run
from storage.write.records import forget_checkpoints

log = logging.getLogger(__name__)


def start_of(data_dir: DataDir, info: dict[str, Any]) -> tuple[int, Path | None]:
    """Step and folder of the newest checkpoint that is whole; (-1, None) where there is none.

    Raises UserError where one lies at an address that is not this process's, or does not answer:
    to begin again would be wrong.
    """
    for saved in reversed(info["checkpoints"]):
        try:
            folder = run_files(data_dir).go_on(info["id"], info["checkpoints"], saved)
        except UserError as error:
            if error.kind != ErrorKind.DAMAGED_CHECKPOINT:
                raise
            log.warning("%s; trying the one before", error)
            continue
        return int(saved["step"]), folder
    return -1, None


def sweep(engine: Engine, data_dir: DataDir, run_id: str, attempt: int) -> None:
    """Removes checkpoint folders that no record names: half-written, or older than those kept.

    Only by this attempt or when it is dead; nothing where a later one has begun.
    """
    info = read_run(engine, run_id)
    if info["attempt"] == attempt:
        run_files(data_dir).sweep(run_id, info["checkpoints"], attempt)


def discard_checkpoints(engine: Engine, data_dir: DataDir, run_id: str) -> None:
    forget_checkpoints(engine, run_id)
    shutil.rmtree(data_dir.run(run_id).checkpoints, ignore_errors=True)
    shutil.rmtree(data_dir.run(run_id).fetched, ignore_errors=True)
    run_files(data_dir).sweep(run_id, (), read_run(engine, run_id)["attempt"])
