"""Serves a data directory for the browser tests: python browser_server.py DIR PORT [VIEW_TOKEN]. No
supervisor, so a queued run stays queued."""

import sys
from pathlib import Path

import uvicorn

from app.server import ServerOptions, build
from storage.data_dir import DataDir
from storage.engine import open_database

TOKEN = "browser-tests"


def main() -> None:
    folder, port = Path(sys.argv[1]), int(sys.argv[2])
    view = sys.argv[3] if len(sys.argv) > 3 else None
    options = ServerOptions(data_dir=DataDir(folder), port=port, token=TOKEN, view_token=view)
    application = build(open_database(folder), options)
    uvicorn.run(application, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main()
