"""Addresses of databases: which there are, and that no password is shown."""

import pytest

from opd.errors import UserError
from storage.databases.address import parsed, shown


@pytest.mark.parametrize("scheme", ["postgresql+psycopg", "postgresql", "postgres"])
def test_postgresql_by_any_of_its_names(scheme: str) -> None:
    url = parsed(f"{scheme}://me:secret@db.example:5433/studio?sslmode=require&password=secret")
    assert url.drivername == "postgresql+psycopg"
    assert shown(url) == "postgresql+psycopg://me:***@db.example:5433/studio"


def test_the_folder_of_a_socket_is_shown() -> None:
    url = parsed("postgresql+psycopg:///studio?host=/run/postgresql&password=secret")
    assert "run" in shown(url) and "secret" not in shown(url)


def test_a_file_is_named_by_its_path() -> None:
    assert shown(parsed("sqlite:////data/studio.db")) == "/data/studio.db"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mysql://me:secret@host/studio", r"must begin with .*postgresql\+psycopg:// \(got mysql"),
        ("postgresql://me:secret@host", "names no database"),
        ("postgresql://me:secret@host:port/x", "not a database URL"),
        ("://secret", "not a database URL"),
    ],
)
def test_what_is_no_address_is_refused_without_its_password(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        parsed(text)
    assert "secret" not in str(refused.value)
