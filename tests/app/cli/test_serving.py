import json
import os
import socket
import stat
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import httpx
import psutil
import pytest
from sqlalchemy import Engine

from app.cli import serving
from app.cli.main import app
from app.cli.server.ports import bind
from app.cli.workspace import Workspace
from app.sources.roots import SourceOptions
from opd.errors import UserError
from storage import clock
from storage import engine as database
from storage.data_dir import DataDir
from storage.databases import sqlite
from tests import warm_starts
from tests.support.studio import Studio


@pytest.mark.parametrize(("host", "seconds"), [("one", -3600), ("one", 30), ("", -3600)])
def test_a_clock_that_is_not_the_shared_databases_is_named(
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    host: str,
    seconds: int,
) -> None:
    true = time.time
    monkeypatch.setattr(clock.time, "time", lambda: true() + seconds)
    Workspace(DataDir(Path("/d"), host), None).warn_of_clock(engine)
    warning = "Warning: the clock of this host is 3,600 s behind the database's: set it"
    assert (warning in capsys.readouterr().err) is (bool(host) and seconds < 0)


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    made = Studio(tmp_path / "data")
    yield made
    made.close()


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_serve(studio: Studio) -> None:
    """One server's life: link, supervisor, a crash of that, a job that outlives it all."""
    server = studio.start(
        "cli", "serve", "--port", "0", "--token", "secret", **{warm_starts.COLD: "1"}
    )
    assert server.stdout is not None
    link = server.stdout.readline().strip()
    port = int(link.split(":")[2].partition("/")[0])
    assert link == f"http://127.0.0.1:{port}/?token=secret"
    assert not accepts(port)
    run_id = studio.queue("slow", steps=5000)
    studio.wait(lambda: accepts(port))
    studio.wait(lambda: studio.status(run_id) == "running")
    health = httpx.get(f"http://127.0.0.1:{port}/api/v1/health", timeout=300)
    assert health.status_code == 200
    note = json.loads((studio.data_dir / "server.json").read_text())
    address = f"http://127.0.0.1:{port}/"
    assert note == {"port": port, "pid": server.pid, "address": address}
    assert not any("torch" in m.path for m in psutil.Process(server.pid).memory_maps())

    [first] = supervisors(server.pid)
    first.kill()
    studio.wait(lambda: [p.pid for p in supervisors(server.pid)] not in ([], [first.pid]))
    server.terminate()
    out, err = server.communicate(timeout=300)
    assert server.returncode == 0
    assert f"keeps running on cpu; to stop it: opd cancel {run_id}" in out
    assert "Traceback" not in err
    assert not (studio.data_dir / "server.json").exists()
    assert psutil.pid_exists(studio.pid(run_id))
    assert [p for p in studio.descendants() if "supervisor" in command(p)] == []


def supervisors(parent: int) -> list[psutil.Process]:
    return [p for p in psutil.Process(parent).children() if "supervisor" in command(p.pid)]


def command(pid: int) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def test_demo_prints_the_runs_address_and_takes_another_port(studio: Studio) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if other.connect_ex(("127.0.0.1", 7860)) != 0:
            other.close()
            other = bind("127.0.0.1", 7860)
            other.listen()
        demo = studio.start("cli", "demo", CUDA_VISIBLE_DEVICES="")
        assert demo.stdout is not None
        assert "port 7860 is in use; using 78" in demo.stdout.readline()
        line = demo.stdout.readline()
        other.close()
    token = (studio.data_dir / "token").read_text().strip()
    run_id = line.split()[1]
    assert studio.run(run_id)["recipe"] == "demo"
    assert line.rstrip().endswith(f"/run?id={run_id}&token={token}")
    assert len(token) == 43
    assert stat.S_IMODE(os.stat(studio.data_dir / "token").st_mode) == 0o600
    demo.kill()  # nothing is told: the supervisor sees for itself that its server is gone
    demo.wait()
    studio.wait(lambda: not any("supervisor" in command(p) for p in studio.descendants()))


def test_a_bound_port_does_not_accept_and_is_taken() -> None:
    with bind("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        assert not accepts(port)
        bound.listen()
        time.sleep(0.01)
        assert accepts(port)
        with pytest.raises(UserError, match=f"port {port} is in use on 127.0.0.1"):
            bind("127.0.0.1", port)


def closing_sockets(*arguments: object) -> None:
    """In the place of a server, which would close what it listens on."""
    for argument in arguments:
        if isinstance(argument, socket.socket):
            argument.close()


@pytest.mark.parametrize("arguments", [["serve", "--port", "0", "--token", "t"], ["demo"]])
def test_the_first_lines_name_a_sqlite_that_damages_databases(
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(serving, "_serve", closing_sockets)
    monkeypatch.setattr(sqlite, "SAFE_SQLITE", (99, 0, 0))
    monkeypatch.setattr(sys, "argv", ["opd", *arguments, "--data-dir", str(tmp_path)])
    with pytest.raises(SystemExit):
        app()
    out, err = capsys.readouterr()
    assert "http://127.0.0.1:" in out
    assert "Warning: SQLite " in err and "pip install pysqlite3" in err


def test_another_database_is_not_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "SAFE_SQLITE", (99, 0, 0))
    assert database.sqlite_advice("postgresql://h/d") is None
    assert database.sqlite_advice("sqlite:////tmp/x.db")


@pytest.mark.parametrize(
    ("installed", "message"),
    [(None, "needs mcp: pip install"), ("2.0.1", "needs mcp 1.x (found 2.0.1): pip install")],
)
def test_mcp_without_its_extra_is_refused_at_the_start(
    installed: str | None, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def version(name: str) -> str:
        if installed is None:
            raise metadata.PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(UserError) as refused:
        serving.serve(Workspace(DataDir(tmp_path / "data"), None), mcp=True)
    assert str(refused.value) == f"--mcp: {message} 'opd-studio[mcp]'"
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("option", ["--model-root", "--data-root"])
def test_a_root_that_cannot_be_listed_is_refused_at_the_start(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = str(tmp_path / "gone")
    arguments = ["serve", option, str(tmp_path), option, gone, "--data-dir", str(tmp_path / "d")]
    monkeypatch.setattr(sys, "argv", ["opd", *arguments])
    with pytest.raises(SystemExit) as left:
        app()
    err = capsys.readouterr().err
    assert left.value.code == 2 and f"{option}: {gone!r} cannot be listed" in err
    assert not (tmp_path / "d").exists()


def test_roots_and_the_limit_of_uploads_reach_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[SourceOptions] = []

    def keep(_: object, engine: Engine, listening: serving.Listening) -> None:
        served.append(listening.options(DataDir(tmp_path)).sources)
        engine.dispose()
        listening.socket.close()

    monkeypatch.setattr(serving, "_serve", keep)
    roots = ["--model-root", str(tmp_path), "--data-root", str(tmp_path)]
    arguments = ["serve", "--port", "0", *roots, "--upload-limit", "3"]
    monkeypatch.setattr(sys, "argv", ["opd", *arguments, "--data-dir", str(tmp_path / "d")])
    with pytest.raises(SystemExit):
        app()
    (sources,) = served
    assert sources.model_roots == sources.data_roots == (tmp_path.resolve(),)
    assert sources.upload_bytes == 3_000_000
