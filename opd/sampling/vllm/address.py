"""Where the vLLM server of a run is reached. Free of torch."""

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opd.config.sections import SamplingConfig
from opd.errors import ErrorKind, UserError
from opd.network import HttpClient, client, listens, proxy_for, socket_client, through
from opd.sampling.vllm.python import WHERE
from opd.server_address import checked_url, key_from

URL = "sampling.url"
KEY = "sampling.key_variable"
UNIX = "unix:"
KIND = ErrorKind.SAMPLING_SERVER
THE_SERVER = "the vLLM server"


@dataclass(frozen=True)
class ServerAddress:
    """A `socket`, or a `url` without `/v1`; `configured`, as sampling.url names it, is empty for a
    server that the job has started."""

    socket: Path | None = None
    url: str = ""
    key: str | None = field(default=None, repr=False)
    configured: str = ""

    def client(self, *, with_key: bool = True, **options: Any) -> HttpClient:
        """A client for paths below the server's root. `options`: of httpx's."""
        if self.key and with_key:
            options["headers"] = {"Authorization": f"Bearer {self.key}"}
        if self.socket is not None:
            return socket_client(self.socket, **options)
        return client(self.url, base_url=self.url, **options)

    def listens(self) -> bool:
        """Whether anything listens on the socket (of a url: asking tells)."""
        return self.socket is None or listens(self.socket)

    def with_address(self, error: UserError) -> UserError:
        """Adds the address where it is the user's own server that failed."""
        if not self.configured or error.where != WHERE:
            return error
        way = through(proxy_for(self.url)) if self.url else ""
        text = error.message.replace(THE_SERVER, f"{THE_SERVER} at {self.configured}{way}", 1)
        if self.key:
            text = text.replace(self.key, "…")
        return UserError(text, where=URL, kind=error.kind)


def address_of(sampling: SamplingConfig) -> ServerAddress:
    """Of the user's own server. Raises UserError for what cannot be one."""
    text = sampling.url or ""
    key = key_from(sampling.key_variable, where=KEY, kind=KIND)
    if text.startswith(UNIX):
        return ServerAddress(socket=_own_socket(Path(text[len(UNIX) :])), key=key, configured=text)
    example = "http://localhost:8000"
    url = checked_url(text, where=URL, example=example, kind=KIND).removesuffix("/v1")
    return ServerAddress(url=url, key=key, configured=url)


def server_error(message: str, kind: ErrorKind = KIND) -> UserError:
    """Of a server whose address nobody has to be told; see ServerAddress.told."""
    return UserError(f"{THE_SERVER}: {message}", where=WHERE, kind=kind)


def _own_socket(path: Path) -> Path:
    """Raises UserError for what is no socket of this user's: configurations come from requests,
    which must reach nobody else's programs."""
    try:
        status = path.stat()
    except OSError as error:
        raise _refused(f"{path}: {error.strerror}; start the server with --uds {path}") from None
    if not stat.S_ISSOCK(status.st_mode):
        raise _refused(f"{path} is not a socket")
    if status.st_uid != os.geteuid():
        raise _refused(f"{path} is the socket of another user, who must be the one of the jobs")
    return path


def _refused(message: str) -> UserError:
    return UserError(message, where=URL, kind=KIND)
