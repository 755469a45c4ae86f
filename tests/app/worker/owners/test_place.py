"""Whose pid may be judged: copies, hosts, boots and namespaces are told apart."""

import dataclasses
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.worker.owners.place import Place, host_of, identity
from app.worker.process import owner_of, this_process
from storage.data_dir import DataDir
from storage.queue.jobs import Owner


def test_a_directory_is_itself_and_no_copy_is(tmp_path: Path) -> None:
    original = DataDir(tmp_path / "original")
    with ThreadPoolExecutor(8) as openings:  # the first opening may be several
        [single] = set(openings.map(lambda _: identity(original), range(32)))
    (original.path / "studio.db").write_bytes(b"x")
    os.utime(original.path / "studio.db")
    assert identity(original) == single
    shutil.copytree(original.path, tmp_path / "copied")
    subprocess.run(["cp", "-a", original.path, tmp_path / "archived"], check=True)
    subprocess.run(["cp", "-al", original.path, tmp_path / "linked"], check=True)
    copies = {identity(DataDir(tmp_path / name)) for name in ("copied", "archived")}
    assert len(copies) == 2
    assert single not in copies
    # Linked files are one file, whose change time the link moved: neither is what it was.
    assert identity(DataDir(tmp_path / "linked")) != single


def test_it_is_kept_when_the_directory_moves(tmp_path: Path) -> None:
    before = identity(DataDir(tmp_path / "here"))
    (tmp_path / "here").rename(tmp_path / "there")
    assert identity(DataDir(tmp_path / "there")) == before


def test_a_directory_that_cannot_be_written_judges_nobody(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    place = Place.of(DataDir(blocked / "data"))
    assert not place.identified
    assert not place.judges(dataclasses.replace(me(tmp_path), place=place.text))


def me(folder: Path) -> Owner:
    return this_process(DataDir(folder))


@pytest.mark.parametrize("part", ["host", "boot", "namespace", "directory"])
def test_only_this_very_place_judges(tmp_path: Path, part: str) -> None:
    owner, here = me(tmp_path), Place.of(DataDir(tmp_path))
    assert here.judges(owner)
    assert host_of(owner) == here.host
    assert not dataclasses.replace(here, **{part: "another"}).judges(owner)


def test_an_owner_of_an_earlier_version_is_known_by_its_open_files(tmp_path: Path) -> None:
    """The version that named no places is met where it runs while its directory is copied."""
    original, copy = DataDir(tmp_path / "original"), DataDir(tmp_path / "copy")
    for data_dir in (original, copy):
        data_dir.path.mkdir()
        data_dir.database.touch()
    holds = "import sys; f = open(sys.argv[1]); print(flush=True); input()"
    child = subprocess.Popen(
        [sys.executable, "-c", holds, str(original.database)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    try:
        child.stdout.readline()
        owner = owner_of(child.pid)
        assert owner is not None and owner.place is None
        assert Place.of(original).judges(owner)
        assert not Place.of(copy).judges(owner)
        assert not dataclasses.replace(Place.of(original), boot="another").judges(owner)
    finally:
        child.kill()
        child.communicate()
