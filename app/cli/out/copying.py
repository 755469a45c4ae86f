"""`opd copy`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.inspect_runs import Json
from app.cli.output import json_line, say, table
from app.cli.workspace import Workspace
from opd.errors import UserError

if TYPE_CHECKING:
    from sqlalchemy import Engine

ADDRESS = "DIR_OR_URL"


def copy(
    workspace: Workspace,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar=ADDRESS,
            help="An empty database: postgresql+psycopg://USER@HOST/NAME, sqlite:///FILE, or a "
            "data directory.",
            show_default=False,
        ),
    ],
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar=ADDRESS,
            help="The database to copy; by default that of --data-dir and --database-url.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Copy a whole studio to another database, from SQLite to PostgreSQL or back.

    All or nothing, and compared row by row before it is kept. Files of runs (logs, checkpoints)
    stay in the data directory.
    """
    from storage.engine import where
    from storage.transfer.copy import copy_studio

    origin = _existing(source) if source else workspace.engine()
    target = _opened(to, "--to")
    if where(origin) == where(target):
        raise UserError("is the database that is copied", where="--to")
    copied = [t for t in copy_studio(origin, target, say) if t.rows]
    if json:
        tables = {t.name: {"rows": t.rows, "bytes": t.bytes} for t in copied}
        json_line({"from": where(origin), "to": where(target), "tables": tables})
        return
    table(
        ("table", "rows", "bytes"), ((t.name, t.rows, t.bytes) for t in copied), right="rows,bytes"
    )
    rows, size = sum(t.rows for t in copied), sum(t.bytes for t in copied)
    say(f"{rows} rows ({size / 1e6:.1f} MB) copied to {where(target)} and compared: all equal")


def _existing(address: str) -> "Engine":
    """The database to copy, which is not made where it is missing."""
    from storage.data_dir import DataDir

    path = address.removeprefix("sqlite:///")
    if "://" not in path:
        file = DataDir(Path(path).expanduser()).database if path == address else Path(path)
        if not file.is_file():
            raise UserError(f"there is no database {file}", where="--from")
    return _opened(address, "--from")


def _opened(address: str, option: str) -> "Engine":
    from storage.engine import open_database

    if not address:
        raise UserError("must name a database", where=option)
    return open_database(address)
