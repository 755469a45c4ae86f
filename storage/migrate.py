"""Brings a database to the newest schema in one transaction: killed half-way, nothing happened."""

import threading
from pathlib import Path

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, inspect

from opd.errors import ErrorKind, UserError
from storage.databases.address import shown
from storage.databases.turns import take_turn

FOLDER = Path(__file__).parent / "migrations"
TURN = "migration"
_one_at_a_time = threading.Lock()  # alembic's `op` is one object for the whole process


def at_head(engine: Engine) -> bool:
    """Whether there is nothing to do; reads only. Raises UserError for an unknown schema."""
    with engine.connect() as connection, connection.begin():
        scripts = ScriptDirectory(str(FOLDER))
        if _revision(connection) == scripts.get_current_head():
            return True
        take_turn(connection, TURN, patient=True)  # else half of a migration might be seen
        return _check(connection, scripts)


def upgrade(connection: Connection) -> None:
    """Runs the missing migrations inside the caller's transaction."""
    scripts = ScriptDirectory(str(FOLDER))
    take_turn(connection, TURN, patient=True)
    if _check(connection, scripts):  # another process was first
        return
    with _one_at_a_time, EnvironmentContext(Config(), scripts, fn=_steps_to_head) as environment:
        environment.configure(connection=connection, transactional_ddl=True)
        with environment.begin_transaction():
            environment.run_migrations()


def _steps_to_head(revision: object, context: MigrationContext) -> list[object]:
    script = context.environment_context.script  # type: ignore[union-attr]
    return list(script._upgrade_revs("head", revision))  # type: ignore[arg-type]


def _check(connection: Connection, scripts: ScriptDirectory) -> bool:
    revision = _revision(connection)
    head = scripts.get_current_head()
    if revision is None and inspect(connection).get_table_names():
        raise UserError(
            "holds tables of another program; choose another data directory or database",
            where=shown(connection.engine.url),
            kind=ErrorKind.NOT_OUR_DATABASE,
        )
    if revision is not None and revision not in {
        script.revision for script in scripts.walk_revisions()
    }:
        raise UserError(
            f"has schema {revision}, and this version of OPD Studio knows schemas up to {head}: "
            "use the newer version that wrote it, or another data directory. Nothing was changed",
            where=shown(connection.engine.url),
            kind=ErrorKind.NEWER_SCHEMA,
        )
    return revision == head


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()
