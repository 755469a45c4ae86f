"""Names on disk: scripts and processes of older versions rely on them."""

from pathlib import Path

from storage.data_dir import DataDir


def test_the_names_on_disk_stay() -> None:
    data_dir = DataDir(Path("/d"))
    run = data_dir.run("run-a")
    properties = {
        name: str(getattr(place, name))
        for place in (data_dir, run)
        for name, value in vars(type(place)).items()
        if isinstance(value, property)
    }
    assert properties == {
        "database": "/d/studio.db",
        "token": "/d/token",
        "server_lock": "/d/server.lock",
        "server_note": "/d/server.json",
        "identity": "/d/identity",
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
        "references": "/d/runs/run-a/references.json",
        "reserve": "/d/runs/run-a/.reserve",
        "system_usage": "/d/runs/run-a/system.jsonl",
    }
    assert str(data_dir) == "/d"
