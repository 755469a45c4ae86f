"""A small proxy on the loopback, by HTTP and by SOCKS5, that leads everything to one server."""

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


class SmallProxy:
    """`hosts`: with their ports, as they were asked for; `credentials`: what was sent with them.

    `refuses`: answer that it gives instead of leading anywhere, such as "407 Proxy …".
    """

    def __init__(self, server: tuple[str, int], refuses: str = "") -> None:
        self.server, self.refuses = server, refuses
        self.hosts: list[str] = []
        self.credentials: list[str] = []
        proxy = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                with suppress(OSError):
                    proxy.handle(self.rfile, self.wfile, self.connection)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads, allow_reuse_address = True, True

        self.http = Server(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.http.server_address[1]}"

    def handle(self, reader: Any, writer: Any, connection: socket.socket) -> None:
        first = reader.read(1)
        if first == b"\x05":
            self._socks(reader, writer, connection)
        elif first:
            self._http(first + reader.readline(), reader, writer, connection)

    def _http(self, line: bytes, reader: Any, writer: Any, connection: socket.socket) -> None:
        method, target, _ = line.decode().split()
        headers = []
        while (header := reader.readline()) not in (b"\r\n", b""):
            name, _, value = header.partition(b": ")
            if name.lower() == b"proxy-authorization":
                self.credentials.append(value.decode().strip())
            elif name.lower() not in (b"connection", b"proxy-connection"):
                headers.append(header)
        host, _, path = target.removeprefix("http://").partition("/")
        self.hosts.append(host)
        if self.refuses:
            writer.write(f"HTTP/1.1 {self.refuses}\r\nContent-Length: 0\r\n\r\n".encode())
            return
        with socket.create_connection(self.server) as upstream:
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                start = f"{method} /{path} HTTP/1.1\r\nConnection: close\r\n".encode()
                upstream.sendall(start + b"".join(headers) + b"\r\n")
            _exchange(reader, connection, upstream)

    def _socks(self, reader: Any, writer: Any, connection: socket.socket) -> None:
        methods = reader.read(reader.read(1)[0])
        writer.write(b"\x05\x02" if b"\x02" in methods else b"\x05\x00")
        if b"\x02" in methods:
            reader.read(1)
            user, password = (reader.read(reader.read(1)[0]).decode() for _ in range(2))
            self.credentials.append(f"{user}:{password}")
            writer.write(b"\x01\x00")
        kind = reader.read(4)[3]
        host = reader.read(reader.read(1)[0]) if kind == 3 else reader.read(4)
        port = int.from_bytes(reader.read(2))
        self.hosts.append(f"{host.decode() if kind == 3 else socket.inet_ntoa(host)}:{port}")
        writer.write(b"\x05\x00\x00\x01" + bytes(6))
        with socket.create_connection(self.server) as upstream:
            _exchange(reader, connection, upstream)


def _exchange(reader: Any, client: socket.socket, upstream: socket.socket) -> None:
    """Carries bytes both ways until the server closes."""

    def back() -> None:
        with suppress(OSError):
            while data := upstream.recv(65_536):
                client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)

    thread = threading.Thread(target=back, daemon=True)
    thread.start()
    with suppress(OSError):
        while data := reader.read1(65_536):
            upstream.sendall(data)
    thread.join(5)


@contextmanager
def small_proxy(url: str, refuses: str = "") -> Iterator[SmallProxy]:
    """A proxy that leads everything to the server at `url`."""
    host, _, port = url.removeprefix("http://").partition("/")[0].rpartition(":")
    proxy = SmallProxy((host, int(port)), refuses)
    threading.Thread(target=proxy.http.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield proxy
    finally:
        proxy.http.shutdown()
        proxy.http.server_close()
