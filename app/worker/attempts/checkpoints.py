"""The checkpoints of a run as its attempts find and leave them: on record, and in folders."""

import logging
import shutil
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from opd.errors import UserError
from opd.training.checkpoint_manifest import folder_of, verify
from storage.data_dir import DataDir
from storage.read.runs import read_run
from storage.write.records import forget_checkpoints

log = logging.getLogger(__name__)


def start_of(checkpoints: Path, info: dict[str, Any]) -> tuple[int, Path | None]:
    """Step and folder of the newest checkpoint that is whole; (-1, None) where there is none.

    Looked for where the data directory is now, which may have been moved since.
    """
    for saved in reversed(info["checkpoints"]):
        folder = folder_of(checkpoints, saved["step"])
        try:
            verify(folder, saved["manifest"])
        except UserError as error:
            log.warning("%s; trying the one before", error)
            continue
        return int(saved["step"]), folder
    return -1, None


def sweep(engine: Engine, data_dir: DataDir, run_id: str, attempt: int) -> None:
    """Removes checkpoint folders that no record names: half-written, or older than those kept.

    Only by this attempt or when it is dead; nothing where a later one has begun.
    """
    info = read_run(engine, run_id)
    if info["attempt"] != attempt:
        return
    recorded = {folder_of(Path(), saved["step"]).name for saved in info["checkpoints"]}
    for folder in data_dir.run(run_id).checkpoints.glob("*"):
        if folder.name not in recorded:
            shutil.rmtree(folder, ignore_errors=True)


def discard_checkpoints(engine: Engine, data_dir: DataDir, run_id: str) -> None:
    forget_checkpoints(engine, run_id)
    shutil.rmtree(data_dir.run(run_id).checkpoints, ignore_errors=True)
