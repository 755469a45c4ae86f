"""A port is taken by one server, also while neither accepts yet."""

import socket
from contextlib import ExitStack

import pytest

from app.cli.server import ports
from app.cli.server.ports import bind
from opd.errors import UserError


def test_a_port_that_is_bound_but_does_not_listen_yet_is_taken() -> None:
    with bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} is in use on 127.0.0.1"):
            bind("127.0.0.1", port)


def test_a_port_whose_last_connections_wait_for_their_end_can_be_had_by_one() -> None:
    listening = bind("127.0.0.1", 0)
    listening.listen()
    port = listening.getsockname()[1]
    with socket.create_connection(("127.0.0.1", port)) as client:
        accepted, _ = listening.accept()
        accepted.close()  # first: this end waits for stray packets
        assert client.recv(1) == b""
    listening.close()
    with socket.socket() as plain, pytest.raises(OSError, match="in use"):
        plain.bind(("127.0.0.1", port))
    with bind("127.0.0.1", port), pytest.raises(UserError, match=f"port {port} is in use"):
        bind("127.0.0.1", port)


def test_more_connections_than_files_allow_wait_for_their_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ports, "network_connections", lambda: 2)
    with bind("127.0.0.1", 0) as listening, ExitStack() as clients:
        listening.listen()
        for _ in range(3):
            clients.enter_context(socket.create_connection(listening.getsockname()))
        first, second = (listening.accept()[0] for _ in range(2))
        with pytest.raises(BlockingIOError):
            listening.accept()
        first.close()
        third, _ = listening.accept()
        third.close()
        second.close()
