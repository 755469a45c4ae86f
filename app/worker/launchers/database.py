"""Which database a process works on, and how jobs on other machines are told its address.

An address may hold a password: it goes by the environment, or by a file that only its user can
read, never by a command line, a batch script or a log.
"""

import os
from pathlib import Path

from opd.errors import UserError
from opd.files import written_aside
from storage.data_dir import DataDir

DATABASE_VARIABLE = "OPD_DATABASE_URL"


def address_of(data_dir: DataDir) -> str | Path:
    """What `open_database` is given: the environment's URL, else the folder of the SQLite file."""
    return os.environ.get(DATABASE_VARIABLE) or data_dir.path


def data_dir_at(path: Path) -> DataDir:
    """The directory, as a process with this environment uses it."""
    return DataDir.used_with(path, os.environ.get(DATABASE_VARIABLE))


def write_address(data_dir: DataDir, url: str) -> None:
    """For jobs on other machines that share the data directory."""
    with written_aside(data_dir.database_url) as path:
        path.chmod(0o600)  # before there is anything to read in it
        path.write_text(f"{url}\n", encoding="utf-8")


def use_written_address(path: Path) -> None:
    """Puts that of the data directory into this process's environment, unless it has one already.

    Raises UserError where it cannot be read, or where others than its owner could."""
    if os.environ.get(DATABASE_VARIABLE):
        return
    path = DataDir(path).database_url
    try:
        status = path.stat()
        url = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not text"
        text = f"cannot be read ({reason}): opd serve --launcher writes it with the database's URL"
        raise UserError(text, where=str(path)) from None
    if status.st_mode & 0o077:
        mode = f"{status.st_mode & 0o777:04o}"
        text = f"has mode {mode}, so that others can read the database's password: chmod 600 it"
        raise UserError(text, where=str(path))
    os.environ[DATABASE_VARIABLE] = url
