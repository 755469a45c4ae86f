"""Addresses and keys of servers: what is taken, and what is refused without being shown."""

import pytest

from opd.errors import ErrorKind, UserError
from opd.server_address import checked_url, key_from

KIND = ErrorKind.SAMPLING_SERVER


def test_an_address_is_taken_without_its_closing_slash():
    taken = checked_url("http://localhost:8000/v1/", where="x.url", example="e", kind=KIND)
    assert taken == "http://localhost:8000/v1"


@pytest.mark.parametrize(
    "url", ["http://me:secret@host", "http://host?key=secret", "http://host#secret", "http://", ""]
)
def test_an_address_with_more_than_a_host_is_refused_unread(url):
    with pytest.raises(UserError) as caught:
        checked_url(url, where="x.url", example="http://here", kind=KIND)
    assert (caught.value.where, caught.value.kind) == ("x.url", KIND)
    assert "secret" not in caught.value.message and "such as http://here" in caught.value.message


def test_a_key_comes_from_the_environment_and_is_never_shown(monkeypatch):
    assert key_from(None, where="x.key_variable", kind=KIND) is None
    monkeypatch.setenv("A_KEY", " sk-1 ")
    assert key_from("A_KEY", where="x.key_variable", kind=KIND) == "sk-1"
    monkeypatch.setenv("A_KEY", "se cret")
    with pytest.raises(UserError, match="A_KEY holds characters that no key has") as caught:
        key_from("A_KEY", where="x.key_variable", kind=KIND)
    assert "cret" not in caught.value.message
    monkeypatch.delenv("A_KEY")
    with pytest.raises(UserError, match="A_KEY is not set"):
        key_from("A_KEY", where="x.key_variable", kind=KIND)
