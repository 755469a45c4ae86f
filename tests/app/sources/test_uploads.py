"""Uploads on the disk: names, places, content that is there already, and what goes again."""

import errno
import os
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from app.sources import uploads
from app.sources.folders import Look
from app.sources.upload_check import UploadContents, contents
from app.sources.uploads import checked_name, delete, incoming, keep, listed
from app.worker.files import kept
from opd.config.run import parse
from opd.errors import UserError
from storage.data_dir import DataDir
from storage.queue import jobs
from tests.app.sources.test_upload_check import GOOD

ALL = Look("data")
FINE = ("rows.jsonl", "Zeilen ü.csv", "a b (1).json", "数据.parquet", "x.jsonl.gz", "r-1.2.tsv")
REFUSED = (
    *(
        "",
        ".",
        "..",
        "../rows.jsonl",
        "a/b.jsonl",
        "/etc/rows.jsonl",
        "..\\rows.jsonl",
        "C:\\a.csv",
    ),
    *(".rows.jsonl", ".incoming-x.jsonl", "~rows.jsonl", "-rf.jsonl", " rows.jsonl", "rows.jsonl "),
    *("rows.jsonl.", "a\0.jsonl", "a\n.jsonl", "a\r\nb: c.jsonl", "a\x7f.jsonl", "a\x1b[0m.jsonl"),
    *("a\u202egnp.jsonl", "a\u200b.jsonl", "a\ufeff.jsonl", "a\u2028.jsonl", "a\ue000.jsonl"),
    *("CON.jsonl", "nul.csv", "com1.json", "LPT9.tsv.gz", "aux.jsonl", "con.a.jsonl"),
    *(
        "x" * 150 + ".jsonl",
        "ü" * 75 + ".csv",
        "rows",
        "rows.txt",
        "rows.exe",
        "rows.pkl",
        ".jsonl",
    ),
    *(".jsonl", "rows.safetensors", "rows.jsonl/", "a:b.jsonl", "a*.jsonl", "a?.jsonl"),
    *('a".jsonl', "a|.csv"),
    *("<img src=x onerror=alert(1)>.jsonl", "rows.py", "rows.tar", "rows.gz.exe", "rows.html"),
)


@pytest.fixture
def data_dir(tmp_path: Path) -> DataDir:
    return DataDir(tmp_path)


def stored(data_dir: DataDir, name: str, content: bytes = GOOD) -> dict[str, Any]:
    with incoming(data_dir, name, len(content)) as file:
        for start in range(0, len(content), 10):
            file.write(content[start : start + 10])
        return keep(data_dir, file, contents)


def files(data_dir: DataDir) -> list[str]:
    return sorted(p.name for p in data_dir.uploads.rglob("*"))


def test_an_upload_is_kept_under_name_and_content(data_dir: DataDir) -> None:
    upload = stored(data_dir, "rows.jsonl")
    assert (upload["name"], upload["rows"], upload["known"]) == ("rows.jsonl", 1, False)
    path = Path(upload["value"])
    assert path.read_bytes() == GOOD and path.parent == data_dir.uploads
    assert path.name == upload["file"] and path.name.startswith("rows-")
    assert files(data_dir) == [path.name], "nothing beside it"
    again = stored(data_dir, "other.jsonl")
    assert again["known"] and again["value"] == upload["value"] and len(files(data_dir)) == 1
    stored(data_dir, "rows.json")
    assert len(files(data_dir)) == 2, "the ending says how it is read"
    assert listed(data_dir, ALL)["total"] == 2
    assert listed(data_dir, Look("data", search="ROWS", limit=1))["items"][0]["value"]


def test_what_was_changed_by_hand_is_content_no_more(data_dir: DataDir) -> None:
    path = Path(stored(data_dir, "rows.jsonl")["value"])
    path.chmod(0o644)
    path.write_text("changed")
    assert Path(stored(data_dir, "rows.jsonl")["value"]).read_bytes() == GOOD


@pytest.mark.parametrize("name", FINE)
def test_names_that_are_taken(data_dir: DataDir, name: str) -> None:
    with incoming(data_dir, name, 0) as file:
        file.write(b"x")
        upload = keep(data_dir, file, lambda _: UploadContents(1, "text"))
    assert upload["name"] == checked_name(name)


@pytest.mark.parametrize("name", REFUSED)
def test_names_that_are_refused(data_dir: DataDir, name: str) -> None:
    with pytest.raises(UserError) as refused, incoming(data_dir, name, 0):
        pass
    assert refused.value.where == "name" and "rename the file" in refused.value.message
    assert refused.value.message.isprintable()
    assert not data_dir.uploads.exists()


def test_a_refused_file_leaves_nothing_and_is_named_as_the_user_does(data_dir: DataDir) -> None:
    with pytest.raises(UserError) as refused:
        stored(data_dir, "rows.jsonl", GOOD + b"{broken\n")
    assert refused.value.where == "rows.jsonl:2" and "not valid JSON" in refused.value.message
    assert str(data_dir) not in str(refused.value) and files(data_dir) == []


def test_a_full_disk(data_dir: DataDir, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = kept.shutil.disk_usage("/")._replace(free=10**8)
    with monkeypatch.context() as patched:
        patched.setattr(kept.shutil, "disk_usage", lambda _: usage)
        with pytest.raises(UserError, match="stay free for runs"):
            stored(data_dir, "rows.jsonl")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(uploads.os, "fsync", full)
    with pytest.raises(UserError, match="the disk is full; delete uploads") as refused:
        stored(data_dir, "rows.jsonl")
    assert refused.value.kind == "disk full" and files(data_dir) == []


def test_what_a_killed_server_left_behind_is_swept(data_dir: DataDir) -> None:
    for name, age in ((".incoming-old", 7200), (".incoming-new", 60)):
        folder = data_dir.uploads / name
        folder.mkdir(parents=True)
        (folder / "half.jsonl").write_bytes(b"x")
        for path in (folder / "half.jsonl", folder):
            os.utime(path, (time.time() - age,) * 2)
    stored(data_dir, "rows.jsonl")
    assert {p.name for p in data_dir.uploads.iterdir() if p.is_dir()} == {".incoming-new"}
    assert listed(data_dir, ALL)["total"] == 1


def test_an_upload_is_deleted_unless_a_run_reads_it(data_dir: DataDir, engine: Engine) -> None:
    upload = stored(data_dir, "rows.jsonl")
    run = jobs.create_run(engine, parse({"prompts": {"source": upload["value"]}}))
    with pytest.raises(UserError, match=f"{run} has not ended"):
        delete(engine, data_dir, upload["file"])
    jobs.request_cancel(engine, run, "discard")
    (data_dir.path / "studio.txt").write_text("not an upload")
    for name in ("../studio.txt", "studio.txt", "..", ".incoming-x", "rows.jsonl", "", "*"):
        with pytest.raises(UserError, match="no such upload"):
            delete(engine, data_dir, name)
    delete(engine, data_dir, upload["file"])
    assert files(data_dir) == []
