"""Uploads over HTTP, with the security layer before the routes."""

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from httpx import ASGITransport, AsyncClient, Response
from sqlalchemy import Engine

from app.middleware import bodies
from app.security import SecurityLayer
from app.server import ServerOptions, policy, rest_app
from app.sources import uploads
from app.sources.roots import SourceOptions
from app.sources.upload_check import contents
from storage.data_dir import DataDir
from tests.app.sources.test_upload_check import GOOD
from tests.app.sources.test_uploads import REFUSED

TOKEN = "full-" + "t" * 38
VIEW = "view-" + "v" * 38
BEARER = {"authorization": f"Bearer {TOKEN}"}
LIMIT = 3_000_000


@pytest.fixture
def layer(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SecurityLayer:
    """The whole of the server but its pages, with a limit of 3 MB; files are read in-process."""
    monkeypatch.setattr(uploads.keep, "__defaults__", (contents,))
    sources = SourceOptions(upload_bytes=LIMIT)
    options = ServerOptions(DataDir(tmp_path), token=TOKEN, view_token=VIEW, sources=sources)
    return SecurityLayer(rest_app(engine, options), policy(options))


def ask(
    layer: SecurityLayer, path: str, content: Any, method: str = "POST", **more: Any
) -> Response:
    async def send() -> Response:
        transport = ASGITransport(layer)
        async with AsyncClient(transport=transport, base_url="http://127.0.0.1:7860") as client:
            headers = more.pop("headers", BEARER)
            return await client.request(method, path, content=content, headers=headers, **more)

    return asyncio.run(send())


def upload(layer: SecurityLayer, name: str, content: Any, **more: Any) -> Response:
    return ask(layer, "/api/v1/uploads", content, params={"name": name}, **more)


async def pieces(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // 65_536 + 1):
        yield b"x" * 65_536


async def unending() -> AsyncIterator[bytes]:
    yield b"x"
    await asyncio.Event().wait()


def left(tmp_path: Path) -> list[str]:
    return sorted(p.name for p in (tmp_path / "uploads").rglob("*"))


def test_a_file_larger_than_other_bodies_comes_in_and_is_listed(
    layer: SecurityLayer, tmp_path: Path
) -> None:
    content = GOOD * 60_000  # 2.2 MB, over the limit of every other route
    answer = upload(layer, "rows.jsonl", content)
    assert answer.status_code == 201, answer.text
    uploaded = answer.json()
    assert (uploaded["rows"], uploaded["form"], uploaded["note"]) == (60_000, "text", "")
    assert Path(uploaded["value"]).read_bytes() == content
    (item,) = ask(layer, "/api/v1/sources/data/uploads", b"", "GET").json()["items"]
    assert item["value"] == uploaded["value"] and item["bytes"] == len(content)
    check = ask(
        *(layer, "/api/v1/config/check"),
        f'{{"config": {{"prompts": {{"source": "{uploaded["value"]}"}}}}}}'.encode(),
        headers=BEARER | {"content-type": "application/json"},
    )
    assert check.json()["ok"] is True
    assert upload(layer, "again.jsonl", content).json()["known"] is True
    gone = ask(layer, f"/api/v1/uploads/{uploaded['file']}", b"", "DELETE")
    assert gone.status_code == 200 and left(tmp_path) == []


def test_only_this_route_has_the_larger_limit(layer: SecurityLayer) -> None:
    content = b"x" * 2_500_000
    for path in (
        *("/api/v1/uploads/", "/api/v1//uploads", "/API/v1/uploads", "/api/v1/uploads/x"),
        *("/api/v1/runs", "/api/v1/uploads%2f", "/api/v1/config/check", "//api/v1/uploads"),
        *("/x/api/v1/uploads", "/api/v1/uploads;x", "/api/v1/sources/data/uploads"),
    ):
        assert ask(layer, path, content).status_code == 413, path
    for method in ("PUT", "PATCH", "DELETE", "OPTIONS"):
        assert ask(layer, "/api/v1/uploads", content, method).status_code == 413


def test_behind_a_prefix_the_route_is_the_same(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads.keep, "__defaults__", (contents,))
    options = ServerOptions(DataDir(tmp_path), token=TOKEN, root_path="/studio")
    layer = SecurityLayer(rest_app(engine, options), policy(options))
    for number, path in enumerate(("/studio/api/v1/uploads", "/api/v1/uploads")):
        content = GOOD * (60_000 + number)
        answer = ask(layer, path, content, params={"name": "rows.jsonl"})
        assert answer.status_code == 201, answer.text
    assert ask(layer, "/studio/studio/api/v1/uploads", content).status_code == 413


@pytest.mark.parametrize("declared", ["10000000000", "3000001", "9" * 30])
def test_a_length_over_the_limit_is_refused_unread(
    layer: SecurityLayer, tmp_path: Path, declared: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "DRAIN_SECONDS", 0.05)
    answer = upload(layer, "rows.jsonl", unending(), headers=BEARER | {"content-length": declared})
    assert answer.status_code == 413
    assert "over the limit of 3 MB (opd serve --upload-limit)" in answer.json()["error"]
    assert not (tmp_path / "uploads").exists()


def test_a_body_without_a_length_is_cut_off_at_the_limit(
    layer: SecurityLayer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "DRAIN_BYTES", 10_000_000)
    answer = upload(layer, "rows.jsonl", pieces(10**12))
    assert answer.status_code == 413 and left(tmp_path) == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": f"Bearer {VIEW}"}, 403),
        (BEARER | {"origin": "https://evil.example"}, 403),
        (BEARER | {"host": "evil.example"}, 403),
        (BEARER | {"sec-fetch-site": "cross-site"}, 403),
        ({"cookie": f"opd_token_7860={TOKEN}"}, 403),
    ],
)
def test_who_may_not_upload(
    layer: SecurityLayer, tmp_path: Path, headers: dict[str, str], status: int
) -> None:
    assert upload(layer, "rows.jsonl", GOOD, headers=headers).status_code == status
    assert ask(layer, "/api/v1/uploads/x", b"", "DELETE", headers=headers).status_code == status
    assert not (tmp_path / "uploads").exists()


def test_hostile_names_and_contents_leave_nothing(layer: SecurityLayer, tmp_path: Path) -> None:
    for name in REFUSED:
        answer = upload(layer, name, GOOD)
        assert answer.status_code == 422, name
    assert ask(layer, "/api/v1/uploads", GOOD).status_code == 422
    assert ask(layer, "/api/v1/uploads?name=a&name=../b", GOOD).status_code == 422
    assert len(REFUSED) > 45 and left(tmp_path) == []
    for content in (b"", bytes(range(256)), GOOD + b"{\n"):
        answer = upload(layer, "rows.jsonl", content)
        assert answer.status_code == 422 and answer.json()["where"].startswith("rows.jsonl")
    assert "rows.jsonl:2" in answer.json()["where"] and left(tmp_path) == []
    for name in ("..%2ftoken", "%2e%2e", "x", "a%00b", ".incoming-x", "%ff", "x" * 500):
        answer = ask(layer, f"/api/v1/uploads/{name}", b"", "DELETE")
        assert answer.status_code in (404, 405, 422), name


def test_a_server_that_takes_none_says_so(engine: Engine, tmp_path: Path) -> None:
    options = ServerOptions(DataDir(tmp_path), token=TOKEN, sources=SourceOptions(upload_bytes=0))
    layer = SecurityLayer(rest_app(engine, options), policy(options))
    answer = upload(layer, "rows.jsonl", GOOD)
    assert answer.status_code == 422 and "takes no uploads" in answer.json()["error"]
    assert upload(layer, "rows.jsonl", b"x" * 2_500_000).status_code == 413


@pytest.fixture
def address(layer: SecurityLayer) -> Iterator[tuple[str, int]]:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(layer, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        yield bound.getsockname()
        server.should_exit = True
        thread.join(30)


def start(address: tuple[str, int], *lines: str) -> socket.socket:
    head = (
        *("POST /api/v1/uploads?name=rows.jsonl HTTP/1.1", "Host: 127.0.0.1"),
        *(f"Authorization: Bearer {TOKEN}", *lines, "", ""),
    )
    for _ in range(200):
        try:
            client = socket.create_connection(address, timeout=30)
            break
        except OSError:
            time.sleep(0.05)
    client.sendall("\r\n".join(head).encode())
    return client


def test_on_a_real_connection(
    address: tuple[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10 GB announced, no length and no end, and a client that goes in the middle."""
    monkeypatch.setattr(bodies, "DRAIN_SECONDS", 0.2)
    with start(address, "Content-Length: 10000000000") as client:
        assert b" 413 " in client.recv(4096)
    with start(address, "Transfer-Encoding: chunked") as client:
        chunk = b"%x\r\n" % 65_536 + b"x" * 65_536 + b"\r\n"
        for _ in range(LIMIT // 65_536 + 2):
            client.sendall(chunk)
        assert b" 413 " in client.recv(4096)
    with start(address, "Content-Length: 1000000") as client:
        client.sendall(GOOD * 100)
        until = time.monotonic() + 20
        while not left(tmp_path) and time.monotonic() < until:
            time.sleep(0.02)
        assert [n for n in left(tmp_path) if n.startswith(".incoming-")]
    until = time.monotonic() + 20
    while left(tmp_path) and time.monotonic() < until:
        time.sleep(0.02)
    assert left(tmp_path) == []
    with start(address, f"Content-Length: {len(GOOD)}", "Connection: close") as client:
        client.sendall(GOOD)
        assert b" 201 " in client.recv(4096)
