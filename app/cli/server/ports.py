"""The port that a server listens on, taken by it alone."""

import errno
import socket
import time
from typing import Any
from weakref import WeakSet

from opd.errors import UserError
from opd.open_files import network_connections

PAUSE = 0.005  # seconds


class ServerSocket(socket.socket):
    """Its port is its own from the start, and free for the next server at its end.

    SO_REUSEADDR lets two sockets have a port as long as neither listens, which a server does only
    seconds after it took the port; without it, a server's last connections keep the next one from
    the port for a minute. So it is set once the socket listens: connections have it from there.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._most = network_connections()
        self._accepted: WeakSet[socket.socket] = WeakSet()

    def listen(self, *backlog: int) -> None:
        super().listen(*backlog)
        self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

    def accept(self) -> tuple[socket.socket, Any]:
        """With too many connections for the files that may be open, none is had for now: whoever
        else connects waits. The event loop looks again and again, hence the pause."""
        if self._most is not None:
            if sum(one.fileno() >= 0 for one in self._accepted) >= self._most:
                time.sleep(PAUSE)
                raise BlockingIOError
            accepted = super().accept()
            self._accepted.add(accepted[0])
            return accepted
        return super().accept()


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not accept yet. Raises UserError naming port or host."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError):
        raise UserError("is not an address of this machine", where=f"--host {host}") from None
    try:
        return _alone(family, kind, address)
    except OSError as error:
        raise UserError(
            f"port {port} is in use on {host} or cannot be taken ({error.strerror}): choose "
            "another with --port",
            where="--port",
        ) from None


def _alone(family: int, kind: int, address: Any) -> socket.socket:
    """A port whose last connections have not timed out yet can be had only with SO_REUSEADDR; then
    it is listened on at once, and whoever connects waits for the server. Raises OSError."""
    try:
        return _bound(family, kind, address, reuse=False)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
    bound = _bound(family, kind, address, reuse=True)
    try:
        bound.listen()
    except OSError:
        bound.close()
        raise
    return bound


def _bound(family: int, kind: int, address: Any, *, reuse: bool) -> socket.socket:
    bound = ServerSocket(family, kind)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(reuse))
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound
