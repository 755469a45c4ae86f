"""Serves a data directory for the browser tests: python browser_server.py DIR SOCKET [VIEW_TOKEN].

SOCKET is an inherited one, bound to the port. No supervisor, so a queued run stays queued.
"""

import socket
import sys
from pathlib import Path

import uvicorn

from app.server import ServerOptions, build
from storage.data_dir import DataDir
from storage.engine import open_database

TOKEN = "browser-tests"


def main() -> None:
    folder, bound = Path(sys.argv[1]), socket.socket(fileno=int(sys.argv[2]))
    port = bound.getsockname()[1]
    view = sys.argv[3] if len(sys.argv) > 3 else None
    options = ServerOptions(data_dir=DataDir(folder), port=port, token=TOKEN, view_token=view)
    application = build(open_database(folder), options)
    uvicorn.Server(uvicorn.Config(application, log_level="warning")).run(sockets=[bound])


if __name__ == "__main__":
    main()
