"""Where a command works: the options that every command takes, and what they open."""

import functools
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from storage.data_dir import FILES_VARIABLE, DataDir

if TYPE_CHECKING:
    from sqlalchemy import Engine

DATABASE_VARIABLE = "OPD_DATABASE_URL"
DataDirOption = Annotated[
    Path,
    typer.Option(
        "--data-dir",
        envvar="OPD_DATA_DIR",
        help="Data directory: database, logs and checkpoints.",
        file_okay=False,
        show_default="~/.opd-studio",
    ),
]
DatabaseUrlOption = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        envvar=DATABASE_VARIABLE,
        help="Database to use instead of the SQLite file in the data directory.",
        show_default=False,
    ),
]


FilesOption = Annotated[
    str | None,
    typer.Option(
        "--files",
        metavar="ADDRESS",
        envvar=FILES_VARIABLE,
        help="Where hosts that share no folder find checkpoints and logs: s3://bucket/prefix.",
        show_default=False,
    ),
]


@dataclass(frozen=True)
class Workspace:
    """The data directory and the database that a command works on."""

    data_dir: DataDir
    database_url: str | None

    def engine(self) -> "Engine":
        """The database, made or migrated as needed. Raises UserError."""
        from storage.engine import open_database

        return open_database(self.database_url or self.prepared().path)

    def check_files(self) -> None:
        """Whether the address of --files can be used. Raises UserError."""
        from app.worker.run_files.choice import run_files

        run_files(self.data_dir).check()

    def prepared(self) -> DataDir:
        """The data directory, made where it is missing. Raises UserError."""
        from opd.files import make_folder

        make_folder(self.data_dir.host_folder, where=f"--data-dir {self.data_dir}")
        return self.data_dir

    def warn(self) -> None:
        """Says what is wrong with the library that opens the database, or wanting in the file
        system that holds it, if anything."""
        from app.cli.output import say
        from storage.engine import sqlite_advice
        from storage.files.file_system import examine

        if advice := sqlite_advice(self.database_url):
            say(f"Warning: {advice}")
        for problem in examine(self.data_dir):
            if problem.severity == "warning":
                say(f"Warning: {self.data_dir} {problem.text}. {problem.advice}")

    def warn_of_clock(self, engine: "Engine") -> None:
        """Says that this host's clock is not the database's, where others go by that."""
        from app.cli.output import say
        from storage import clock

        if self.data_dir.host and (wrong := clock.wrong(clock.ahead(engine))):
            say(f"Warning: the clock of this host is {wrong}: set it (ntp, chrony)")

    def environment(self) -> dict[str, str]:
        """What child processes need to find the same database; a URL may hold a password, so it
        goes where other users of the machine cannot read it."""
        given = {DATABASE_VARIABLE: self.database_url, FILES_VARIABLE: self.data_dir.files}
        return os.environ | {name: value for name, value in given.items() if value}


def in_workspace(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command `--data-dir`, `--database-url` and `--files`, handed to it as its first
    parameter."""
    signature = inspect.signature(command, eval_str=True)
    shared = [
        inspect.Parameter(
            "data_dir", inspect.Parameter.KEYWORD_ONLY, default=_default(), annotation=DataDirOption
        ),
        inspect.Parameter(
            "database_url",
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=DatabaseUrlOption,
        ),
        inspect.Parameter(
            "files", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=FilesOption
        ),
    ]

    @functools.wraps(command)
    def run(data_dir: Path, database_url: str | None, files: str | None, **values: Any) -> Any:
        directory = DataDir.used_with(_expanded(data_dir), database_url, _checked(files))
        workspace = Workspace(directory, database_url)
        return command(workspace, **values)

    parameters = [
        p.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for p in list(signature.parameters.values())[1:]
    ]
    run.__signature__ = signature.replace(parameters=[*parameters, *shared])  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in (*parameters, *shared)}
    return run


def _checked(files: str | None) -> str | None:
    """The address as it is kept. Raises UserError for what is none."""
    if not files:
        return None
    from app.worker.run_files.address import checked_address

    if files.startswith("memory:"):
        from opd.errors import UserError

        raise UserError("each process has a memory of its own: name a store", where="--files")
    return checked_address(files)


def _expanded(data_dir: Path) -> Path:
    """Its absolute path. Raises UserError where it is in a home directory that nobody knows.

    Without a home, libraries keep their files in the data directory, not in a folder named `~`."""
    from opd.errors import UserError

    try:
        path = data_dir.expanduser().absolute()
    except RuntimeError:
        raise UserError(
            f"{data_dir} cannot be found: HOME is not set, and user {os.getuid()} has no entry "
            "among the system's users; name a data directory",
            where="--data-dir",
        ) from None
    except FileNotFoundError:
        raise UserError(
            f"{data_dir} cannot be found: the working directory was removed; change to another",
            where="--data-dir",
        ) from None
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = str(path)
    return path


def _default() -> Path:
    return Path("~/.opd-studio")
