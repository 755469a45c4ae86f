"""A port is taken by one server, also while neither accepts yet."""

import socket

import pytest

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
