"""Uploaded data files: streamed aside, checked, and kept under their name and content.

`uploads/NAME-DIGEST.ENDING` in the data directory: what is uploaded twice is one file.
"""

import errno
import hashlib
import os
import re
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from app.sources.folders import Look
from app.sources.upload_check import UploadContents, check
from app.worker.files.kept import check_room
from app.worker.run_files.choice import run_files
from app.worker.run_files.seam import ListedFile
from opd.config.folders import DATA_ENDINGS
from opd.errors import ErrorKind, UserError, lacks_room
from opd.files import remove
from storage.data_dir import DataDir
from storage.read.runs import read_run, read_runs

INCOMING = ".incoming-"
STALE_SECONDS = 3600
MAX_NAME_BYTES = 150
COMPRESSED = (".gz", ".bz2", ".xz")
ROOM_EVERY = 16 * 2**20  # bytes written between looks at the disk's room
NOT_ENDED = ("queued", "running")
NAME = re.compile(r"[^/\\<>:\"|?*]+")
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
KEPT_NAME = re.compile(r"(?P<name>.+)-(?P<digest>[0-9a-f]{16})(?P<ending>(\.\w+){1,2})")
ADVICE = "delete uploads, checkpoints or downloads"


class IncomingFile:
    """An upload while it comes in: a file of its own folder, with the digest of what it holds."""

    def __init__(self, data_dir: DataDir, path: Path) -> None:
        self.path = path
        self.size = 0
        self._data_dir = data_dir
        self._digest = hashlib.sha256()
        self._file = path.open("wb")
        self._room_at = 0

    def write(self, piece: bytes) -> None:
        """Raises UserError of kind "disk full"."""
        if self.size >= self._room_at:
            check_room(self._data_dir, len(piece), "the upload", ADVICE)
            self._room_at = self.size + ROOM_EVERY
        with _write_errors_named(self._data_dir):
            self._file.write(piece)
        self._digest.update(piece)
        self.size += len(piece)

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()[:16]

    def finish(self) -> None:
        """Raises UserError of kind "disk full"."""
        with _write_errors_named(self._data_dir):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def close(self) -> None:
        with suppress(OSError):  # what was not written is not wanted either
            self._file.close()


@contextmanager
def incoming(data_dir: DataDir, name: str, declared: int) -> Iterator[IncomingFile]:
    """A place for an upload of that many bytes (0: not known); gone when the block ends.

    Raises UserError for a name that is refused and for a disk without room.
    """
    name = checked_name(name)
    with _write_errors_named(data_dir):
        data_dir.uploads.mkdir(parents=True, exist_ok=True)
    check_room(data_dir, declared, "the upload", ADVICE)
    with _write_errors_named(data_dir):
        folder = Path(tempfile.mkdtemp(prefix=INCOMING, dir=data_dir.uploads))
    try:
        _sweep(data_dir, folder.stat().st_mtime)
        with _write_errors_named(data_dir):
            file = IncomingFile(data_dir, folder / name)
        try:
            yield file
        finally:
            file.close()
    finally:
        remove(folder)


def keep(
    data_dir: DataDir, file: IncomingFile, check: Callable[[Path], UploadContents] = check
) -> dict[str, Any]:
    """Checks an upload that has come in whole and gives it its place: `value` is its path.

    `known`: the same content was there. Raises UserError for what cannot be read.
    """
    file.finish()
    try:
        contents = check(file.path)
    except UserError as error:
        raise _by_name(error, file.path) from None
    stem, ending = _parts(file.path.name)
    same = next((n for n in _kept(data_dir) if n.endswith(f"-{file.digest}{ending}")), None)
    path = data_dir.uploads / (same or f"{stem}-{file.digest}{ending}")
    with _write_errors_named(data_dir):
        file.path.chmod(0o444)
        file.path.replace(path)  # also where it was: changed by hand, it is no longer the same
    run_files(data_dir).send(data_dir.name_of(path))
    written = path.stat()
    return {
        **_shown(data_dir, path.name, ListedFile(written.st_size, written.st_mtime)),
        **{"rows": contents.rows, "form": contents.form, "known": same is not None},
        "note": contents.note.replace(f"{file.path.parent}/", ""),
    }


def listed(data_dir: DataDir, look: Look) -> dict[str, Any]:
    """Uploads to any server of the team, newest first. One to another host is brought here when
    something reads it."""
    items = [_shown(data_dir, name, f) for name, f in _kept(data_dir).items() if look.finds(name)]
    items.sort(key=lambda i: (-i["modified"], i["name"]))
    return {"items": items[look.page], "total": len(items)}


def delete(engine: Engine, data_dir: DataDir, name: str) -> None:
    """Raises UserError for one that is not there, and while a run that has not ended names it."""
    if name not in _kept(data_dir):
        raise UserError("there is no such upload", where="name", kind=ErrorKind.NOT_FOUND)
    folder = data_dir.uploads.name

    def reads(text: str) -> bool:
        """Also as another host calls it; the name has the digest of what it holds."""
        return text.endswith(f"/{folder}/{name}")

    for status in NOT_ENDED:
        for run in read_runs(engine, status=status, limit=1000)["items"]:
            if any(map(reads, _texts(read_run(engine, run["id"])["config"]))):
                raise UserError(
                    f"{run['id']} has not ended and reads it", where=name, kind=ErrorKind.RUNNING
                )
    run_files(data_dir).delete(f"{folder}/{name}")


def checked_name(name: str) -> str:
    """The name in one form of Unicode. Raises UserError for one that no file should have."""
    name = unicodedata.normalize("NFC", name)
    problem = ""
    if not NAME.fullmatch(name):
        problem = 'must be a name without / \\ < > : " | ? *, and not empty'
    elif any(
        unicodedata.category(c)[0] == "C" or unicodedata.category(c) in ("Zl", "Zp") for c in name
    ):
        problem = "must hold no control or invisible characters"
    elif len(name.encode()) > MAX_NAME_BYTES:
        problem = f"has {len(name.encode())} bytes, over the limit of {MAX_NAME_BYTES}"
    elif name.startswith((".", "~", "-", " ")) or name.endswith((".", " ")):
        problem = "must not begin with . ~ - or a blank, nor end with a point or a blank"
    elif RESERVED.fullmatch(name):
        problem = "is a reserved name on some systems"
    elif not name.lower().endswith(DATA_ENDINGS) or not KEPT_NAME.fullmatch(_stored(name)):
        problem = f"must end as a data file does: {', '.join(DATA_ENDINGS[:8])}, also with .gz"
    if problem:
        shown = name.encode("unicode_escape").decode()[:80]
        raise UserError(f"{shown!r} {problem}; rename the file", where="name")
    return name


def _stored(name: str) -> str:
    stem, ending = _parts(name)
    return f"{stem}-{'0' * 16}{ending}"


def _parts(name: str) -> tuple[str, str]:
    """rows.jsonl.gz → rows, .jsonl.gz; the ending in lower case, as it says how a file is read."""
    path = Path(name)
    ending = path.suffix
    if ending.lower() in COMPRESSED:
        inner = Path(path.stem).suffix
        ending = (inner if inner.lower() in DATA_ENDINGS else "") + ending
    return name.removesuffix(ending), ending.lower()


def _kept(data_dir: DataDir) -> dict[str, ListedFile]:
    listed = run_files(data_dir).listed(data_dir.uploads.name)
    return {name: file for name, file in listed.items() if KEPT_NAME.fullmatch(name)}


def _shown(data_dir: DataDir, name: str, file: ListedFile) -> dict[str, Any]:
    named = KEPT_NAME.fullmatch(name)
    assert named is not None
    return {
        "name": named["name"] + named["ending"],
        "file": name,
        "value": str((data_dir.uploads / name).absolute()),
        "bytes": file.size,
        "modified": file.modified,
    }


def _sweep(data_dir: DataDir, now: float) -> None:
    """Removes what uploads of a server that was killed left behind; `now` by the clock of the file
    system, which may be another host's."""
    for folder in data_dir.uploads.glob(f"{INCOMING}*"):
        newest = max((p.stat().st_mtime for p in (folder, *folder.glob("*"))), default=0.0)
        if newest < now - STALE_SECONDS:
            remove(folder)


@contextmanager
def _write_errors_named(data_dir: DataDir) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = lacks_room(error) or error.errno == errno.EFBIG
        problem = f"the disk is full; {ADVICE}" if full else "the data directory cannot be written"
        raise UserError(
            f"{problem} ({error.strerror})",
            where=str(data_dir.uploads),
            kind=ErrorKind.DISK_FULL,
        ) from None


def _by_name(error: UserError, path: Path) -> UserError:
    """The error with the file's own name in place of where it was looked at."""
    inside = f"{path.parent}/"
    where = error.where.replace(inside, "") or path.name
    return UserError(error.message.replace(inside, ""), where=where, kind=ErrorKind.BAD_DATA)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)
