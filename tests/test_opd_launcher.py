"""What lies in the working directory or on PYTHONPATH is not imported in place of ours or the
standard library's, by no command and by nothing that one starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import opd_launcher
from app.worker.process import program

HIDING = ("app/__init__.py", "opd.py", "queue.py", "random.py", "storage.py", "types.py")
COMMAND = (sys.executable, "-c", "import opd_launcher; opd_launcher.command()")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Somebody's folder: importing any of its modules fails."""
    folder = tmp_path / "project"
    for name in (*HIDING, "test/__init__.py", "theirs.py"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"raise RuntimeError('this is {name}')\n")
    return folder


def run(command: tuple[str, ...], folder: Path, path: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"PYTHONPATH": path, "OPD_DATA_DIR": str(folder.parent / "data")}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_a_command_names_in_one_line_what_it_passes_over(project: Path) -> None:
    (project / "types.py").unlink()  # Python itself would not start
    done = run((*COMMAND, "runs", "--json"), project, f"{project}:{opd_launcher.ROOT}")
    assert done.returncode == 0, done.stderr
    assert done.stdout == '{"items":[],"total":0}\n'
    [line] = done.stderr.splitlines()
    assert line.startswith("Warning: ignored, ")
    named = {name for name in (*HIDING, "theirs.py", "test") if f"{project}/{name}" in line}
    assert named == set(HIDING) - {"types.py"}


def test_a_program_of_ours_starts_in_a_folder_with_such_names(project: Path) -> None:
    (project / "types.py").unlink()
    (project.parent / "data").mkdir()
    command = (*program("app.worker.supervisor"), "--data-dir", "../data", "--parent", "1")
    done = run(command, project, ":/nowhere")  # an entry that is empty is the working directory
    assert (done.returncode, done.stderr) == (0, "")


def test_without_such_names_nothing_is_said(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(opd_launcher.ROOT)  # ours, by another name
    done = run((*COMMAND, "runs", "--json"), tmp_path, f"{tmp_path}:{tmp_path}/link")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_library_comes_first_and_the_rest_stays(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = [entry for entry in sys.path if entry.startswith(opd_launcher.LIBRARY)]
    before = [str(project), "/opt/site-packages", *library, "/elsewhere"]
    monkeypatch.setattr(sys, "path", before.copy())
    monkeypatch.setattr(sys, "meta_path", sys.meta_path.copy())
    hiding = opd_launcher.find_library_first()
    assert hiding == [str(project / name) for name in HIDING]
    first = [entry for entry in before if opd_launcher._of_library(entry)]
    assert first and sys.path == first + [entry for entry in before if entry not in first]
    spec = opd_launcher.OurPackages.find_spec("storage")
    assert spec is not None and spec.origin == f"{opd_launcher.ROOT}/storage/__init__.py"
    assert opd_launcher.OurPackages.find_spec("storage.engine") is None
    assert opd_launcher.OurPackages.find_spec("theirs") is None


def test_what_was_imported_in_place_of_ours_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = type(sys)("storage")
    theirs.__file__ = "/project/storage.py"
    monkeypatch.setitem(sys.modules, "storage", theirs)
    with pytest.raises(ImportError, match=r"/project/storage\.py has been imported as `storage`"):
        opd_launcher.find_ours_first()
