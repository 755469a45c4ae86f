"""Which names this server answers to, and whether a request comes from its own pages."""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from opd.errors import UserError

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
DEFAULT_PORTS = {"http": 80, "https": 443}
# An address in brackets, or a name; then a port. Nothing else may stand in a Host header.
AUTHORITY = re.compile(
    r"(?:\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::(?P<port>\d{1,5}))?"
)
FORWARDED_HEADERS = frozenset(
    {
        b"forwarded",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-port",
        b"x-forwarded-prefix",
        b"x-forwarded-proto",
        b"x-forwarded-server",
        b"x-gradio-server",
    }
)


@dataclass(frozen=True)
class Origins:
    """The names allowed in Host; `any_own_address`: bound to all of the machine's addresses."""

    hosts: frozenset[str]
    proxy_hosts: frozenset[str]  # named by --allow-host: a proxy may forward under these
    any_own_address: bool
    behind_proxy: bool

    def knows(self, host: str, server: Any = None) -> bool:
        """Whether Host, port aside, is a name of this server; `server` is the socket's address."""
        authority = split_authority(host)
        if authority is None:
            return False
        name = authority[0]
        is_own_address = self.any_own_address and server and name == _canonical(str(server[0]))
        return name in self.hosts or bool(is_own_address and is_address(name))

    def same(self, origin: str, headers: Headers) -> bool:
        """Whether an Origin is the host and port that the request was sent to.

        Ports are compared as the browser sees them, so that a tunnel may change them. A proxy that
        rewrites Host is believed only for a name of this server: where it says the name itself, or
        the browser says that the request stays within its site. Over plain http to another machine
        browsers say nothing of that; there the address must be one without a port.
        """
        sender = _origin_authority(origin)
        if sender is None:
            return False
        targets = [split_authority(headers.get("host", ""))]
        forwarded = headers.get("x-forwarded-host", "").split(",")[0].strip()
        if forwarded:
            authority = split_authority(forwarded)
            targets.append(authority if authority and authority[0] in self.proxy_hosts else None)
        default = DEFAULT_PORTS[origin.partition(":")[0].lower()]
        if any(target and (target[0], target[1] or default) == sender for target in targets):
            return True
        if None in targets:  # a proxy was asked for a name that is not this server's
            return False
        site = headers.get("sec-fetch-site")
        if site is not None:
            return site == "same-origin" and sender[0] in self.hosts
        rewritten = all(target and target[0] not in self.proxy_hosts for target in targets)
        return rewritten and sender[0] in self.proxy_hosts and sender[1] == default

    def knows_origin(self, origin: str) -> bool:
        """Whether an Origin, port aside, is a name of this server."""
        sender = _origin_authority(origin)
        return sender is not None and sender[0] in self.hosts

    def without_untrusted(
        self, headers: Iterable[tuple[bytes, bytes]]
    ) -> list[tuple[bytes, bytes]]:
        """The headers less what a proxy would set, where no proxy was announced."""
        return [(n, v) for n, v in headers if n not in FORWARDED_HEADERS or self._trusts(n, v)]

    def _trusts(self, name: bytes, value: bytes) -> bool:
        if name == b"x-forwarded-host":
            authority = split_authority(value.decode("latin-1"))
            return authority is not None and authority[0] in self.proxy_hosts
        return self.behind_proxy and name == b"x-forwarded-proto" and value in (b"http", b"https")


def origins_of(host: str, allow_hosts: Iterable[str], root_path: str) -> Origins:
    """The names of a server bound to `host`. Raises UserError for a name that cannot be one."""
    named = frozenset(_checked(name) for name in allow_hosts)
    wildcard = host in ("", "0.0.0.0", "::")
    bound = frozenset() if wildcard else frozenset({_canonical(host.strip("[]"))})
    return Origins(
        hosts=LOOPBACK_NAMES | bound | named,
        proxy_hosts=named,
        any_own_address=wildcard,
        behind_proxy=bool(named or root_path),
    )


def split_authority(text: str) -> tuple[str, int | None] | None:
    """Name (lower case, no brackets) and port of `name:port`; None when it is not one."""
    match = AUTHORITY.fullmatch(text)
    if match is None:
        return None
    return _canonical(match["six"] or match["name"]), int(match["port"]) if match["port"] else None


def is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether a server bound to `host` can be reached from this machine only."""
    name = host.strip("[]").lower()
    return name == "localhost" or (is_address(name) and ipaddress.ip_address(name).is_loopback)


def _canonical(name: str) -> str:
    return str(ipaddress.ip_address(name)) if is_address(name) else name.lower()


def _checked(name: str) -> str:
    authority = split_authority(name) or split_authority(f"[{name}]")
    if authority is None:
        raise UserError(f"{name!r} is not a host name", where="--allow-host")
    return authority[0]


def _origin_authority(origin: str) -> tuple[str, int] | None:
    """Name and port of an Origin header; None for `null` and anything that is not http(s)."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return None
    authority = split_authority(parts.netloc)
    if parts.scheme not in DEFAULT_PORTS or authority is None or parts.path or parts.query:
        return None
    return authority[0], authority[1] or DEFAULT_PORTS[parts.scheme]
