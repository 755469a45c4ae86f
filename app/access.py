"""Access tokens: made once for a data directory, compared in constant time."""

import hashlib
import hmac
import os
import secrets
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from opd.errors import UserError
from storage import locks
from storage.data_dir import DataDir

Access = Literal["full", "view", "none"]
TOKEN_BYTES = 32


@dataclass(frozen=True)
class Tokens:
    """The token for everything, and the one for looking only. `former_cookie`: one that earlier
    versions set, which is still read."""

    full: str | None
    view: str | None
    former_cookie: str = ""

    @property
    def cookie(self) -> str:
        """The name of the cookie that carries either: of the token and not of the port, since
        browsers share cookies between all ports of a host, and a tunnel gives servers of several
        machines one host."""
        secret = self.full or self.view or ""
        return f"opd_token_{hashlib.sha256(f'opd cookie {secret}'.encode()).hexdigest()[:16]}"

    def access(self, given: str) -> Access:
        """What a token opens; both are always compared, so that time tells nothing."""
        full, view = _equal(given, self.full), _equal(given, self.view)
        return "full" if full else "view" if view else "none"

    def of_cookies(self, headers: Iterable[str]) -> Access:
        """What the request's cookies open; a stale one counts as none."""
        opened = {
            self.access(value.strip().strip('"'))
            for header in headers
            for name, _, value in (part.partition("=") for part in header.split(";"))
            if name.strip() in (self.cookie, self.former_cookie)
        }
        return "full" if "full" in opened else "view" if "view" in opened else "none"


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


def _equal(given: str, secret: str | None) -> bool:
    if not secret:
        return False
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), secret.encode())
