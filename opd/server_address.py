"""The address of a server that a configuration names, and the key that its requests carry. Free of
torch."""

import os

import httpx

from opd.errors import ErrorKind, UserError


def checked_url(text: str | None, *, where: str, example: str, kind: ErrorKind) -> str:
    """The address without a closing slash. One with a password is refused unread."""
    try:
        url = httpx.URL(text or "")
        url.host.encode("idna")  # as connecting will
        more = url.userinfo or url.query or url.fragment
        if url.host and (url.port or 80) < 65536 and not more:
            return str(url).rstrip("/")
    except (httpx.InvalidURL, UnicodeError):
        pass
    raise UserError(
        f"must be the address of a server, such as {example}, without password, query or "
        "fragment; its key comes from key_variable",
        where=where,
        kind=kind,
    )


def key_from(variable: str | None, *, where: str, kind: ErrorKind) -> str | None:
    """The key from the environment; a key unfit for a header would be shown in its error."""
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if key and key.isascii() and key.isprintable() and " " not in key:
        return key
    problem = "holds characters that no key has" if key else "is not set"
    raise UserError(
        f"the environment variable {variable} {problem}; it must hold the server's API key, where "
        "the training runs",
        where=where,
        kind=kind,
    )
