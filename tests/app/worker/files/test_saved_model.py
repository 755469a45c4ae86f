"""The archive of a run's model: what `opd save` writes, of the size that was said before."""

import tarfile
from pathlib import Path

import pytest
from sqlalchemy import Engine

from app.worker.files import process
from app.worker.files.kept import path_of
from app.worker.files.saved_model import archive_size, folder_sizes, model_size, write_archive
from opd.config.run import parse
from opd.training.checkpoint_manifest import folder_of, make
from opd.types import CheckpointEvent
from storage.data_dir import DataDir
from storage.queue import jobs, requests
from storage.read.runs import read_run
from storage.write.records import RunWriter
from tests.support.stored_runs import OWNER


@pytest.fixture
def run_id(engine: Engine, tmp_path: Path) -> str:
    made = jobs.create_run(engine, parse({"name": "saved"}))
    attempt = jobs.claim(engine, made, "cpu", OWNER)
    assert attempt is not None
    folder = folder_of(DataDir(tmp_path).run(made).checkpoints, 3)
    folder.mkdir(parents=True)
    for name, size in (("model.safetensors", 70_000), ("optimizer.safetensors", 9), ("a.json", 1)):
        (folder / name).write_bytes(b"x" * size)
    RunWriter(engine, made, attempt).checkpoint(CheckpointEvent(3, str(folder), make(folder)))
    return made


def test_the_archive_has_the_model_and_its_card(
    engine: Engine, tmp_path: Path, run_id: str
) -> None:
    data_dir = DataDir(tmp_path)
    name = requests.enqueue(engine, "save", {"runs": [run_id], "merge": False})
    process.serve(engine, data_dir, 0.1)
    done = requests.read_request(engine, name)
    assert done["state"] == "done", done["error_text"]
    path = path_of(data_dir, name)
    with tarfile.open(path) as archive:
        members = {m.name.removeprefix(f"{run_id}-model/"): m for m in archive.getmembers()}
        card = archive.extractfile(members["README.md"])
        assert card is not None and f"run `{run_id}`: 3 steps" in card.read().decode()
    assert sorted(members) == ["README.md", "a.json", "model.safetensors"]
    assert all(m.isreg() and m.uid == 0 and m.uname == "" for m in members.values())
    assert (
        path.stat().st_size
        == done["answer"]["bytes"]
        == archive_size([m.size for m in members.values()])
    )
    said = model_size(data_dir, read_run(engine, run_id))
    assert said is not None and 0 <= path.stat().st_size - said["bytes"] <= 20_480
    assert (said["step"], said["adapter"]) == (3, False)
    folder = folder_of(data_dir.run(run_id).checkpoints, 3)
    assert (folder / "model.safetensors").read_bytes() == b"x" * 70_000
    assert [p.name for p in data_dir.downloads.iterdir()] == [name]


def test_a_damaged_checkpoint_becomes_no_archive(
    engine: Engine, tmp_path: Path, run_id: str
) -> None:
    data_dir = DataDir(tmp_path)
    (folder_of(data_dir.run(run_id).checkpoints, 3) / "a.json").write_text("changed")
    name = requests.enqueue(engine, "save", {"runs": [run_id], "merge": False})
    process.serve(engine, data_dir, 0.1)
    failed = requests.read_request(engine, name)
    assert failed["error_kind"] == "damaged checkpoint" and "a.json" in failed["error_text"]
    assert list(data_dir.downloads.iterdir()) == []


@pytest.mark.parametrize("sizes", [[], [0], [1, 511], [512, 513], [10_240] * 21])
def test_its_size_is_known_before(tmp_path: Path, sizes: list[int]) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for number, size in enumerate(sizes):
        (folder / f"{number:02}").write_bytes(b"x" * size)
    totals: list[int] = []
    write_archive(folder, tmp_path / "out.tar", "name", totals.append)
    assert (tmp_path / "out.tar").stat().st_size == archive_size(folder_sizes(folder))
    assert totals[-1:] == ([sum(sizes)] if sum(sizes) else totals[-1:])
