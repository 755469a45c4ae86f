"""Behind the proxies of docs/proxy.md, whose lines are read from there: the real nginx, and Caddy
where it is; and behind what an SSH tunnel does."""

import json
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.api_client import stored_run
from tests.support.browser_server import TOKEN, loopback_server
from tests.support.databases.matrix import new_database
from tests.support.network.web_server import certificate, free_port, nginx, program, running

DOCUMENT = (Path(__file__).parents[3] / "docs" / "proxy.md").read_text(encoding="utf-8")
NAME = "studio.example"
BEARER = {"authorization": f"Bearer {TOKEN}"}
CALL = {"accept": "application/json, text/event-stream"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.S)


@pytest.fixture(scope="module")
def studios(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[int, str]]]:
    """By path prefix, the port of a server that was told of it, and a run."""
    with ExitStack() as stack:
        ports = {}
        for prefix in ("", "/studio"):
            folder = tmp_path_factory.mktemp("proxied")
            engine = new_database(folder)
            stack.callback(engine.dispose)
            run_id = stored_run(engine)
            address = stack.enter_context(
                loopback_server(
                    *(engine, folder),
                    **{"allow_hosts": [NAME], "root_path": prefix, "mcp": not prefix},
                )
            )
            ports[prefix] = int(address.rstrip("/").rpartition(":")[2]), run_id
        yield ports


class Visitor:
    """A browser's requests: to one address by its name, with cookies and what browsers send.

    `secure`: whether they say where requests come from, as they do over https."""

    def __init__(self, scheme: str, port: int, prefix: str = "", shown_port: str = "") -> None:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self.origin = f"{scheme}://{NAME}{shown_port or f':{port}'}"
        self.prefix, self.secure = prefix, scheme == "https"
        self.client = httpx.Client(
            base_url=f"{scheme}://127.0.0.1:{port}",
            headers={"host": self.origin.partition("://")[2]},
            verify=context,
            timeout=20,
        )

    def __enter__(self) -> "Visitor":
        return self

    def __exit__(self, *_error: object) -> None:
        self.client.close()

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.client.get(f"{self.prefix}/{path}", headers=headers)

    def send(self, method: str, path: str, body: Any) -> httpx.Response:
        site = {"sec-fetch-site": "same-origin"} if self.secure else {}
        headers = {"origin": self.origin, **site}
        return self.client.request(method, f"{self.prefix}/{path}", json=body, headers=headers)

    def opens_and_changes(self, run_id: str) -> None:
        """The link, the page, a script as modules are fetched, and a change by cookie."""
        entered = self.get(f"?token={TOKEN}", accept="text/html")
        assert entered.status_code == 303, entered.text
        where = httpx.URL(f"{self.origin}{self.prefix}/").join(entered.headers["location"])
        assert str(where) == str(httpx.URL(f"{self.origin}{self.prefix}/"))
        self.keep(entered)
        page = self.get("", accept="text/html")
        assert page.status_code == 200 and "gradio_config" in page.text
        again = self.get("new/", accept="text/html")
        assert again.is_redirect and again.headers["location"] == f"{self.prefix}/new"
        script = self.get("static/lib/main.js", origin=self.origin, **self.site())
        assert script.status_code == 200, script.text
        renamed = self.send("PATCH", f"api/v1/runs/{run_id}", {"name": self.origin})
        assert renamed.status_code == 200, renamed.text
        assert self.get(f"api/v1/runs/{run_id}").json()["name"] == self.origin

    def site(self) -> dict[str, str]:
        return {"sec-fetch-site": "same-origin"} if self.secure else {}

    def keep(self, entered: httpx.Response) -> None:
        """The cookie: httpx keeps it for 127.0.0.1, which the address is not."""
        cookie = entered.headers["set-cookie"].partition(";")[0]
        self.client.cookies.clear()
        self.client.headers["cookie"] = cookie


@contextmanager
def documented_nginx(
    folder: Path, server_port: int, edit: Callable[[str], str] = lambda text: text
) -> Iterator[int]:
    """The first block of the document, on a free port, with a certificate."""
    port, files = free_port(), certificate(folder, NAME)
    text = blocks("nginx")[0]
    for before, after in (
        ("443", str(port)),
        ("/etc/ssl/studio.pem", str(files[0])),
        ("/etc/ssl/studio.key", str(files[1])),
        ("7860", str(server_port)),
    ):
        assert before in text
        text = text.replace(before, after)
    with nginx(folder, edit(text), port):
        yield port


def test_the_documented_nginx(studios: dict[str, tuple[int, str]], tmp_path: Path) -> None:
    port, run_id = studios[""]
    with documented_nginx(tmp_path, port) as outside, Visitor("https", outside) as visitor:
        visitor.opens_and_changes(run_id)
        cookie = visitor.get(f"?token={TOKEN}").headers["set-cookie"]
        assert "Secure" in cookie
        assert (
            visitor.send("PATCH", f"api/v1/runs/{run_id}", {"name": "x" * 1_500_000}).status_code
            == 422
        )
        streams(visitor)


def streams(visitor: Visitor) -> None:
    """A queued call of an endpoint, an open stream, and MCP."""
    client = visitor.client
    called = client.post(
        "/gradio_api/call/list_runs", json={"data": ["", "", "", 9, 0]}, headers=BEARER
    )
    with client.stream("GET", f"/gradio_api/call/list_runs/{called.json()['event_id']}") as events:
        assert "event: complete" in events.read().decode()
    with client.stream("GET", "/gradio_api/heartbeat/some-session", headers=BEARER) as beats:
        assert next(beats.iter_text())  # while the stream goes on
    listed = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    tools = client.post("/gradio_api/mcp/", json=listed, headers=BEARER | CALL)
    assert tools.status_code == 200 and "rollout_tokens" in tools.text


def test_the_documented_path_prefix(studios: dict[str, tuple[int, str]], tmp_path: Path) -> None:
    port, run_id = studios["/studio"]
    location = blocks("nginx")[1].replace("7860", str(port))
    for number, (kept, seen) in enumerate(((";\n", ";\n"), (f"{port};", f"{port}/;"))):
        outside = free_port()
        text = f"server {{ listen {outside}; {location.replace(kept, seen)} }}"
        visitor = Visitor("http", outside, "/studio")
        with nginx(tmp_path / str(number), text, outside), visitor:
            visitor.opens_and_changes(run_id)


# What nginx does to Host; whether the browser says by itself that it stays on the site; the port
# that the address shows: ":80" is left out of it
HOSTS = [
    ("", True, ""),
    ("", False, ":80"),
    ("Host $host", True, ""),
    ("Host $http_host", False, ""),
    ("X-Forwarded-Host $http_host", False, ""),
    ("X-Forwarded-Host $host", True, ""),
]


@pytest.mark.parametrize(("header", "secure", "shown"), HOSTS)
def test_other_lines_that_work(
    header: str, secure: bool, shown: str, studios: dict[str, tuple[int, str]], tmp_path: Path
) -> None:
    port, run_id = studios[""]
    outside = free_port()
    line = f"proxy_set_header {header};" if header else ""
    text = f"location / {{ proxy_pass http://127.0.0.1:{port}; {line} }}"
    visitor = Visitor("http", outside, shown_port=shown)
    with nginx(tmp_path, f"server {{ listen {outside}; {text} }}", outside), visitor:
        visitor.secure = secure
        visitor.origin = visitor.origin.removesuffix(":80")
        visitor.opens_and_changes(run_id)
        for foreign in ("http://evil.example", f"http://{NAME}.evil.example", "null"):
            visitor.origin = foreign
            refused = visitor.send("PATCH", f"api/v1/runs/{run_id}", {"name": "evil"})
            assert refused.status_code == 403, foreign
        rebound = visitor.client.get("/", headers={"host": "evil.example"})
        assert rebound.status_code == (403 if header.startswith("Host") else 200)


def test_lines_that_cannot_work_say_which_are_missing(
    studios: dict[str, tuple[int, str]], tmp_path: Path
) -> None:
    port, run_id = studios[""]
    outside = free_port()
    upstream = f"upstream backend {{ server 127.0.0.1:{port}; }}"
    text = f"listen {outside}; location / {{ proxy_pass http://127.0.0.1:{port}; }}"
    named = "location /named/ { proxy_pass http://backend/; }"
    visitor = Visitor("http", outside)
    with nginx(tmp_path, f"{upstream} server {{ {text} {named} }}", outside), visitor:
        page = visitor.get("", accept="text/html").text
        assert "opd-first-look" in page
        refused = visitor.send("PATCH", f"api/v1/runs/{run_id}", {"name": "x"})
        refusal = refused.json()
        assert refused.status_code == 403 and "does not pass on the header Host" in refusal["error"]
        assert refusal["lines"]["nginx"] in blocks("nginx")[0]
        unknown = visitor.get("named/", accept="text/html")
        assert unknown.status_code == 403 and "backend" in unknown.text
        assert "--allow-host" in unknown.text and refusal["lines"]["nginx"] in unknown.text
        missing = visitor.get("studio/new", accept="text/html")
        assert missing.status_code == 404 and "--root-path /studio" in missing.text


def test_the_lines_of_the_page_are_those_of_the_document(
    studios: dict[str, tuple[int, str]],
) -> None:
    refused = httpx.post(
        f"http://127.0.0.1:{studios[''][0]}/api/v1/runs",
        headers={"origin": f"http://{NAME}:8080", "host": NAME},
    )
    lines = refused.json()["lines"]
    assert lines.keys() == {"nginx", "Caddy", "Traefik"}
    for line in lines.values():
        assert line in DOCUMENT


@pytest.mark.parametrize("number", [0, 1])
def test_the_documented_caddy(
    number: int, studios: dict[str, tuple[int, str]], tmp_path: Path
) -> None:
    caddy, outside, admin = program("caddy"), free_port(), free_port()
    port, run_id = studios["/studio" if number else ""]
    text = blocks("caddy")[number].replace("7860", str(port))
    text = text.replace(f"{NAME} {{", f"http://{NAME}:{outside} {{")
    options = f"{{\n admin 127.0.0.1:{admin}\n storage file_system {tmp_path}/kept\n}}\n"
    (tmp_path / "Caddyfile").write_text(options + text)
    command = [caddy, "run", "--config", str(tmp_path / "Caddyfile"), "--adapter", "caddyfile"]
    visitor = Visitor("http", outside, "/studio" if number else "")
    with running(command, outside, tmp_path), visitor:
        visitor.opens_and_changes(run_id)


TRAEFIK = (
    "Host $http_host",
    "X-Forwarded-Host $http_host",
    "X-Forwarded-Proto http",
    "X-Forwarded-For $remote_addr",
    "X-Forwarded-Server traefik",
    "X-Real-Ip $remote_addr",
)


@pytest.mark.parametrize("prefix", ["", "/studio"])
def test_what_traefik_sends(
    prefix: str, studios: dict[str, tuple[int, str]], tmp_path: Path
) -> None:
    """Its headers, by nginx; with a prefix, those of stripPrefix."""
    service = yaml.safe_load(blocks("yaml")[0])["http"]["services"]["studio"]["loadBalancer"]
    assert service["passHostHeader"] is True
    port, run_id = studios[prefix]
    url = service["servers"][0]["url"].replace("7860", str(port))
    headers = (*TRAEFIK, f"X-Forwarded-Prefix {prefix}") if prefix else TRAEFIK
    lines = "".join(f"proxy_set_header {header};" for header in headers)
    outside = free_port()
    text = f"location {prefix}/ {{ proxy_pass {url}{'/' if prefix else ''}; {lines} }}"
    visitor = Visitor("http", outside, prefix)
    with nginx(tmp_path, f"server {{ listen {outside}; {text} }}", outside), visitor:
        visitor.opens_and_changes(run_id)


@contextmanager
def tunnel(server_port: int) -> Iterator[int]:
    """What `ssh -L` does: bytes carried between a port of this machine and the server's."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def carry(source: socket.socket, sink: socket.socket) -> None:
            with source, sink:
                while data := source.recv(65_536):
                    sink.sendall(data)

        def accept() -> None:
            while True:
                try:
                    near, _ = listening.accept()
                except OSError:
                    return
                far = socket.create_connection(("127.0.0.1", server_port))
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=carry, args=pair, daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield int(listening.getsockname()[1])


def test_a_tunnel_to_another_port(studios: dict[str, tuple[int, str]]) -> None:
    port, run_id = studios[""]
    with tunnel(port) as outside, httpx.Client(base_url=f"http://localhost:{outside}") as client:
        entered = client.get("/", params={"token": TOKEN})
        assert (entered.status_code, entered.headers["location"]) == (303, "./")
        headers = {"origin": f"http://localhost:{outside}", "sec-fetch-site": "same-origin"}
        renamed = client.patch(f"/api/v1/runs/{run_id}", json={"name": "far"}, headers=headers)
        assert renamed.status_code == 200, renamed.text
        assert json.loads(client.get(f"/api/v1/runs/{run_id}").text)["name"] == "far"
