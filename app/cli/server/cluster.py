"""`opd serve --launcher`: the cluster that the supervisor gives its runs to."""

import os

from app.cli.workspace import Workspace
from opd.errors import UserError
from storage.data_dir import is_shared


def set_launcher(workspace: Workspace, name: str) -> None:
    """Where the supervisor finds it; the database's address lies where jobs on other machines do.

    Raises UserError for a cluster that does not answer, and for a database that only one machine
    can use."""
    from app.worker.launchers.launcher import VARIABLE

    os.environ[VARIABLE] = name
    if not name:
        return
    from app.worker.launchers.choice import WHERE, launcher_named
    from app.worker.launchers.database import write_address
    from app.worker.run_files.choice import note_files

    launcher = launcher_named(name)
    url = workspace.database_url
    if url is None or not is_shared(url):
        raise UserError(
            "needs a database that several machines can use, and SQLite is a file of this one: "
            "name another with --database-url postgresql+psycopg://…",
            where=WHERE,
        )
    assert launcher is not None
    launcher.check()
    write_address(workspace.data_dir, url)
    note_files(workspace.data_dir)
