"""Files of runs in the data directory, which may be a folder that several hosts share."""

import shutil
from collections.abc import Collection
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from app.worker.run_files.seam import GrowingFile, ListedFile, SavedRow
from opd.errors import ErrorKind, UserError
from opd.files import remove
from opd.training.checkpoint_manifest import folder_of, verify
from opd.types import CheckpointEvent
from storage.data_dir import FILES_VARIABLE, DataDir


class LocalFile:
    """Raises OSError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.size = path.stat().st_size

    def read(self, start: int, limit: int) -> bytes:
        with self._path.open("rb") as file:
            file.seek(start)
            return file.read(limit)


@dataclass(frozen=True)
class LocalFiles:
    data_dir: DataDir

    def check(self) -> None:
        """Commands look at the data directory by themselves."""

    def keep(self, run_id: str, attempt: int, saved: CheckpointEvent) -> "Future[str]":
        done: Future[str] = Future()
        done.set_result(saved.path)
        return done

    def has(self, saved: SavedRow) -> bool:
        return True

    def bring(self, run_id: str, saved: SavedRow, without: Collection[str] = ()) -> Path:
        """Looked for where the data directory is now, which may have been moved since."""
        folder = folder_of(self.data_dir.run(run_id).checkpoints, saved["step"])
        manifest = {n: digest for n, digest in saved["manifest"].items() if n not in without}
        try:
            verify(folder, manifest)
        except UserError:
            if "://" in saved["path"]:
                raise elsewhere(run_id, saved) from None
            raise
        return folder

    def go_on(self, run_id: str, recorded: Collection[SavedRow], saved: SavedRow) -> Path:
        return self.bring(run_id, saved)

    def sizes(self, run_id: str, saved: SavedRow) -> dict[str, int]:
        folder = folder_of(self.data_dir.run(run_id).checkpoints, saved["step"])
        files = [path for path in folder.rglob("*") if path.is_file()]
        return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}

    def sweep(self, run_id: str, recorded: Collection[SavedRow], attempt: int) -> None:
        names = {folder_of(Path(), saved["step"]).name for saved in recorded}
        for folder in self.data_dir.run(run_id).checkpoints.glob("*"):
            if folder.name not in names:
                shutil.rmtree(folder, ignore_errors=True)

    def prune(self, run_id: str, recorded: Collection[SavedRow], attempt: int) -> None:
        """The training removes them here."""

    def send(self, name: str) -> None:
        """It is where all look for it."""

    def listed(self, folder: str) -> dict[str, ListedFile]:
        files = {}
        with suppress(OSError):  # no such folder yet
            for path in (self.data_dir.path / folder).iterdir():
                with suppress(OSError):  # gone meanwhile
                    if path.is_file():
                        stored = path.stat()
                        files[path.name] = ListedFile(stored.st_size, stored.st_mtime)
        return files

    def fetch(self, name: str) -> Path | None:
        path = self.data_dir.path / name
        return path if path.is_file() else None

    def content(self, name: str) -> bytes:
        try:
            return (self.data_dir.path / name).read_bytes()
        except OSError:
            return b""

    def delete(self, name: str) -> None:
        remove(self.data_dir.path / name)

    def remove(self, run_id: str) -> None:
        folder = self.data_dir.run(run_id).path
        if folder.parent == self.data_dir.runs and folder.is_dir():
            shutil.rmtree(folder)

    def mirrored(self, run_id: str, attempt: int) -> AbstractContextManager[object]:
        return nullcontext()

    def send_rest(self, run_id: str, attempt: int) -> None:
        """It is there."""

    def log(self, run_id: str, within: float = 0.0) -> GrowingFile | None:
        """None too for a path that leads outside the folder of runs."""
        root, path = self.data_dir.runs.resolve(), self.data_dir.run(run_id).log.resolve()
        return LocalFile(path) if path.is_relative_to(root) and path.is_file() else None


def elsewhere(run_id: str, saved: SavedRow) -> UserError:
    """Of a checkpoint that lies at another address than this process looks at."""
    address = saved["path"].partition(f"/runs/{run_id}/")[0]
    return UserError(
        f"the checkpoint of step {saved['step']} lies at {saved['path']}: "
        f"give --files {address} (or {FILES_VARIABLE})",
        where=run_id,
        kind=ErrorKind.FILES,
    )
