"""Names on disk: scripts and processes of older versions rely on them."""

from pathlib import Path

import pytest

from storage.data_dir import DataDir, is_shared


def test_the_names_on_disk_stay() -> None:
    data_dir = DataDir(Path("/d"))
    run = data_dir.run("run-a")
    properties = {
        name: str(getattr(directory, name))
        for directory in (data_dir, run)
        for name, value in vars(type(directory)).items()
        if isinstance(value, property)
    }
    assert properties == {
        "database": "/d/studio.db",
        "host_folder": "/d",
        "database_url": "/d/database-url",
        "token": "/d/token",
        "server_lock": "/d/server.lock",
        "server_note": "/d/server.json",
        "identity": "/d/identity",
        "files_note": "/d/files-address",
        "standby_note": "/d/standby.json",
        "supervisor_lock": "/d/supervisor.lock",
        "supervisor_note": "/d/supervisor.json",
        "supervisor_log": "/d/supervisor.log",
        "model_lock": "/d/answerer.lock",
        "model_log": "/d/answerer.log",
        "model_state": "/d/answerer.json",
        "file_lock": "/d/files.lock",
        "file_log": "/d/files.log",
        "downloads": "/d/downloads",
        "uploads": "/d/uploads",
        "runs": "/d/runs",
        "models": "/d/models",
        "log": "/d/runs/run-a/log.txt",
        "checkpoints": "/d/runs/run-a/checkpoints",
        "fetched": "/d/runs/run-a/fetched",
        "references": "/d/runs/run-a/references.json",
        "reserve": "/d/runs/run-a/.reserve",
        "system_usage": "/d/runs/run-a/system.jsonl",
    }
    assert str(data_dir) == "/d"


def test_hosts_that_share_a_directory_have_their_locks_and_notes_apart(tmp_path: Path) -> None:
    url = "postgresql+psycopg://studio@db/studio"
    assert DataDir.used_with(tmp_path, None) == DataDir.used_with(tmp_path, "sqlite:///x.db")
    assert DataDir.used_with(tmp_path, None) == DataDir(tmp_path)
    here, other = DataDir.used_with(tmp_path, url), DataDir(tmp_path, "other")
    folder = tmp_path / "hosts" / "other"
    assert other.supervisor_lock == folder / "supervisor.lock"
    assert other.device_lock("cuda:0") == folder / "devices" / "cuda-0.lock"
    assert (here.token, here.runs) == (tmp_path / "token", tmp_path / "runs")
    other.make_host_folder()
    here.make_host_folder()
    assert sorted((tmp_path / "hosts").iterdir()) == sorted((folder, here.host_folder))
    with pytest.raises(FileNotFoundError):  # a disk that is not mounted is not made anew
        DataDir(tmp_path / "gone", "other").make_host_folder()


def test_the_address_of_files_is_the_options_the_environments_or_the_notes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPD_FILES", raising=False)
    assert DataDir.used_with(tmp_path, None).files is None
    DataDir(tmp_path).files_note.write_text("s3://studio/note\n")
    assert DataDir.used_with(tmp_path, None).files == "s3://studio/note"
    monkeypatch.setenv("OPD_FILES", "s3://studio/environment")
    assert DataDir.used_with(tmp_path, None).files == "s3://studio/environment"
    assert DataDir.used_with(tmp_path, None, "s3://studio/a").files == "s3://studio/a"
    assert DataDir(tmp_path).files is None


@pytest.mark.parametrize(
    ("url", "shared"),
    [(None, False), ("sqlite:////d/studio.db", False), ("postgresql+psycopg://db/opd", True)],
)
def test_a_database_that_hosts_share_is_not_a_file(url: str | None, shared: bool) -> None:
    assert is_shared(url) is shared
    assert bool(DataDir.used_with(Path("/d"), url).host) is shared
