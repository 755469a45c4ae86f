"""Which pages may show the dashboard in a frame, and what that asks of headers and cookie.

Browsers send the cookie into a frame on a page of the same site. To one of another site they send
it only if it says so (`SameSite=None`), which they accept over https alone; `Partitioned` keeps it
apart for each site around the frame, so that it is not one that follows people.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from app.origins import Origins, is_address, split_authority
from opd.errors import UserError

ORIGIN = re.compile(r"(?P<scheme>https?)://(?P<authority>[A-Za-z0-9._:-]+)")
OPTION = "--allow-frame"
EXAMPLE = "https://portal.example or http://localhost:8888"


@dataclass(frozen=True)
class Frames:
    """Origins of pages that may stand around the dashboard."""

    origins: tuple[str, ...] = ()

    @property
    def ancestors(self) -> str:
        """The value of `frame-ancestors` in the content policy."""
        return " ".join(self.origins) or "'none'"

    def across_sites(self, host: str) -> bool:
        """Whether for one of them a server reached over https at this Host is another site."""
        authority = split_authority(host)
        name = authority[0] if authority else ""
        pages = [_parsed(origin) for origin in self.origins]
        return any(scheme == "http" or not _same_site(page, name) for scheme, page, _ in pages)


NO_FRAMES = Frames()


def frames_of(values: Iterable[str], served: Origins) -> Frames:
    """The origins of `--allow-frame`. Raises UserError for what no browser would let work."""
    origins: list[str] = []
    for value in values:
        scheme, name, origin = _parsed(value)
        if scheme == "http" and not _may_be_same_site(name, served):
            raise _refused(
                value,
                "is of another site than this server, whose cookie browsers send there over https "
                "only: serve that page over https, or under a name of this server",
            )
        if scheme == "https" and not served.behind_proxy:
            raise _refused(
                value,
                "is reached over https and this server over http: put a proxy with TLS before it, "
                "and give --allow-host NAME or --root-path",
            )
        origins.append(origin)
    return Frames(tuple(dict.fromkeys(origins)))


def _parsed(value: str) -> tuple[str, str, str]:
    """Scheme, name and the origin as browsers write it. Raises UserError."""
    match = ORIGIN.fullmatch(value)
    authority = split_authority(match["authority"]) if match else None
    if match is None or authority is None or (authority[1] or 0) > 65535:
        raise _refused(
            value,
            f"is not an origin: scheme, name and port, without path or wildcard, such as {EXAMPLE}",
        )
    return match["scheme"], authority[0], f"{match['scheme']}://{match['authority'].lower()}"


def _may_be_same_site(name: str, served: Origins) -> bool:
    if served.any_own_address and is_address(name):
        return True
    return any(_same_site(name, host) for host in served.hosts)


def _same_site(name: str, other: str) -> bool:
    return name == other or _site(name) == _site(other) != ""


def _site(name: str) -> str:
    """The part of a name that its owner registered, by its form; "" for an address.

    `co.uk` and its like count as one end; short names under a country's end need one label more
    to be taken for the same site.
    """
    labels = name.rstrip(".").split(".")
    if is_address(name) or len(labels) < 2:
        return ""
    under_country = len(labels[-1]) == 2 and len(labels[-2]) <= 3
    kept = 3 if under_country else 2
    return ".".join(labels[-kept:]) if len(labels) >= kept else ""


def _refused(value: str, text: str) -> UserError:
    return UserError(f"{value!r} {text}", where=OPTION)
