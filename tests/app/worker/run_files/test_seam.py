"""What hosts that share no folder, or share one, must find of each other's runs: one contract."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.worker.run_files.address import FilesAddress
from app.worker.run_files.choice import run_files
from app.worker.run_files.seam import ListedFile, RunFiles
from opd.errors import ErrorKind, UserError
from opd.training.checkpoint_manifest import STATE, make
from opd.types import CheckpointEvent
from storage.data_dir import DataDir
from tests.support.network import object_store

RUN = "run-shared00"
KINDS = ("one folder", "file", "memory", pytest.param("s3", marks=pytest.mark.engines))


@dataclass(frozen=True)
class Host:
    """With its data directory, and its view of the files."""

    data_dir: DataDir

    @property
    def files(self) -> RunFiles:
        return run_files(self.data_dir)

    @property
    def checkpoints(self) -> Path:
        return self.data_dir.run(RUN).checkpoints

    def save(self, step: int, attempt: int = 1, **contents: str) -> dict[str, Any]:
        """A checkpoint as an attempt makes it, and its row."""
        folder = self.checkpoints / f"step-{step:06d}"
        folder.mkdir(parents=True)
        for name, text in ({STATE: f'{{"step": {step}}}', "model": "weights"} | contents).items():
            (folder / name).write_text(text)
        event = CheckpointEvent(step, str(folder), make(folder))
        path = self.files.keep(RUN, attempt, event).result(30)
        return {"step": step, "path": path, "manifest": dict(event.manifest)}

    def write_last_words(self) -> None:
        """To the log, by an attempt that is killed before it has sent them."""
        log = self.data_dir.run(RUN).log
        log.parent.mkdir(parents=True)
        with self.files.mirrored(RUN, 1):
            log.write_text("begun\n")
        log.write_text("begun\nlast words\n")

    def settle(self) -> None:
        """Until what is done later is done."""
        with self.files.mirrored(RUN, 99):
            pass


@pytest.fixture(scope="module")
def store() -> Iterator[object_store.ObjectStore]:
    with object_store.serving() as started:
        yield started


@pytest.fixture(params=KINDS)
def hosts(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Host, Host]:
    address: str | None = f"{request.param}://studio/{tmp_path.name}"
    second = tmp_path / "b"
    if request.param == "one folder":
        address, second = None, tmp_path / "a"
    elif request.param == "file":
        (tmp_path / "team").mkdir()
        address = f"file://{tmp_path}/team"
    elif request.param == "s3":
        started = request.getfixturevalue("store")
        started.empty()
        for name, value in started.environment.items():
            monkeypatch.setenv(name, value)
    run_files.cache_clear()
    return Host(DataDir(tmp_path / "a", files=address)), Host(DataDir(second, files=address))


def texts(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def test_a_checkpoint_of_one_host_is_whole_on_another(hosts: tuple[Host, Host]) -> None:
    one, other = hosts
    one.files.check()
    saved = one.save(4, model="w" * 1000, optimizer="moments")
    assert other.files.sizes(RUN, saved) == {STATE: 11, "model": 1000, "optimizer": 7}
    folder = other.files.bring(RUN, saved)
    assert texts(folder) == {STATE: '{"step": 4}', "model": "w" * 1000, "optimizer": "moments"}
    assert other.files.bring(RUN, saved) == folder


def test_what_is_not_needed_is_not_looked_at(hosts: tuple[Host, Host]) -> None:
    one, other = hosts
    saved = one.save(4, optimizer="moments")
    saved["manifest"]["optimizer"] = "another's digest"
    folder = other.files.bring(RUN, saved, ("optimizer",))
    assert (folder / "model").read_text() == "weights"
    with pytest.raises(UserError) as error:
        other.files.bring(RUN, saved)
    assert error.value.kind == ErrorKind.DAMAGED_CHECKPOINT and "optimizer" in str(error.value)


def test_one_that_is_nowhere_is_damaged(hosts: tuple[Host, Host]) -> None:
    one, other = hosts
    saved = one.save(4)
    one.files.sweep(RUN, [], 1)
    one.settle()
    with pytest.raises(UserError) as error:
        other.files.bring(RUN, saved)
    assert error.value.kind == ErrorKind.DAMAGED_CHECKPOINT


def test_an_attempt_goes_on_as_if_all_had_been_saved_there(hosts: tuple[Host, Host]) -> None:
    one, other = hosts
    rows = [one.save(step, score="0.5") for step in (2, 4, 6)]
    folder = other.files.go_on(RUN, rows[:2], rows[1])
    assert folder == other.checkpoints / "step-000004"
    assert texts(folder)["model"] == "weights"
    names = [path.name for path in sorted(other.checkpoints.iterdir())]
    assert names[:2] == ["step-000002", "step-000004"]
    assert (other.checkpoints / "step-000002" / STATE).read_text() == '{"step": 2}'


def test_only_what_is_recorded_stays(hosts: tuple[Host, Host]) -> None:
    one, other = hosts
    two, four = one.save(2), one.save(4)
    one.files.sweep(RUN, [four], 1)
    one.settle()
    with pytest.raises(UserError):
        other.files.bring(RUN, two)
    assert texts(other.files.bring(RUN, four))["model"] == "weights"


def test_all_of_a_run_is_removed_and_nothing_of_another(hosts: tuple[Host, Host]) -> None:
    one, other = hosts
    saved = one.save(4)
    beside = one.data_dir.run("run-beside").log
    for log in (one.data_dir.run(RUN).log, beside):
        log.parent.mkdir(parents=True, exist_ok=True)
        with one.files.mirrored(log.parent.name, 1):
            log.write_text("words\n")
    one.settle()
    one.files.remove(RUN)
    assert not one.data_dir.run(RUN).path.exists()
    assert other.files.log(RUN) is None
    with pytest.raises(UserError):
        other.files.bring(RUN, saved)
    assert other.files.log("run-beside") is not None
    one.files.remove(RUN)


def test_a_file_is_found_by_all_until_it_is_deleted(hosts: tuple[Host, Host]) -> None:
    one, other = hosts
    assert other.files.fetch("uploads/rows.jsonl") is None
    assert other.files.content("uploads/rows.jsonl") == b""
    path = one.data_dir.path / "uploads" / "rows.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("{}\n")
    one.files.send("uploads/rows.jsonl")
    assert other.files.content("uploads/rows.jsonl") == b"{}\n"
    assert (fetched := other.files.fetch("uploads/rows.jsonl")) is not None
    assert fetched.read_text() == "{}\n" and fetched.parent == other.data_dir.uploads
    other.files.delete("uploads/rows.jsonl")
    assert other.files.content("uploads/rows.jsonl") == b""
    assert other.files.fetch("uploads/rows.jsonl") is None
    other.files.delete("uploads/rows.jsonl")


def test_a_folder_lists_what_any_host_has_sent(hosts: tuple[Host, Host]) -> None:
    one, other = hosts
    assert one.files.listed("uploads") == {}
    before = time.time()
    for host, name in ((one, "a.jsonl"), (other, "b.jsonl")):
        path = host.data_dir.uploads / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}\n")
        host.files.send(f"uploads/{name}")
    for host in hosts:
        listed = host.files.listed("uploads")
        assert {name: file.size for name, file in listed.items()} == {"a.jsonl": 3, "b.jsonl": 3}
        assert all(abs(file.modified - before) < 120 for file in listed.values())
    one.files.delete("uploads/b.jsonl")
    assert "b.jsonl" not in one.files.listed("uploads")


def test_a_log_that_is_looked_at_often_is_listed_now_and_then(
    hosts: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = hosts
    log = one.data_dir.run(RUN).log
    log.parent.mkdir(parents=True)
    prefixes: list[str] = []
    listed = FilesAddress.listed

    def noted(store: FilesAddress, prefix: str) -> dict[str, ListedFile]:
        prefixes.append(prefix)
        return listed(store, prefix)

    monkeypatch.setattr(FilesAddress, "listed", noted)
    for text in ("begun\n", "more\n"):
        with one.files.mirrored(RUN, 1), log.open("a") as file:
            file.write(text)
        prefixes.clear()
        for _ in range(3):
            copy = other.files.log(RUN, within=60.0)
            assert copy is not None and copy.read(0, 6) == b"begun\n"
        assert len(prefixes) <= 1
    copy = other.files.log(RUN)
    assert copy is not None and copy.read(0, 100) == b"begun\nmore\n"


def test_the_log_is_that_of_all_attempts_on_all_hosts(hosts: tuple[Host, Host]) -> None:
    assert hosts[0].files.log(RUN) is None
    for attempt, host in enumerate((*hosts, hosts[0]), start=1):
        log = host.data_dir.run(RUN).log
        log.parent.mkdir(parents=True, exist_ok=True)
        with host.files.mirrored(RUN, attempt), log.open("a") as file:
            file.write(f"attempt {attempt}\n")
    for host in hosts:
        text = host.files.log(RUN)
        assert text is not None and text.size == 30
        assert text.read(0, 100) == b"attempt 1\nattempt 2\nattempt 3\n"
        assert text.read(8, 4) == b"1\nat" and text.read(15, 8) == b"pt 2\natt"
        assert text.read(25, 3) == b"pt " and text.read(30, 9) == b""


def test_what_a_killed_attempt_wrote_last_is_not_lost(hosts: tuple[Host, Host]) -> None:
    one, other = hosts
    one.write_last_words()
    one.files.send_rest(RUN, 1)
    one.settle()
    text = other.files.log(RUN)
    assert text is not None and text.read(0, 100) == b"begun\nlast words\n"


def test_the_rest_of_a_killed_attempt_is_sent_while_another_begins(
    hosts: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever of the other's note is on the disk at that moment."""
    one, other = hosts
    one.write_last_words()
    write = Path.write_text

    def slowly(path: Path, text: str, **options: Any) -> int:
        if text.isdigit():
            path.touch()
            one.files.send_rest(RUN, 1)
            time.sleep(0.5)
        return write(path, text, **options)

    monkeypatch.setattr(Path, "write_text", slowly)
    one.settle()
    copy = other.files.log(RUN)
    assert copy is not None and copy.read(0, 100) == b"begun\nlast words\n"
