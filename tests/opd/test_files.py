"""Files and folders that are whole or not there."""

import os
from pathlib import Path

import pytest

from opd.files import remove, written_aside


@pytest.mark.parametrize("options", [{}, {"durable": True}, {"shared": True}])
def test_a_file_takes_its_place_when_the_block_ends_well(
    tmp_path: Path, options: dict[str, bool]
) -> None:
    path = tmp_path / "state.json"
    path.write_text("old")
    with written_aside(path, **options) as aside:
        aside.write_text("new")
        assert path.read_text() == "old"
        assert (f".{os.getpid()}." in aside.name) == bool(options.get("shared"))
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["state.json"]


@pytest.mark.parametrize("folder", [False, True])
def test_an_error_leaves_what_was_there(tmp_path: Path, folder: bool) -> None:
    path = tmp_path / "kept"
    with pytest.raises(ZeroDivisionError), written_aside(path, folder=folder) as aside:
        assert aside.is_dir() == folder
        _ = 1 / 0
    assert os.listdir(tmp_path) == []


def test_a_folder_is_synced_before_it_is_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    path = tmp_path / "step-000001"
    with written_aside(path, folder=True, durable=True) as aside:
        (aside / "part").mkdir()
        (aside / "part" / "weights").write_bytes(b"x")
    expected = [aside / "part", aside / "part" / "weights", aside, tmp_path]
    assert sorted(synced) == sorted(map(str, expected))
    assert synced[-2:] == [str(aside), str(tmp_path)]
    assert (path / "part" / "weights").read_bytes() == b"x"


def test_what_an_earlier_process_left_is_swept_away(tmp_path: Path) -> None:
    leftover = tmp_path / ".step-000001.partial"
    (leftover / "deep").mkdir(parents=True)
    with written_aside(tmp_path / "step-000001", folder=True) as aside:
        assert aside == leftover
        assert os.listdir(aside) == []


def test_removing_what_is_not_there_or_a_link_touches_nothing_else(tmp_path: Path) -> None:
    remove(tmp_path / "none")
    target = tmp_path / "target"
    target.mkdir()
    (tmp_path / "link").symlink_to(target)
    remove(tmp_path / "link")
    assert os.listdir(tmp_path) == ["target"]


def test_a_folder_is_not_made_anew_where_it_lay_before_it_was_moved(tmp_path: Path) -> None:
    run = tmp_path / "data" / "run"
    run.mkdir(parents=True)
    run.parent.rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError), written_aside(run / "step-000001", folder=True):
        pass
    assert os.listdir(tmp_path) == ["moved"]


@pytest.mark.parametrize("error", [None, ZeroDivisionError])
def test_what_came_to_be_where_it_lay_goes(tmp_path: Path, error: type[Exception] | None) -> None:
    """A library that saves makes the folder that it is given."""
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "kept").touch()
    with (
        pytest.raises(error or FileNotFoundError),
        written_aside(data / "step-000001", folder=True) as aside,
    ):
        (aside / "first").touch()
        data.rename(tmp_path / "moved")
        aside.mkdir(parents=True)
        (aside / "second").touch()
        if error:
            raise error
    assert sorted(os.listdir(tmp_path)) == ["kept", "moved"]
    assert (tmp_path / "moved" / aside.name / "first").is_file()
