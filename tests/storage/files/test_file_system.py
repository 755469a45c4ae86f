"""What a file system cannot do is found and named before anything waits for it."""

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from opd.errors import UserError
from storage.data_dir import DataDir
from storage.databases import sqlite
from storage.engine import open_database
from storage.files import file_system
from storage.files.file_system import examine


def failing(number: int) -> Callable[..., None]:
    def call(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


def problems(folder: Path) -> dict[str, str]:
    return {p.text: p.severity for p in examine(DataDir(folder))}


def test_a_good_directory_has_no_problem_and_is_left_as_it_was(tmp_path: Path) -> None:
    assert problems(tmp_path) == {}
    assert list(tmp_path.iterdir()) == []
    assert problems(tmp_path / "none") == {}


@pytest.mark.sqlite_only("locks of SQLite's file")
def test_without_record_locks_sqlite_is_not_even_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "lockf", failing(errno.ENOLCK))
    with (
        monkeypatch.context() as patch,
        pytest.raises(UserError, match="without record locks") as refused,
    ):
        patch.setattr(sqlite, "create", lambda _: pytest.fail("it would wait for half a minute"))
        open_database(tmp_path)
    assert "--database-url" in str(refused.value) and str(tmp_path) in str(refused.value)
    [(text, severity)] = problems(tmp_path).items()
    assert severity == "error" and "without record locks" in text


@pytest.mark.sqlite_only("locks of SQLite's file")
def test_locks_that_another_process_holds_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "lockf", failing(errno.EAGAIN))
    open_database(tmp_path).dispose()


def test_what_is_worked_round_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", failing(errno.ENOSYS))
    monkeypatch.setattr(os, "link", failing(errno.EPERM))
    monkeypatch.setattr(file_system, "kind", lambda _: "nfs4")
    warnings = problems(tmp_path)
    assert set(warnings.values()) == {"warning"}
    assert [word for word in ("flock", "hard links", "nfs4") if word in " ".join(warnings)] == [
        "flock",
        "hard links",
        "nfs4",
    ]


@pytest.mark.sqlite_only("the folder of SQLite's file")
def test_a_link_to_nothing(tmp_path: Path) -> None:
    link = tmp_path / "data"
    link.symlink_to("/mnt/not-there")
    assert problems(link) == {"is a link that leads nowhere (to /mnt/not-there)": "error"}
    for folder in (link, link / "sub"):
        with pytest.raises(UserError, match=r"leads nowhere \(to /mnt/not-there\): is its disk"):
            open_database(folder)


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_system.tempfile, "NamedTemporaryFile", failing(errno.ENOSPC))
    assert problems(tmp_path) == {"cannot be written (No space left on device)": "error"}


def test_the_type_is_that_of_the_innermost_mount(monkeypatch: pytest.MonkeyPatch) -> None:
    table = (
        "1 0 0:1 / / rw - ext4 /dev/a rw\n2 1 0:2 / /home rw - nfs4 server:/home rw\n"
        "3 2 0:3 / /home/a\\040b rw,x - tmpfs tmpfs rw\n"
    )
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: table)
    kinds = [file_system.kind(Path(p)) for p in ("/x", "/home/u", "/home/a b/c", "/homes")]
    assert kinds == ["ext4", "nfs4", "tmpfs", "ext4"]
