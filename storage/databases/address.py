"""The address of a database: a URL, and how errors name it."""

from sqlalchemy import make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError

from opd.errors import UserError

FIELD = "database URL"
POSTGRESQL = "postgresql+psycopg"
# A URL with the driver, and what PostgreSQL's own programs take
_DRIVERS = {"postgresql": POSTGRESQL, "postgres": POSTGRESQL, POSTGRESQL: POSTGRESQL}


def parsed(text: str) -> URL:
    """Raises UserError for what is no URL of SQLite or PostgreSQL; the text may hold a password and
    is not repeated."""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise UserError("not a database URL", where=FIELD) from None
    if url.get_backend_name() == "sqlite":
        return url
    if url.drivername not in _DRIVERS:
        raise UserError(
            f"must begin with sqlite:/// or {POSTGRESQL}:// (got {url.drivername[:40]}://)",
            where=FIELD,
        )
    if not url.database:
        raise UserError(f"names no database: {POSTGRESQL}://USER@HOST/DATABASE", where=FIELD)
    return url.set(drivername=_DRIVERS[url.drivername])


def shown(url: URL) -> str:
    """The file of SQLite, or the URL without password and options."""
    if url.get_backend_name() == "sqlite":
        return url.database or ""
    named = {name: url.query[name] for name in ("host", "port") if name in url.query}
    return url.set(query=named).render_as_string(hide_password=True)
