import os
from pathlib import Path

import pytest

from app.worker.launchers.database import (
    DATABASE_VARIABLE,
    address_of,
    data_dir_at,
    use_written_address,
    write_address,
)
from opd.errors import UserError
from storage.data_dir import DataDir

URL = "postgresql+psycopg://me:secret-word@db/opd"


@pytest.fixture(autouse=True)
def _no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATABASE_VARIABLE, "")  # put back afterwards, whatever is set


def test_an_address_is_written_for_its_user_alone_and_used(tmp_path: Path) -> None:
    data_dir = DataDir(tmp_path)
    os.umask(os.umask(0))
    write_address(data_dir, URL)
    assert data_dir.database_url.stat().st_mode & 0o777 == 0o600
    assert address_of(data_dir) == tmp_path
    use_written_address(tmp_path)
    assert address_of(data_dir) == URL
    assert data_dir_at(tmp_path).host != ""  # locks are those of this host from then on


def test_an_address_in_the_environment_goes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATABASE_VARIABLE, "postgresql://other")
    write_address(DataDir(tmp_path), URL)
    use_written_address(tmp_path)
    assert os.environ[DATABASE_VARIABLE] == "postgresql://other"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o606])
def test_one_that_others_could_read_is_refused_without_telling_it(
    tmp_path: Path, mode: int
) -> None:
    write_address(DataDir(tmp_path), URL)
    DataDir(tmp_path).database_url.chmod(mode)
    with pytest.raises(UserError, match=f"has mode {mode:04o}") as refused:
        use_written_address(tmp_path)
    assert refused.value.where == f"{tmp_path}/database-url"
    assert "secret-word" not in str(refused.value)


def test_one_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"No such file.*opd serve --launcher writes it"):
        use_written_address(tmp_path)
