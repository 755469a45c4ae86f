"""Access tokens: made once for a data directory or given to persons by name, compared in constant
time."""

import hashlib
import hmac
import os
import re
import secrets
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from opd.errors import UserError
from storage import locks
from storage.data_dir import DataDir

Access = Literal["full", "view", "none"]
TOKEN_BYTES = 32
# What follows the name is the token, unless it is only the padding of one in base64 ("abc=").
NAMED = re.compile(r"(?P<name>[A-Za-z0-9._@-]{1,64})=(?P<token>.*[^=].*)")
NOTHING_AFTER = re.compile(r"(?P<name>[A-Za-z0-9._@-]{1,64})=+")


@dataclass(frozen=True)
class Caller:
    """Who sends a request: what they may do, and the name of their token, where it has one."""

    access: Access
    name: str = ""


@dataclass(frozen=True)
class Tokens:
    """The token for everything, and the one for looking only. `former_cookie`: one that earlier
    versions set, which is still read. `named`: further ones for everything, by person."""

    full: str | None
    view: str | None
    former_cookie: str = ""
    named: Mapping[str, str] = field(default_factory=dict)

    @property
    def cookie(self) -> str:
        """The name of the cookie that carries either of the two without a name: of the token and
        not of the port, since browsers share cookies between all ports of a host, and a tunnel
        gives servers of several machines one host."""
        return _cookie(self.full or self.view or "")

    def cookie_of(self, given: str) -> str:
        """The cookie that carries this token: a person's own, so that nobody is signed out where
        others come and go."""
        return _cookie(given) if self.caller(given).name else self.cookie

    def other_cookies(self, given: str, headers: Iterable[str]) -> list[str]:
        """Those of the request that carry another token of this server."""
        ours = {self.cookie, *map(_cookie, self.named.values())} - {self.cookie_of(given)}
        return sorted({name for name, _ in _cookies(headers)} & ours)

    def caller(self, given: str) -> Caller:
        """Whose token it is; all are always compared, so that time tells nothing."""
        full, view = _equal(given, self.full), _equal(given, self.view)
        names = [name for name, token in self.named.items() if _equal(given, token)]
        if names:
            return Caller("full", names[0])
        return Caller("full" if full else "view" if view else "none")

    def of_cookies(self, headers: Iterable[str]) -> Caller:
        """Who the request's cookies tell of; a stale one counts as none."""
        read = {self.cookie, self.former_cookie, *map(_cookie, self.named.values())}
        callers = [self.caller(value) for name, value in _cookies(headers) if name in read]
        order = ("full", "view", "none")
        return min(callers, key=lambda one: order.index(one.access), default=Caller("none"))


def named_tokens(given: Sequence[str]) -> tuple[str | None, dict[str, str]]:
    """The token without a name, and those with one, of what `--token` was given: `TOKEN` or
    `NAME=TOKEN`. Raises UserError naming the option, and never a token."""
    plain, named = [], {}
    for text in given:
        if not text or not text.isascii() or not text.isprintable() or " " in text:
            raise UserError(
                "must be printable ASCII without spaces, and not empty", where="--token"
            )
        match = NAMED.fullmatch(text)
        if match is None:
            plain.append(text)
        elif match["name"] in named:
            raise UserError(f"two tokens are named {match['name']}", where="--token")
        else:
            named[match["name"]] = match["token"]
    for text in plain:  # of a variable that is empty: `NAME=` would be a token that can be guessed
        empty = NOTHING_AFTER.fullmatch(text)
        if empty and (named or len(text) % 4):
            raise UserError(f"no token follows {empty['name']}=", where="--token")
    if len(plain) > 1:
        raise UserError(
            f"{len(plain)} tokens without a name; give each as NAME=TOKEN", where="--token"
        )
    if len({*plain, *named.values()}) < len(given):
        raise UserError("two tokens are equal: give each person another", where="--token")
    return (plain[0] if plain else None), named


def new_token() -> str:
    return secrets.token_urlsafe(TOKEN_BYTES)


def stored_token(data_dir: DataDir) -> str:
    """The data directory's token, made on first use and readable by its owner only."""
    path = data_dir.token
    try:
        data_dir.path.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _create(path)
        path.chmod(0o600)
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read or written: {error}", where=str(path)) from None
    if not token:
        raise UserError("is empty; delete it, and a new one will be created", where=str(path))
    return token


def _create(path: Path) -> None:
    """Written aside and linked into place: of many at a time one wins, none sees half a token."""
    descriptor, aside = tempfile.mkstemp(dir=path.parent, prefix=".token-")  # mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(new_token())
        try:
            os.link(aside, path)
        except FileExistsError:
            return
        except OSError:  # a file system without hard links
            with locks.waiting(path.with_name("token.lock")):
                if not path.exists():
                    os.replace(aside, path)
    finally:
        Path(aside).unlink(missing_ok=True)


def _cookie(secret: str) -> str:
    return f"opd_token_{hashlib.sha256(f'opd cookie {secret}'.encode()).hexdigest()[:16]}"


def _cookies(headers: Iterable[str]) -> list[tuple[str, str]]:
    parts = [part.partition("=") for header in headers for part in header.split(";")]
    return [(name.strip(), value.strip().strip('"')) for name, _, value in parts]


def _equal(given: str, secret: str | None) -> bool:
    if not secret:
        return False
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), secret.encode())
