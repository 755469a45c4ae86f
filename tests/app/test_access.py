"""Tokens, host names, and the options that decide what they guard."""

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from app.access import Caller, Tokens, named_tokens, new_token, stored_token
from app.origins import Origins, origins_of, split_authority
from app.server import ServerOptions, policy
from opd.errors import UserError
from storage.data_dir import DataDir

TOKEN = "full-" + "t" * 38
VIEW = "view-" + "v" * 38


def test_tokens_are_long_and_stored_for_their_owner(tmp_path: Path) -> None:
    assert len(new_token()) == 43 and new_token() != new_token()
    folder = tmp_path / "new"
    token = stored_token(DataDir(folder))
    assert stored_token(DataDir(folder)) == token
    assert (folder / "token").stat().st_mode & 0o777 == 0o600
    assert [f.name for f in folder.iterdir()] == ["token"]
    (folder / "token").write_text("")
    with pytest.raises(UserError, match="empty"):
        stored_token(DataDir(folder))


@pytest.mark.parametrize("links", [True, False])
def test_the_token_is_made_once_by_many_at_a_time(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", refused)
    tokens: set[str] = set()
    data_dir = DataDir(tmp_path)
    threads = [
        threading.Thread(target=lambda: tokens.add(stored_token(data_dir))) for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tokens) == 1


def test_odd_tokens_open_nothing() -> None:
    tokens = Tokens(TOKEN, VIEW, "name")
    for given in ("", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "ü", "\ud800", "\0"):
        assert tokens.caller(given) == Caller("none")
    assert Tokens("", None, "name", {"anna": ""}).caller("") == Caller("none")
    assert tokens.of_cookies([f'a=b; name="{TOKEN}"']) == Caller("full")
    assert tokens.of_cookies([f"name={VIEW}; name=x", "name="]) == Caller("view")


def test_the_cookie_is_the_tokens_own_whatever_the_port() -> None:
    """Two servers that a tunnel gives one host do not sign each other out; a restart keeps it."""
    here, there = Tokens(TOKEN, None), Tokens(new_token(), None)
    assert here.cookie != there.cookie and TOKEN not in here.cookie
    assert here.cookie == Tokens(TOKEN, VIEW, "opd_token_7860").cookie
    both = [f"{here.cookie}={TOKEN}; {there.cookie}={there.full}"]
    assert here.of_cookies(both) == there.of_cookies(both) == Caller("full")
    view = Tokens(None, VIEW)
    assert view.of_cookies([f"{view.cookie}={VIEW}"]) == Caller("view")


def test_a_person_is_known_by_the_token_and_keeps_the_cookie_whoever_else_comes() -> None:
    alone = Tokens(None, None, named={"anna": TOKEN})
    both = Tokens("plain", VIEW, named={"anna": TOKEN, "ben": "b" * 20})
    assert both.caller(TOKEN) == Caller("full", "anna")
    assert both.caller("plain") == Caller("full") and both.caller(VIEW) == Caller("view")
    assert alone.cookie_of(TOKEN) == both.cookie_of(TOKEN) != both.cookie
    assert both.cookie_of("plain") == both.cookie_of(VIEW) == both.cookie
    kept = [f"{both.cookie_of(TOKEN)}={TOKEN}; {both.cookie}={VIEW}; other=1"]
    assert both.of_cookies(kept) == Caller("full", "anna")
    assert both.other_cookies(VIEW, kept) == [both.cookie_of(TOKEN)]
    assert both.other_cookies(TOKEN, kept) == [both.cookie]
    assert both.of_cookies([f"{both.cookie_of(TOKEN)}={'x' * 20}"]) == Caller("none")


@pytest.mark.parametrize(
    ("given", "plain", "named"),
    [
        (["T"], "T", {}),
        (["anna=T"], None, {"anna": "T"}),
        (["anna.b@lab-1_2=T==", "plain"], "plain", {"anna.b@lab-1_2": "T=="}),
        (["anna==T"], None, {"anna": "=T"}),
        (["YWI="], "YWI=", {}),  # base64 with its padding
        (["YQ=="], "YQ==", {}),
        (["a+b/c="], "a+b/c=", {}),
        (["a:b=c"], "a:b=c", {}),  # ":" stands in no name
        (["=a=b"], "=a=b", {}),
        (["n" * 65 + "=T"], "n" * 65 + "=T", {}),
    ],
)
def test_a_name_before_a_token(given: list[str], plain: str | None, named: dict[str, str]) -> None:
    assert named_tokens(given) == (plain, named)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([""], "must be printable ASCII"),
        (["anna=a b"], "must be printable ASCII"),
        (["anna=ü"], "must be printable ASCII"),
        (["anna=1", "anna=2"], "two tokens are named anna"),
        (["anna=s3cret", "ben=s3cret"], "two tokens are equal"),
        (["s3cret", "ben=s3cret"], "two tokens are equal"),
        (["one", "two"], "2 tokens without a name; give each as NAME=TOKEN"),
        (["anna="], "no token follows anna="),  # five characters are not base64
        (["ben=", "anna=s3cret"], "no token follows ben="),
    ],
)
def test_tokens_that_do_not_tell_persons_apart_are_refused(given: list[str], message: str) -> None:
    with pytest.raises(UserError) as refused:
        named_tokens(given)
    assert refused.value.where == "--token" and refused.value.message.startswith(message)
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("text", ["", ":80", "a b", "[::1", "::1", "a:99999999", "a:1:2", "ä"])
def test_malformed_authorities(text: str) -> None:
    assert split_authority(text) is None
    assert not Origins(frozenset({text}), frozenset(), False, False).knows(text)


def test_bound_to_all_addresses_it_answers_to_the_one_asked() -> None:
    everywhere = origins_of("0.0.0.0", [], "")
    assert everywhere.knows("192.168.1.5:7860", ("192.168.1.5", 7860))
    assert not everywhere.knows("192.168.1.6:7860", ("192.168.1.5", 7860))
    assert not everywhere.knows("evil.example", ("evil.example", 80))
    assert not origins_of("127.0.0.1", [], "").knows("192.168.1.5", ("192.168.1.5", 7860))


@pytest.mark.parametrize(
    "changes",
    [
        {"host": "0.0.0.0", "token": None},
        {"host": "192.168.1.5", "token": ""},
        {"view_token": TOKEN},
        {"view_token": VIEW, "named_tokens": {"anna": VIEW}},
        {"allow_hosts": ["http://studio.example"]},
        {"allow_hosts": ["*"]},
        {"root_path": "studio/"},
        {"root_path": "/a/../b\r\n"},
    ],
)
def test_unsafe_options_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        policy(
            ServerOptions(**{"data_dir": DataDir(Path("/nonexistent")), "token": TOKEN} | changes)
        )
