"""One address of a store that fsspec knows (`s3://bucket/prefix`, `file:///mnt/team`): files put
whole, got, listed and removed, with every failure named."""

import re
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from app.worker.run_files.seam import ListedFile
from opd.errors import ErrorKind, UserError, lacks_room, one_line

T = TypeVar("T")
PAUSES = (1.0, 4.0)  # seconds before each further try
# Per request to S3 and what speaks its language; fsspec's other file systems have their own.
OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {
        "config_kwargs": {
            "connect_timeout": 5,
            "read_timeout": 30,
            "retries": {"total_max_attempts": 2},
        },
        "max_concurrency": 2,  # parts of 50 MB in memory at a time
        "use_listings_cache": False,
        "skip_instance_cache": True,
    }
}
# Stores that know no folders; elsewhere those below the address are made, and it must be there.
FLAT = ("s3", "s3a", "gs", "gcs", "abfs", "az", "memory")
PACKAGES = {"s3": "'opd-studio[files]'", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs"}
# What file systems of fsspec call the time of the last change.
MODIFIED = ("LastModified", "last_modified", "mtime", "updated", "created")
NO_BUCKET = r"NoSuchBucket|bucket does not exist"
# By the names of exceptions, and by what stores answer: their packages need not be installed.
CAUSES = (
    (r"NoCredentials|PartialCredentials|CredentialRetrieval|ProfileNotFound", "no credentials"),
    (r"quota|insufficient ?storage|storage ?full", "the store is full"),
    (r"RequestTimeTooSkewed|request time and the current time", "the clock of this host is wrong"),
    (
        r"InvalidAccessKeyId|SignatureDoesNotMatch|InvalidToken|ExpiredToken",
        "the credentials are refused",
    ),
    (NO_BUCKET, "there is no such bucket"),
    (r"is not a folder", "there is no such folder"),
    (r"PermissionError|AccessDenied|Forbidden|\b403\b|Read-only file system", "access is denied"),
    (
        r"EndpointConnection|ConnectTimeout|ReadTimeout|TimeoutError|ConnectionRefused"
        r"|ConnectionError|ConnectionClosed|ConnectorError|ServerDisconnected",
        "it does not answer",
    ),
)
ADVICE = {
    "no credentials": "give them as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "the clock of this host is wrong": "set it (ntp, chrony)",
}


class FilesAddress:
    """Keys are paths below the address. Raises UserError of kind "files" at `--files`."""

    def __init__(self, address: str) -> None:
        self.address = checked_address(address)
        self._files: Any = None
        self._root = ""

    def at(self, key: str) -> str:
        """The whole address of a key."""
        return f"{self.address}/{key}"

    def check(self) -> None:
        """Writes, reads and removes a small file."""
        key, content = f".check-{uuid.uuid4().hex}", b"opd"

        def all_three() -> None:
            files, path = self._opened(), self._path(key)
            self._make_folder(path)
            files.pipe_file(path, content)
            stored = files.cat_file(path)
            files.rm_file(path)
            if stored != content:
                raise OSError("what was written is not what was read")

        self._named("written and read", all_three, pauses=())

    def put(self, source: Path, key: str) -> None:
        def put() -> None:
            path = self._path(key)
            self._make_folder(path)
            self._opened().put_file(str(source), path)

        self._named(f"written ({key})", put)

    def write(self, content: bytes, key: str) -> None:
        def write() -> None:
            path = self._path(key)
            self._make_folder(path)
            self._opened().pipe_file(path, content)

        self._named(f"written ({key})", write)

    def content(self, key: str) -> bytes | None:
        """None where there is no such file."""

        def content() -> bytes | None:
            try:
                return bytes(self._opened().cat_file(self._path(key)))
            except FileNotFoundError as error:
                _raise_lack_of_bucket(error)
                return None

        return self._named(f"read ({key})", content)

    def get(self, key: str, target: Path) -> bool:
        """False where there is no such file. Raises UserError of kind "disk full" where this host
        has no room for it."""

        def get() -> bool:
            try:
                self._opened().get_file(self._path(key), str(target))
            except FileNotFoundError as error:
                _raise_lack_of_bucket(error)
                return False
            except OSError as error:
                if not lacks_room(error):
                    raise
                raise UserError(
                    f"the disk is full ({key} was read from {self.address})",
                    where=str(target.parent),
                    kind=ErrorKind.DISK_FULL,
                ) from None
            return True

        return self._named(f"read ({key})", get)

    def read(self, key: str, start: int, end: int) -> bytes:
        def read() -> bytes:
            return bytes(self._opened().cat_file(self._path(key), start=start, end=end))

        return self._named(f"read ({key})", read)

    def sizes(self, prefix: str) -> dict[str, int]:
        """Bytes of all files below a key, by the rest of their keys."""
        return {name: file.size for name, file in self.listed(prefix).items()}

    def listed(self, prefix: str) -> dict[str, ListedFile]:
        """All files below a key, by the rest of their keys."""

        def listed() -> dict[str, ListedFile]:
            files, path = self._opened(), self._path(prefix)
            files.invalidate_cache()
            try:
                entries = files.find(path, detail=True)
            except FileNotFoundError as error:
                _raise_lack_of_bucket(error)
                return {}
            root = self._path(prefix).rstrip("/") + "/"
            return {
                name.removeprefix(root): ListedFile(int(entry["size"]), _modified(entry))
                for name, entry in entries.items()
                if name.startswith(root) and entry["type"] == "file"
            }

        return self._named(f"listed ({prefix})", listed)

    def remove(self, prefix: str) -> None:
        """A file, or all below the key; nothing where there is none."""

        def remove() -> None:
            files, path = self._opened(), self._path(prefix)
            files.invalidate_cache()
            try:
                files.rm(path, recursive=True)
            except FileNotFoundError:
                return

        self._named(f"removed ({prefix})", remove)

    def _opened(self) -> Any:
        """The file system, once for all threads. Raises whatever its package does."""
        if self._files is None:
            import fsspec  # noqa: PLC0415 - only where the option is used

            options = OPTIONS.get(self._protocol, {})
            try:
                self._files, root = fsspec.core.url_to_fs(self.address, **options)
            except ValueError as error:  # a protocol that nobody knows
                raise UserError(one_line(error), where=self._where) from None
            except ImportError as error:
                package = PACKAGES.get(self._protocol, "")
                advice = f": pip install {package}" if package else ""
                raise UserError(
                    f"{one_line(error)}{advice}", where=self._where, kind=ErrorKind.MISSING_EXTRA
                ) from None
            self._root = root.rstrip("/")
        return self._files

    def _path(self, key: str) -> str:
        self._opened()
        return f"{self._root}/{key}"

    def _make_folder(self, path: str) -> None:
        """The one that a file is to lie in, where the store has folders."""
        if self._protocol in FLAT:
            return
        if not self._opened().isdir(self._root):
            raise FileNotFoundError(f"{self._root} is not a folder: is its disk mounted?")
        self._opened().makedirs(path.rpartition("/")[0], exist_ok=True)

    @property
    def _protocol(self) -> str:
        return self.address.partition("://")[0]

    @property
    def _where(self) -> str:
        return f"--files {self.address}"

    def _named(self, what: str, act: Callable[[], T], pauses: tuple[float, ...] | None = None) -> T:
        for pause in (*(PAUSES if pauses is None else pauses), None):
            try:
                return act()
            except UserError:
                raise
            except Exception as error:  # noqa: BLE001 - each store has exceptions of its own
                cause = cause_of(error)
                if pause is not None and cause in ("", "it does not answer"):
                    time.sleep(pause)
                    continue
                problem = f"cannot be {what}: {cause or type(error).__name__}"
                if advice := ADVICE.get(cause):
                    problem += f"; {advice}"
                raise UserError(
                    f"{problem} ({one_line(error, 200)})", where=self._where, kind=ErrorKind.FILES
                ) from None
        raise AssertionError("the last try returns or raises")


def _modified(entry: Mapping[str, Any]) -> float:
    """When it was written, which every store tells by a name of its own; 0 where none is known."""
    changed = next((entry[name] for name in MODIFIED if entry.get(name) is not None), 0.0)
    return float(changed.timestamp() if isinstance(changed, datetime) else changed)


def _raise_lack_of_bucket(error: FileNotFoundError) -> None:
    """That is more than the lack of a file in it."""
    if re.search(NO_BUCKET, str(error)):
        raise error


def checked_address(address: str) -> str:
    """Without a slash at its end. Raises UserError for what is not an address, or holds a
    password, which would be shown."""
    protocol, separator, rest = address.rstrip("/").partition("://")
    where = "--files"
    if not separator or not re.fullmatch(r"[a-z][a-z0-9+.-]*", protocol) or not rest.strip("/"):
        raise UserError(
            f"{address!r} is not an address such as s3://bucket/prefix or file:///mnt/team",
            where=where,
        )
    if "@" in rest or "?" in rest or "::" in address:
        raise UserError(
            "must hold no credentials or options: they would be shown; stores take them from "
            "their own environment (AWS_PROFILE, AWS_ENDPOINT_URL …)",
            where=where,
        )
    return address.rstrip("/")


def cause_of(error: BaseException) -> str:
    """What the failure of a store means, in words; empty where that is not known."""
    text = f"{type(error).__name__}: {error}"
    if lacks_room(error):
        return "the store is full"
    for pattern, cause in CAUSES:
        if re.search(pattern, text, re.IGNORECASE):
            return cause
    return ""
