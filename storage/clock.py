"""The time of what is stored: hosts that share a database go by its clock, not each by its own."""

import time

from sqlalchemy import Connection, select

from storage.engine import DatabaseTime


def now(connection: Connection) -> float:
    """Seconds since 1970; of this host where the database is a file of its own."""
    if connection.dialect.name == "sqlite":
        return time.time()
    return connection.execute(select(DatabaseTime())).scalar_one()
