"""Files of runs at an fsspec address, beside the copies on the host that made or needed them.

    ADDRESS/runs/RUN/checkpoints/step-000004.2/…    checkpoint of step 4 by attempt 2
    ADDRESS/runs/RUN/log/0002                       what attempt 2 wrote to the log
    ADDRESS/runs/RUN/system.jsonl, references.json, ADDRESS/uploads/…

Nothing is renamed there. A checkpoint is what its row in the database names: the row is committed
once every file is there, and each is read back by its SHA-256. No two attempts write one folder.
"""

import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from app.worker.run_files.address import FilesAddress
from app.worker.run_files.local import LocalFiles, elsewhere
from app.worker.run_files.parts import LogOfParts, Parts
from app.worker.run_files.seam import GrowingFile, ListedFile, SavedRow
from opd.errors import ErrorKind, UserError
from opd.files import make_folder
from opd.training.checkpoint_manifest import STATE, folder_of, verify
from opd.types import CheckpointEvent
from storage import locks
from storage.data_dir import DataDir

log = logging.getLogger(__name__)
LOOK_EVERY = 3.0  # seconds between two looks at what the log has more
KEPT = 60.0  # seconds that a listing of a log is kept at most
FOLDER = re.compile(r"step-\d+\.(\d+)")  # of a step, by an attempt


class RemoteFiles:
    """`later` are done one after the other, on a thread of their own that outlives the caller."""

    def __init__(self, data_dir: DataDir, store: FilesAddress) -> None:
        self._data_dir, self._store = data_dir, store
        self._here = LocalFiles(data_dir)
        self._later = ThreadPoolExecutor(1, thread_name_prefix="files")
        self._logs: dict[str, tuple[float, LogOfParts]] = {}  # and when they were looked at

    def check(self) -> None:
        try:
            self._store.check()
        except UserError as error:  # the user's own, before anything was done
            kind = ErrorKind.BAD_INPUT if error.kind == ErrorKind.FILES else error.kind
            raise UserError(error.message, where=error.where, kind=kind) from None

    def keep(self, run_id: str, attempt: int, saved: CheckpointEvent) -> "Future[str]":
        key = f"{_checkpoints(run_id)}/{folder_of(Path(), saved.step).name}.{attempt}"
        return self._later.submit(self._keep, key, saved)

    def _keep(self, key: str, saved: CheckpointEvent) -> str:
        """Raises UserError also where a file did not arrive whole."""
        folder = Path(saved.path)
        for name in saved.manifest:
            self._store.put(folder / name, f"{key}/{name}")
        there = self._store.sizes(key)
        for name in saved.manifest:
            if there.get(name) != (size := (folder / name).stat().st_size):
                raise UserError(
                    f"has {there.get(name, 0)} of the {size} bytes that were sent as {key}/{name}",
                    where=f"--files {self._store.address}",
                    kind=ErrorKind.FILES,
                )
        return self._store.at(key)

    def has(self, saved: SavedRow) -> bool:
        return "://" in saved["path"]

    def bring(self, run_id: str, saved: SavedRow, without: Collection[str] = ()) -> Path:
        """What is not here, or was changed here, is read into a folder of its own; others that no
        longer have a copy at the store go from there."""
        try:
            return self._here.bring(run_id, saved, without)
        except UserError:
            key = self._key(run_id, saved)
            if key is None:
                raise
        folder = self._data_dir.run(run_id).fetched / key.rpartition("/")[2]
        make_folder(folder, where=f"--data-dir {self._data_dir}")
        with locks.waiting(folder.parent / ".lock"):
            kept = {name.partition("/")[0] for name in self._store.sizes(_checkpoints(run_id))}
            for other in folder.parent.glob("step-*"):
                if other.name not in kept | {folder.name}:
                    shutil.rmtree(other, ignore_errors=True)
            for name, digest in saved["manifest"].items():
                if name not in without:
                    self._bring(f"{key}/{name}", folder / name, digest)
        return folder

    def _bring(self, key: str, path: Path, digest: str) -> None:
        """Raises UserError where the store has not what was recorded."""
        with suppress(UserError):
            verify(path.parent, {path.name: digest})
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.partial")
        try:
            if self._store.get(key, aside):
                with suppress(UserError):
                    verify(aside.parent, {aside.name: digest})
                    aside.replace(path)
                    return
        finally:
            aside.unlink(missing_ok=True)
        raise UserError(
            f"{self._store.at(key)} is missing or was changed since it was saved",
            where="checkpoint",
            kind=ErrorKind.DAMAGED_CHECKPOINT,
        )

    def go_on(self, run_id: str, recorded: Collection[SavedRow], saved: SavedRow) -> Path:
        """Of checkpoints that are only at the store, the file that says what they are."""
        folder = self.bring(run_id, saved)
        checkpoints = self._data_dir.run(run_id).checkpoints
        if folder.parent != checkpoints:
            final = folder_of(checkpoints, saved["step"])
            shutil.rmtree(final, ignore_errors=True)
            shutil.copytree(folder, final, copy_function=_linked)
            folder = final
        for other in recorded:
            path = folder_of(checkpoints, other["step"])
            if other["step"] < saved["step"] and not path.exists():
                without = [name for name in other["manifest"] if name != STATE]
                with suppress(UserError):  # one that cannot be read has no score
                    source = self.bring(run_id, other, without)
                    path.mkdir(parents=True)
                    _linked(source / STATE, path / STATE)
        return folder

    def sizes(self, run_id: str, saved: SavedRow) -> dict[str, int]:
        sizes = self._here.sizes(run_id, saved)
        key = self._key(run_id, saved)
        if key is None or saved["manifest"].keys() <= sizes.keys():
            return sizes
        return self._store.sizes(key)

    def sweep(self, run_id: str, recorded: Collection[SavedRow], attempt: int) -> None:
        self._here.sweep(run_id, recorded, attempt)
        self.prune(run_id, recorded, attempt)

    def prune(self, run_id: str, recorded: Collection[SavedRow], attempt: int) -> None:
        names = {saved["path"].rpartition("/")[2] for saved in recorded}
        self._do_later("removing checkpoints", partial(self._sweep, run_id, names, attempt))

    def _sweep(self, run_id: str, names: Collection[str], attempt: int) -> None:
        """Only what is surely of no later attempt, whose checkpoint may not be on record yet."""
        folder = _checkpoints(run_id)
        folders = {name.partition("/")[0] for name in self._store.sizes(folder)}
        for name in folders - set(names):
            made = FOLDER.fullmatch(name)
            if made and int(made[1]) <= attempt:
                self._store.remove(f"{folder}/{name}")

    def send(self, name: str) -> None:
        self._store.put(self._data_dir.path / name, name)

    def listed(self, folder: str) -> dict[str, ListedFile]:
        there = self._store.listed(folder)
        return self._here.listed(folder) | {n: f for n, f in there.items() if "/" not in n}

    def fetch(self, name: str) -> Path | None:
        if (here := self._here.fetch(name)) is not None:
            return here
        path = self._data_dir.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            if not self._store.get(name, aside):
                return None
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
        return path

    def content(self, name: str) -> bytes:
        there = self._store.content(name)
        return self._here.content(name) if there is None else there

    def delete(self, name: str) -> None:
        self._here.delete(name)
        self._store.remove(name)

    def remove(self, run_id: str) -> None:
        self._here.remove(run_id)
        self._store.remove(f"runs/{run_id}")

    @contextmanager
    def mirrored(self, run_id: str, attempt: int) -> Iterator[None]:
        parts = Parts(self._data_dir, self._store, run_id, attempt)
        self._do_now("reading what the machine did before", parts.begin)
        over = threading.Event()
        thread = threading.Thread(target=self._mirror, args=(parts, over), name="log", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self._do_now("sending the log", parts.send)
            self._wait()

    def _mirror(self, parts: Parts, over: threading.Event) -> None:
        pause = LOOK_EVERY
        while not over.wait(pause):
            took = self._do_now("sending the log", parts.send)
            pause = max(LOOK_EVERY, 20 * took)  # a long log is sent whole, more and more seldom

    def send_rest(self, run_id: str, attempt: int) -> None:
        parts = Parts(self._data_dir, self._store, run_id, attempt)
        self._do_later("sending the log", parts.send)

    def log(self, run_id: str, within: float = 0.0) -> GrowingFile | None:
        """That of this host where the store has none (yet)."""
        now = time.monotonic()
        self._logs = {i: kept for i, kept in self._logs.items() if now - kept[0] < KEPT}
        looked_at, parts = self._logs.get(run_id, (now, None))
        if parts is None or now - looked_at >= within:
            parts = LogOfParts(self._store, run_id)
            self._logs[run_id] = (now, parts)
        return parts if parts.size else self._here.log(run_id)

    def _key(self, run_id: str, saved: SavedRow) -> str | None:
        """Of a checkpoint at this store; None of one that never left the host which saved it.
        Raises UserError where it lies at another."""
        root = self._store.at("")
        if saved["path"].startswith(root):
            return str(saved["path"]).removeprefix(root)
        if "://" in saved["path"]:
            raise elsewhere(run_id, saved)
        return None

    def _do_later(self, what: str, act: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the interpreter ends
            later = self._later.submit(self._do_now, what, act)
            later.add_done_callback(partial(_tell, what))

    def _do_now(self, what: str, act: Callable[[], object]) -> float:
        """Seconds that it took; a failure is only told."""
        start = time.monotonic()
        try:
            act()
        except (UserError, OSError) as error:
            log.warning("%s: %s", what, error)
        return time.monotonic() - start

    def _wait(self) -> None:
        """Until all that was to be done later is."""
        self._later.submit(lambda: None).result()


def _checkpoints(run_id: str) -> str:
    return f"runs/{run_id}/checkpoints"


def _tell(what: str, done: "Future[float]") -> None:
    """Of a failure that nobody waits for."""
    if (error := done.exception()) is not None:
        log.error("%s", what, exc_info=error)


def _linked(source: Path | str, target: Path | str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)
