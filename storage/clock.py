"""The time of what is stored: hosts that share a database go by its clock, not each by its own."""

import time

from sqlalchemy import Connection, Engine, select

from storage.engine import DatabaseTime, read

APART = 60.0  # seconds that a host's clock may differ from the database's without a word


def now(connection: Connection) -> float:
    """Seconds since 1970; of this host where the database is a file of its own."""
    if connection.dialect.name == "sqlite":
        return time.time()
    return connection.execute(select(DatabaseTime())).scalar_one()


def ahead(engine: Engine) -> float:
    """Seconds by which this host's clock is ahead of the database's; below 0 where it is behind."""
    with read(engine) as connection:
        return time.time() - connection.execute(select(DatabaseTime())).scalar_one()


def wrong(seconds: float) -> str:
    """A clock that is so far ahead, in words; "" for one that will do."""
    if abs(seconds) <= APART:
        return ""
    return f"{abs(seconds):,.0f} s {'ahead of' if seconds > 0 else 'behind'} the database's"
