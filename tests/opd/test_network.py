"""Which way a request goes: past the proxies of the environment, or through one, by real ones."""

import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import httpx
import pytest
from huggingface_hub import close_session, constants, get_session

from opd.config.models import RouteConfig
from opd.errors import ErrorKind, UserError
from opd.network import client, goes_direct, hub_proxy, proxies_ignored, proxy_for, through
from opd.teachers.vllm_client import RemoteTeacher
from tests.support.network.proxies import SmallProxy, small_proxy

PROXY = "http://proxy.example:3128"
FAR = "http://teacher.example/v1"


class _Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hello)
    threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    made.server_close()


@pytest.fixture
def proxy(server: str) -> Iterator[SmallProxy]:
    with small_proxy(server) as made:
        yield made


def fetched(url: str) -> str:
    with client(url, timeout=5) as made:
        return made.get(url).text


def environment(patch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        patch.setenv(name, value)


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize("scheme", ["", "http://", "socks5://", "socks5h://"])
def test_a_host_elsewhere_is_asked_through_the_proxy(
    name: str, scheme: str, proxy: SmallProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    if scheme.startswith("socks"):
        pytest.importorskip("socksio")
    environment(monkeypatch, **{name: f"{scheme}me:s3cret@{proxy.address}"})
    assert fetched("http://teacher.example:81/v1") == "hello"
    assert proxy.hosts == ["teacher.example:81"]
    assert proxy.credentials == ["me:s3cret" if "socks" in scheme else "Basic bWU6czNjcmV0"]
    shown = through(proxy_for(FAR))
    assert shown == f" (through the proxy {scheme or 'http://'}{proxy.address}, from {name})"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "LOCALHOST", "0.0.0.0"])
def test_this_machine_is_asked_directly(
    host: str, server: str, proxy: SmallProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"http://{proxy.address}"
    environment(monkeypatch, HTTP_PROXY=address, HTTPS_PROXY=address, ALL_PROXY=address)
    assert fetched(server.replace("127.0.0.1", host)) == "hello"
    assert proxy.hosts == []


LOOPBACK = "127.8.9.10 localhost. [::1] [::ffff:127.0.0.1] a.localhost 2130706433 0x7f.1"
NAME, FOUR, SIX = "teacher.example", "10.1.2.3", "[fd00::7]"
DIRECT = {
    NAME: (
        *("*", "a, *", "teacher.example", ".teacher.example", "example", ".example", "*.example"),
        *("Teacher.EXAMPLE.", "a teacher.example", "teacher.example:80", "http://teacher.example"),
    ),
    FOUR: ("10.0.0.0/8", "10.1.2.3", "10.1.2.3:80", "x,10.1.0.0/16,y"),
    SIX: ("fd00::/8", "fd00::7", "[fd00::7]", "[FD00:0::7]:80"),
} | dict.fromkeys(LOOPBACK.split(), ("",))
THROUGH = {
    NAME: (
        *("", "other.example", "cher.example", "teacher.example:81", ".", ",", "teacher"),
        *("a.teacher.example", "10.0.0.0/8", "::1/128"),
    ),
    FOUR: ("", "10.2.0.0/16", "10.1.2.30", "10.1.2.3:81", "1.2.3", "fd00::/8"),
    SIX: ("", "fe00::/8", "fd00::8", "[fd00::7]:81", "10.0.0.0/8"),
} | dict.fromkeys(
    ("localhost.example", "128.0.0.1", "notlocalhost", "127.0.0.1.example", "0x7g"), ("",)
)


def pairs(table: dict[str, tuple[str, ...]]) -> list[tuple[str, str]]:
    return [(entry, host) for host, entries in table.items() for entry in entries]


@pytest.mark.parametrize(("no_proxy", "host"), pairs(DIRECT))
def test_hosts_that_go_direct(no_proxy: str, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, ALL_PROXY=PROXY, NO_PROXY=no_proxy)
    assert proxy_for(f"http://{host}/v1") is None


@pytest.mark.parametrize(("no_proxy", "host"), pairs(THROUGH))
def test_hosts_that_do_not(no_proxy: str, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, ALL_PROXY=PROXY, NO_PROXY=no_proxy)
    assert str(proxy_for(f"http://{host}/v1")) == f"{PROXY}, from ALL_PROXY"


def test_ports_of_no_proxy_are_those_of_the_address() -> None:
    assert goes_direct("teacher.example", 443, "teacher.example:443")
    assert not goes_direct("teacher.example", 80, "teacher.example:443")


OTHER = "http://other.example:1"
FAR_TLS = "https://teacher.example/v1"


@pytest.mark.parametrize(
    ("variables", "url", "variable"),
    [
        ({"HTTP_PROXY": PROXY}, FAR_TLS, None),
        ({"HTTPS_PROXY": PROXY}, FAR, None),
        ({"HTTPS_PROXY": PROXY}, FAR_TLS, "HTTPS_PROXY"),
        ({"ALL_PROXY": OTHER, "https_proxy": PROXY}, FAR_TLS, "https_proxy"),
        ({"HTTP_PROXY": OTHER, "http_proxy": PROXY}, FAR, "http_proxy"),
        ({"HTTP_PROXY": PROXY, "http_proxy": ""}, FAR, None),
        ({"NO_PROXY": "", "no_proxy": "*", "HTTP_PROXY": PROXY}, FAR, None),
        # a web server's child may have HTTP_PROXY from a request's header "Proxy"
        ({"HTTP_PROXY": PROXY, "REQUEST_METHOD": "GET"}, FAR, None),
        ({"http_proxy": PROXY, "REQUEST_METHOD": "GET"}, FAR, "http_proxy"),
        ({"FTP_PROXY": PROXY}, FAR, None),
    ],
)
def test_which_variable_counts(
    variables: dict[str, str], url: str, variable: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment(monkeypatch, **variables)
    proxy = proxy_for(url)
    assert (proxy and proxy.variable) == variable
    assert proxy is None or str(proxy.url) == PROXY


UNUSABLE = {
    "socks4://s3cret:pw@proxy.example:1080": "socks4:// proxies are not supported",
    "socks://proxy.example:1080": "socks:// proxies are not supported",
    "ftp://proxy.example": "only http://, https://, socks5://, socks5h://",
    "http://s3cret:pw@": "is not the address of a proxy",
    "http://s3cret:pw@h:notaport": "is not the address of a proxy",
    "http://h:99999": "is not the address of a proxy",
    "http://[::1": "is not the address of a proxy",
    "://": "is not the address of a proxy",
    "h\x07:1": "is not the address of a proxy",
}


@pytest.mark.parametrize("value", UNUSABLE)
def test_a_proxy_that_cannot_be_used_is_named(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, ALL_PROXY=value)
    with pytest.raises(UserError, match=UNUSABLE[value]) as caught:
        proxy_for(FAR)
    assert str(caught.value).startswith("ALL_PROXY: ") and "s3cret" not in str(caught.value)
    assert "add teacher.example to NO_PROXY" in str(caught.value)
    assert proxy_for("http://127.0.0.1:8000/v1") is None


def test_without_socksio_socks_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    environment(monkeypatch, ALL_PROXY="socks5://127.0.0.1:9")
    with pytest.raises(UserError, match="pip install socksio") as caught:
        client(FAR)
    assert caught.value.kind is ErrorKind.MISSING_EXTRA
    client("http://127.0.0.1:1").close()


def test_the_teachers_error_names_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    config = RouteConfig(kind="remote", url=FAR, model="tiny", retries=0, timeout=5)
    with small_proxy("http://127.0.0.1:1", refuses="502 Bad Gateway") as proxy:
        environment(monkeypatch, HTTP_PROXY=f"http://me:s3cret@{proxy.address}")
        environment(monkeypatch, HTTPS_PROXY=f"http://me:s3cret@{proxy.address}")
        for url, reason in ((FAR, "HTTP 502"), (FAR_TLS, "502 Bad Gateway")):
            teacher = RemoteTeacher(config.model_copy(update={"url": url}))
            with pytest.raises(UserError, match=reason) as caught:
                teacher.check()
            teacher.close()
            assert f"(through the proxy http://{proxy.address}, from HTTP" in str(caught.value)
            assert "s3cret" not in str(caught.value) + repr(vars(teacher._endpoints.all[0]))
    environment(monkeypatch, HTTP_PROXY="socks4://127.0.0.1:9")
    with pytest.raises(UserError, match="HTTP_PROXY: socks4://"):
        RemoteTeacher(config)


def test_the_hub_goes_the_same_way(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for endpoint, no_proxy, through_it in (
        (server, "", False),
        ("http://hub.example", "fd00::/8,[::1],hub.example", False),
        ("http://hub.example", "fd00::/8", True),
    ):
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        close_session()
        with small_proxy(server) as proxy:
            environment(monkeypatch, HTTP_PROXY=f"http://{proxy.address}", NO_PROXY=no_proxy)
            assert (hub_proxy() is not None) == through_it
            if through_it or endpoint == server:
                assert get_session().get(endpoint).text == "hello"
            assert proxy.hosts == ["hub.example"] * through_it
        close_session()
    environment(monkeypatch, ALL_PROXY="socks4://127.0.0.1:9")
    with pytest.raises(UserError, match="ALL_PROXY: socks4:// proxies are not supported"):
        hub_proxy()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub_proxy() is None


def test_ignored_proxies_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for before in (None, "a.example"):
        environment(monkeypatch, ALL_PROXY="socks4://127.0.0.1:9")
        if before:
            environment(monkeypatch, no_proxy=before)
        with proxies_ignored():
            httpx.Client().close()
        assert os.environ.get("no_proxy") == before


def test_gradio_is_imported_whatever_the_proxies_are() -> None:
    proxies = {
        "ALL_PROXY": "socks5://127.0.0.1:9",
        "HTTP_PROXY": "http://h:x",
        "NO_PROXY": "fd00::/8",
    }
    code = (
        "import sys; sys.modules['socksio'] = None\n"
        "from app.server import _imported_gradio as imported; print(imported(False).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | proxies | {"HTTPS_PROXY": "socks4://127.0.0.1:9"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == "gradio\n", done.stderr
