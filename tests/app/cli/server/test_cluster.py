import os
from collections.abc import Callable
from pathlib import Path

import pytest

from app.cli.server.cluster import set_launcher
from app.cli.workspace import Workspace
from app.worker.launchers import slurm
from app.worker.launchers.launcher import VARIABLE, ClusterSilentError
from opd.errors import UserError
from storage.data_dir import DataDir

URL = "postgresql+psycopg://me:secret-word@db/opd"


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")  # put back afterwards


def test_a_cluster_needs_a_database_that_hosts_can_share(tmp_path: Path) -> None:
    for url in (None, "sqlite:////somewhere.db"):
        with pytest.raises(UserError, match=r"SQLite is a file of this one.*--database-url"):
            set_launcher(Workspace(DataDir(tmp_path), url), "slurm")
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_so_before_it_serves(opd: Callable[..., tuple[int, str, str]]) -> None:
    for name, text in (("slurm", "needs a database that several"), ("slrm", "must be slurm")):
        code, out, err = opd("serve", "--port", "0", "--launcher", name)
        assert (code, out) == (2, "") and f"Error: --launcher: {text}" in err


def test_the_address_is_written_once_the_cluster_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = []
    monkeypatch.setattr(slurm.Slurm, "check", lambda self: checks.append(self.name))
    workspace = Workspace(DataDir(tmp_path), URL)
    set_launcher(workspace, "slurm")
    assert checks == ["slurm"] and os.environ[VARIABLE] == "slurm"
    assert workspace.data_dir.database_url.read_text() == f"{URL}\n"
    set_launcher(workspace, "")
    assert os.environ[VARIABLE] == ""


def test_a_cluster_that_does_not_answer_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterSilentError, match="scontrol is not installed here"):
        set_launcher(Workspace(DataDir(tmp_path), URL), "slurm")
    assert not DataDir(tmp_path).database_url.exists()
