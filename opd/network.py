"""Clients that speak HTTP, and which proxy of the environment a request goes through.

Loopback addresses and the hosts in NO_PROXY are asked without a proxy. A proxy that cannot be used
is an error that names its variable, and no text shows a proxy's user or password. Every client of
the project is made here.

Source: what curl and Go make of NO_PROXY: names with their subdomains, addresses, networks, ports.
"""

import importlib.util
import ipaddress
import os
import re
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from opd.errors import ErrorKind, UserError

SOCKS = ("socks5", "socks5h")
SCHEMES = ("http", "https", *SOCKS)
PORTS = {"http": 80, "https": 443}
LOOPBACK_NAMES = ("localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback")
SHORT_ADDRESS = re.compile(r"[0-9][0-9a-fx]*(\.[0-9][0-9a-fx]*){0,3}")  # such as 127.1
HttpClient = httpx.Client  # for annotations
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class Proxy:
    """A proxy; as text without user and password, `http://proxy:3128, from HTTPS_PROXY`."""

    url: httpx.URL = field(repr=False)
    variable: str

    def __str__(self) -> str:
        return f"{self.url.scheme}://{self.url.netloc.decode('ascii')}, from {self.variable}"


def client(url: str, **options: Any) -> httpx.Client:
    """A client for requests below `url`, which follows no redirects. `options`: of httpx.Client.

    Raises UserError for a proxy that cannot be used."""
    proxy = proxy_for(url)
    return httpx.Client(
        proxy=proxy.url if proxy else None,
        trust_env=False,
        verify=httpx.create_ssl_context(),  # with SSL_CERT_FILE, where it is set
        **options,
    )


def socket_client(path: Path, **options: Any) -> httpx.Client:
    """A client of the server that listens on this Unix socket; nothing leaves the machine.
    `options`: of httpx.Client."""
    transport = socket_transport(path)
    return httpx.Client(
        transport=transport, base_url="http://localhost", trust_env=False, **options
    )


def socket_transport(path: Path) -> httpx.HTTPTransport:
    """For a client whose requests go to the server on this Unix socket, whatever their address."""
    return httpx.HTTPTransport(uds=str(path), limits=httpx.Limits(max_connections=None))


def listens(path: Path) -> bool:
    """Whether a server listens on this Unix socket (httpx leaves its own open where none does)."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def in_process_client(application: Any) -> httpx.AsyncClient:
    """A client of an ASGI application in this process; it opens no connection."""
    transport = httpx.ASGITransport(application)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost", trust_env=False)


def proxy_for(url: str) -> Proxy | None:
    """The proxy that a request to `url` goes through; None: it goes direct.

    Raises UserError where there is one that cannot be used."""
    target = httpx.URL(url)
    settings = urllib.request.getproxies()  # of the environment, else of the system
    name = next((n for n in (target.scheme, "all") if settings.get(n)), None)
    port = target.port or PORTS.get(target.scheme)
    if name is None or goes_direct(target.host, port, settings.get("no", "")):
        return None
    if not urllib.request.getproxies_environment() and urllib.request.proxy_bypass(target.host):
        return None  # by the system's own list
    return _usable(settings[name], _variable(f"{name}_proxy"), target.host)


def through(proxy: Proxy | None) -> str:
    """What an error says of the way that its request took."""
    return f" (through the proxy {proxy})" if proxy else ""


def goes_direct(host: str, port: int | None, no_proxy: str) -> bool:
    """Whether a host is this machine, or in the list of NO_PROXY."""
    host = host.strip("[]").rstrip(".").lower()
    entries = re.split(r"[,;\s]+", no_proxy.lower())
    return is_loopback(host) or any(_covers(entry, host, port) for entry in entries if entry)


def is_loopback(host: str) -> bool:
    """Whether a name or an address, in any spelling, is this machine's own."""
    address = _address(host)
    if address is None:
        return host in LOOPBACK_NAMES or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified


def hub_proxy() -> Proxy | None:
    """The proxy on the way to the hub, whose client is made here to take the same way: by itself it
    asks a mirror on this machine through a proxy, and fails on networks of IPv6 in NO_PROXY.

    Raises UserError for a proxy that cannot be used."""
    from huggingface_hub import constants, get_session  # noqa: PLC0415 - only for the hub

    if constants.HF_HUB_OFFLINE:
        return None
    proxy = proxy_for(constants.ENDPOINT)
    if proxy is None:
        with proxies_ignored():
            get_session()
        return None
    settings = urllib.request.getproxies()
    for name in ("http", "https", "all"):  # its client takes them all, or none
        if name in settings:
            _usable(settings[name], _variable(f"{name}_proxy"), httpx.URL(constants.ENDPOINT).host)
    with proxies_ignored(""):
        get_session()
    return proxy


@contextmanager
def proxies_ignored(hosts: str = "*") -> Iterator[None]:
    """For a library that makes clients while it is imported, and fails on a proxy it cannot use.
    `hosts` stand in for NO_PROXY.

    The environment of the whole process: not for while other threads copy it."""
    before = os.environ.get("no_proxy")
    os.environ["no_proxy"] = hosts
    try:
        yield
    finally:
        del os.environ["no_proxy"]
        if before is not None:
            os.environ["no_proxy"] = before


def _covers(entry: str, host: str, port: int | None) -> bool:
    """Whether an entry of NO_PROXY is about a host: `*`, a name, an address or a network."""
    if entry == "*":
        return True
    name = entry.rpartition("://")[2]
    if name.count(":") == 1 or "]:" in name:
        name, _, entry_port = name.rpartition(":")
        if entry_port != str(port):
            return False
    name = name.strip("[]").rstrip(".")
    address = _address(host)
    try:
        network = ipaddress.ip_network(name, strict=False)
    except ValueError:
        name = name.removeprefix("*").removeprefix(".")
        return bool(name) and address is None and f".{host}".endswith(f".{name}")
    return address is not None and address in network


def _address(host: str) -> Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        if not SHORT_ADDRESS.fullmatch(host):
            return None
        try:
            return ipaddress.IPv4Address(socket.inet_aton(host))
        except OSError:
            return None
    return getattr(address, "ipv4_mapped", None) or address


def _variable(name: str) -> str:
    """How the variable is spelled here; lower case is what counts where there are both."""
    spelled = [name, *(v for v in os.environ if v.lower() == name)]
    return next((v for v in spelled if os.environ.get(v)), "the system's settings")


def _usable(text: str, variable: str, host: str) -> Proxy:
    """Raises UserError, without the proxy's address, which may hold a password."""
    remedy = f"; correct it, or add {host} to NO_PROXY if it is reached without a proxy"
    try:
        url = httpx.URL(text if "://" in text else f"http://{text}")
        valid = bool(url.host) and (url.port or 80) < 65536
    except (httpx.InvalidURL, UnicodeError):
        valid = False
    if not valid:
        message = f"is not the address of a proxy, such as http://proxy.example:3128{remedy}"
        raise UserError(message, where=variable)
    if url.scheme not in SCHEMES:
        supported = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        message = f"{url.scheme}:// proxies are not supported, only {supported}{remedy}"
        raise UserError(message, where=variable)
    if url.scheme in SOCKS and importlib.util.find_spec("socksio") is None:
        message = "a SOCKS proxy needs socksio: pip install socksio"
        raise UserError(message, where=variable, kind=ErrorKind.MISSING_EXTRA)
    return Proxy(url, variable)
