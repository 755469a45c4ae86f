"""Serves a data directory for the browser tests: python browser_server.py DIR SOCKET [VIEW_TOKEN].

SOCKET is an inherited one, bound to the port. No supervisor, so a queued run stays queued. Other
tests have the same server in a thread of their own process.
"""

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from sqlalchemy import Engine
from starlette.types import ASGIApp

from app.server import ServerOptions, build
from app.worker.launchers.database import address_of
from storage.data_dir import DataDir
from storage.engine import open_database

TOKEN = "browser-tests"
VIEW_TOKEN = "view-only"
PATIENCE = 60.0  # seconds


def main() -> None:
    folder, bound = Path(sys.argv[1]), socket.socket(fileno=int(sys.argv[2]))
    port = bound.getsockname()[1]
    view = sys.argv[3] if len(sys.argv) > 3 else None
    options = ServerOptions(data_dir=DataDir(folder), port=port, token=TOKEN, view_token=view)
    application = build(open_database(address_of(options.data_dir)), options)
    uvicorn.Server(uvicorn.Config(application, log_level="warning")).run(sockets=[bound])


@contextmanager
def loopback_server(
    engine: Engine,
    data_dir: Path,
    *,
    around: Callable[[ASGIApp], ASGIApp] = lambda application: application,
    tls: dict[str, Path] | None = None,
    **more: Any,
) -> Iterator[str]:
    """Its address, while it runs. `around`: what stands in the place of a proxy; `tls`: uvicorn's
    options of a certificate; `more`: fields of ServerOptions."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        tokens = {"token": TOKEN, "view_token": VIEW_TOKEN}
        options = ServerOptions(DataDir(data_dir), "127.0.0.1", port, **tokens | more)
        servers: list[uvicorn.Server] = []

        def serve() -> None:
            application = around(build(engine, options))  # here: it opens a loop of its own
            config = uvicorn.Config(
                *(application,), log_level="error", timeout_graceful_shutdown=1, **tls or {}
            )
            servers.append(uvicorn.Server(config))
            servers[0].run(sockets=[bound])

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        until = time.monotonic() + PATIENCE
        while not (servers and servers[0].started):
            assert time.monotonic() < until and thread.is_alive()
            time.sleep(0.02)
        try:
            yield f"{'https' if tls else 'http'}://127.0.0.1:{port}/"
        finally:
            servers[0].should_exit = True
            thread.join(PATIENCE)


if __name__ == "__main__":
    main()
