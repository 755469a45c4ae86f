import getpass
import os
import socket

import pytest

from app.worker.owners.person import command_user


def test_a_command_is_given_by_the_systems_user_on_its_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "node-1")
    monkeypatch.setattr(getpass, "getuser", lambda: "anna")
    assert command_user() == "anna@node-1"

    def unknown() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr(getpass, "getuser", unknown)
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    assert command_user() == "user-4711@node-1"
