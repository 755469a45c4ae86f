"""Addresses that are refused, and what the failures of stores are called."""

import errno
import sys
from pathlib import Path
from typing import Any

import pytest

from app.worker.run_files.address import FilesAddress, cause_of, checked_address
from app.worker.run_files.remote import RemoteFiles
from opd.errors import ErrorKind, UserError
from storage.data_dir import DataDir


@pytest.mark.parametrize("address", ["s3://studio/team", "gs://studio", "file:///mnt/team"])
def test_an_address_is_kept_without_its_last_slash(address: str) -> None:
    assert checked_address(address) == checked_address(f"{address}/") == address


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("/mnt/team", "is not an address such as s3://bucket/prefix"),
        ("s3://", "is not an address"),
        ("s3:studio", "is not an address"),
        ("s3://key:secret@studio/team", "must hold no credentials"),
        ("s3://studio/team?versionId=1", "must hold no credentials"),
        ("simplecache::s3://studio/team", "must hold no|is not an address"),
    ],
)
def test_what_is_none_or_holds_a_password_is_refused(address: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as error:
        checked_address(address)
    assert error.value.where == "--files" and error.value.kind.exit_code == 2


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(UserError) as error:
        FilesAddress("s3://studio/team").check()
    assert error.value.kind == ErrorKind.MISSING_EXTRA
    assert error.value.message.endswith("pip install 'opd-studio[files]'")
    with pytest.raises(UserError, match="Protocol not known: nosuch"):
        FilesAddress("nosuch://studio/team").check()


class NoCredentialsError(Exception):
    """As botocore calls it."""


SKEWED = "The difference between the request time and the current time is too large."


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (NoCredentialsError("Unable to locate credentials"), "no credentials"),
        (PermissionError("Forbidden"), "access is denied"),
        (PermissionError(SKEWED), "the clock of this host is wrong"),
        (OSError(errno.ENOSPC, "No space left on device"), "the store is full"),
        (OSError("XMinioAdminBucketQuotaExceeded"), "the store is full"),
        (FileNotFoundError("The specified bucket does not exist"), "there is no such bucket"),
        (OSError(errno.EROFS, "Read-only file system"), "access is denied"),
        (TimeoutError(), "it does not answer"),
        (ConnectionRefusedError("refused"), "it does not answer"),
        (RuntimeError("whatever"), ""),
    ],
)
def test_what_stores_raise_has_a_name(error: Exception, cause: str) -> None:
    assert cause_of(error) == cause


def test_a_failure_that_passes_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, tries = FilesAddress(f"file://{tmp_path}"), []
    real = store._opened().put_file
    monkeypatch.setattr("app.worker.run_files.address.PAUSES", (0.0, 0.0))

    def failing(*arguments: Any) -> None:
        tries.append(arguments)
        if len(tries) < 3:
            raise TimeoutError
        real(*arguments)

    monkeypatch.setattr(store._opened(), "put_file", failing)
    (tmp_path / "a").write_text("content")
    store.put(tmp_path / "a", "runs/a")
    assert store.content("runs/a") == b"content" and len(tries) == 3
    tries.clear()
    monkeypatch.setattr(store._opened(), "put_file", lambda *_: 1 / 0)
    with pytest.raises(
        UserError, match=r"cannot be written \(runs/b\): ZeroDivisionError"
    ) as error:
        store.put(tmp_path / "a", "runs/b")
    assert error.value.kind == ErrorKind.FILES


def test_a_full_disk_of_this_host_is_not_the_stores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "team").mkdir()
    store = FilesAddress(f"file://{tmp_path}/team")

    def filling(_: str, target: str) -> None:
        Path(target).write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device", target)

    monkeypatch.setattr(store._opened(), "get_file", filling)
    saved = {
        "step": 4,
        "path": store.at("runs/run-full/checkpoints/step-000004.1"),
        "manifest": {"model": "digest"},
    }
    with pytest.raises(UserError, match="the disk is full") as error:
        RemoteFiles(DataDir(tmp_path / "here", files=store.address), store).bring("run-full", saved)
    assert error.value.kind == ErrorKind.DISK_FULL
    assert error.value.where.startswith(str(tmp_path / "here"))
    assert [p.name for p in (tmp_path / "here").rglob("*") if p.is_file()] == [".lock"]
