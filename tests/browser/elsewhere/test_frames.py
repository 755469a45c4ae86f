"""The dashboard behind a proxy's prefix, in a frame on somebody else's page."""

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect
from sqlalchemy import Engine
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from storage.read.rollouts import read_rollouts
from storage.read.runs import read_run
from tests.support.api_client import stored_run
from tests.support.browser_server import TOKEN, loopback_server
from tests.support.databases.matrix import new_database
from tests.support.network.web_server import certificate

pytestmark = pytest.mark.browser
PREFIX = "/studio"


class Proxy:
    """Passes on what is below PREFIX, without it; all else is a 404 of its own."""

    def __init__(self, application: ASGIApp) -> None:
        self.application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if not scope["path"].startswith(f"{PREFIX}/"):
                await PlainTextResponse("not the dashboard's", 404)(scope, receive, send)
                return
            raw = scope["raw_path"].removeprefix(PREFIX.encode())
            scope = {**scope, "path": scope["path"].removeprefix(PREFIX), "raw_path": raw}
        await self.application(scope, receive, send)


@contextmanager
def portal(tls: dict[str, Path] | None = None) -> Iterator[tuple[int, dict[str, str]]]:
    """Somebody else's server: its port, and the address that the frame of its page is to show."""
    shown: dict[str, str] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = f'<!doctype html><title>Portal</title><iframe src="{shown["src"]}"'
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(f'{page} style="width:1280px;height:760px"></iframe>'.encode())

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls["ssl_certfile"], tls["ssl_keyfile"])
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.server_address[1], shown
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """uvicorn's options of a certificate of this machine's own."""
    files = certificate(tmp_path_factory.mktemp("tls"), "localhost")
    return dict(zip(("ssl_certfile", "ssl_keyfile"), files, strict=True))


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, Path, str]]:
    folder = tmp_path_factory.mktemp("framed")
    engine = new_database(folder)
    yield engine, folder, stored_run(engine)
    engine.dispose()


@pytest.fixture
def watched(chromium: Any) -> Iterator[Any]:
    """A page of a browser that has no cookie yet; no script may fail in it."""
    context = chromium.new_context(ignore_https_errors=True)
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    yield page
    context.close()
    assert faults == []


def works(page: Any, show: Callable[[str], None], stored: tuple[Engine, Path, str]) -> None:
    """Every page is filled below the prefix, and an edit is sent from within the frame."""
    engine, _, run_id = stored
    rollout_id = read_rollouts(engine, run_id)["items"][0]["id"]
    addresses: list[str] = []
    page.on("response", lambda r: addresses.append(f"{r.status} {r.url}"))
    frame = page.frame_locator("iframe")
    show(f"/?token={TOKEN}")
    expect(frame.locator(".table.runs tbody tr")).to_have_count(1)
    for path, ready in (
        ("/new", ".form .form-row"),
        ("/experiments", ".opd h2"),
        ("/playground", ".opd h1"),
        ("/endpoints", ".opd h1"),
        (f"/rollouts?run={run_id}", ".table.rollouts tbody tr"),
        (f"/rollout?id={rollout_id}", '#token-view[data-ready="true"]'),
        (f"/run?id={run_id}", ".run-facts dd"),
    ):
        show(path)
        expect(frame.locator(ready).first).to_be_visible()
    name = f"edited at {page.url}"
    frame.get_by_label("More actions").click()
    frame.get_by_role("button", name="Edit name, tags, notes").click()
    frame.get_by_label("Name", exact=True).fill(name)
    frame.get_by_role("button", name="Save").click()
    expect(frame.locator("h1")).to_contain_text(name)
    assert read_run(engine, run_id)["name"] == name
    frame.get_by_role("link", name="Runs", exact=True).first.click()
    expect(frame.locator(".table.runs tbody tr")).to_have_count(1)
    outside = [a for a in addresses if "/studio/" not in a and "Portal" not in a]
    assert [a for a in outside if not a.endswith(("/", "favicon.ico"))] == []
    wrong = [a for a in addresses if a[0] in "45" and "/gradio_api/mcp/schema" not in a]
    assert [a for a in wrong if "favicon" not in a] == []


def refuses(page: Any, address: str, shown: dict[str, str], target: str) -> None:
    """The browser shows nothing of the dashboard."""
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    shown["src"] = target
    page.goto(address)
    expect(page.frame_locator("iframe").locator(".opd")).to_have_count(0)
    assert any("frame-ancestors" in text or "X-Frame-Options" in text for text in said), said


def test_the_same_site_over_http(watched: Any, stored: tuple[Engine, Path, str]) -> None:
    engine, folder, _ = stored
    with portal() as (port, shown):
        local, other = f"http://127.0.0.1:{port}/", f"http://localhost:{port}/"
        options = {"root_path": PREFIX, "allow_frames": [local.rstrip("/")]}
        with loopback_server(engine, folder, around=Proxy, **options) as address:
            base = f"{address.rstrip('/')}{PREFIX}"

            def show(path: str) -> None:
                shown["src"] = base + path
                watched.goto(local)

            works(watched, show, stored)
            refuses(watched, other, shown, f"{base}/")


def test_without_the_option_no_page_may(watched: Any, stored: tuple[Engine, Path, str]) -> None:
    engine, folder, _ = stored
    with portal() as (port, shown), loopback_server(engine, folder) as address:
        refuses(watched, f"http://127.0.0.1:{port}/", shown, f"{address}?token={TOKEN}")


def test_another_site_over_https(
    watched: Any, stored: tuple[Engine, Path, str], tls: dict[str, Path]
) -> None:
    engine, folder, _ = stored
    with portal(tls) as (port, shown):
        other = f"https://localhost:{port}"
        options = {"root_path": PREFIX, "allow_frames": [other]}
        with loopback_server(engine, folder, around=Proxy, tls=tls, **options) as address:

            def show(path: str) -> None:
                shown["src"] = address.rstrip("/") + PREFIX + path
                watched.goto(f"{other}/")

            works(watched, show, stored)
            [cookie] = watched.context.cookies()
            watched.context.close()  # its connections, before the server's loop ends
            assert cookie["sameSite"] == "None" and cookie["secure"]
            assert cookie["partitionKey"] == "https://localhost"
