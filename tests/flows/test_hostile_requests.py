"""Hostile requests against the whole server: every route, every way in, nothing may happen.

OPD_FULL=1 runs the full counts. Each attack is also sent with its defence taken out, and must
then succeed: a zero counts only where it could have been another number.
"""

import asyncio
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient, Response
from sqlalchemy import Engine, select, update
from starlette.types import ASGIApp, Message

from app.access import Caller
from app.middleware import bodies
from app.security import SecurityLayer
from app.server import ServerOptions, build, policy, rest_app
from opd.config.run import parse
from storage.data_dir import DataDir
from storage.engine import begin, read
from storage.queue import jobs
from storage.queue.experiments import create_experiment
from storage.schema import experiment, metadata
from tests.support.stored_experiments import definition

FULL = os.environ.get("OPD_FULL") == "1"
TOKEN = "full-" + "t" * 38
VIEW = "view-" + "v" * 38
HOME = "http://127.0.0.1:7860"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
COOKIE = {"cookie": f"opd_token_7860={TOKEN}"}
BEARER = {"authorization": f"Bearer {TOKEN}"}
SAME = {"origin": HOME, "sec-fetch-site": "same-origin"}
ATTACKS: dict[str, dict[str, str]] = {
    "foreign host": {"host": "evil.example:7860"} | BEARER,
    "rebound host": {"host": "evil.example", "origin": "http://evil.example"} | COOKIE,
    "foreign origin": {"origin": "https://evil.example"} | COOKIE,
    "null origin": {"origin": "null"} | COOKIE,
    "cross-site": {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"} | COOKIE,
    "same-site": {"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"} | COOKIE,
    "wrong token": SAME | {"authorization": "Bearer " + "x" * 43},
}
ON_WRITES = {
    "cookie alone": COOKIE,
    "no token": SAME,
    "wrong cookie": SAME | {"cookie": "opd_token_7860=" + "x" * 43},
    "view token": SAME | {"cookie": f"opd_token_7860={VIEW}"},
}
EXPERIMENT = "exp-kept"
RawRequest = tuple[str, str, dict[str, str]]  # method, path, headers


@pytest.fixture
def run_id(engine: Engine) -> str:
    """A run, and beside it an experiment under a name that is known here."""
    create_experiment(engine, definition(), quick=True)
    with begin(engine) as connection:
        connection.execute(update(experiment).values(id=EXPERIMENT))
    return jobs.create_run(engine, parse({"name": "kept"}))


def server_options(data_dir: Path, host: str = "127.0.0.1") -> ServerOptions:
    return ServerOptions(DataDir(data_dir), host, token=TOKEN, view_token=VIEW, mcp=True)


def routes(app: Any, prefix: str = "") -> Iterator[str]:
    """The paths of an application's routes, those of what it mounts and includes too."""
    for route in app.routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            yield from routes(inner, prefix)
        elif hasattr(getattr(route, "app", None), "routes"):
            yield from routes(route.app, prefix + route.path.rstrip("/"))
        elif hasattr(route, "path"):
            yield prefix + route.path


def filled(path: str, run_id: str) -> str:
    return (
        path.replace("{run_id}", run_id)
        .replace("{rollout_id}", "roll-x")
        .replace("{experiment_id}", EXPERIMENT)
        .replace("{rest:path}", "x")
        .replace("{path:path}", "x")
        .replace("{", "")
        .replace("}", "")
    )


BODIES = {
    "/api/v1/runs": {"recipe": "demo"},
    "/api/v1/config/check": {"recipe": "demo"},
    "/api/v1/experiments": {"name": "self-distillation", "quick": True},
    "PATCH": {"name": "changed"},
}


def send_all(app: ASGIApp, requests: Iterable[RawRequest]) -> list[tuple[RawRequest, Response]]:
    """Sends each request in turn, JSON bodies that the route would take where it takes one."""

    async def run() -> list[tuple[RawRequest, Response]]:
        answers = []
        async with AsyncClient(transport=ASGITransport(app), base_url=HOME) as client:
            for one in requests:
                method, path, headers = one
                body = None
                if method not in ("GET", "HEAD"):
                    body = BODIES.get(path, BODIES.get(method, {}))
                answers.append(
                    (one, await client.request(method, path, headers=headers, json=body))
                )
        return answers

    return asyncio.run(run())


def contents(engine: Engine, data_dir: Path) -> list[Any]:
    """Every row of the database, and the name of every file beside it."""
    with read(engine) as connection:
        rows = [connection.execute(select(t)).all() for t in metadata.sorted_tables]
    files = sorted(str(p.relative_to(data_dir)) for p in data_dir.rglob("*"))
    return [rows, [name for name in files if not name.endswith(("-wal", "-shm"))]]


def hostile(paths: list[str], run_id: str, *, reads_too: bool) -> Iterator[RawRequest]:
    every = [*itertools.product(METHODS, ATTACKS.items())]
    writes = [*itertools.product(METHODS if reads_too else METHODS[2:], ON_WRITES.items())]
    for path in paths:
        for method, (name, headers) in every + writes:
            if name in ("view token", "cookie alone") and method in ("GET", "HEAD"):
                continue
            yield method, filled(path, run_id), headers


def test_every_route_refuses_every_attack(engine: Engine, tmp_path: Path, run_id: str) -> None:
    here = build(engine, server_options(tmp_path))
    afar = SecurityLayer(here.app, policy(server_options(tmp_path, "0.0.0.0")))  # type: ignore[attr-defined]
    paths = sorted(set(routes(here.app)))  # type: ignore[attr-defined]
    assert len(paths) > 60
    before = contents(engine, tmp_path)
    every = 1 if FULL else 23  # shares no factor with the counts of methods and attacks
    answers = [
        answer
        for app in (here, afar)
        for answer in send_all(app, [*hostile(paths, run_id, reads_too=app is afar)][::every])
    ]
    accepted = [(a, r.status_code) for a, r in answers if r.status_code not in (401, 403)]
    assert accepted == []
    assert len(answers) >= (2000 if FULL else 500)
    assert contents(engine, tmp_path) == before


class NoHostCheck(SecurityLayer):
    def _check_host(self, *args: Any) -> None:
        pass


class NoOriginCheck(SecurityLayer):
    def _check_origin(self, *args: Any) -> None:
        pass


class NoTokenCheck(SecurityLayer):
    def _caller(self, *args: Any) -> Caller:
        return Caller("full")


@pytest.mark.parametrize(
    ("without", "attacks"),
    [
        (NoHostCheck, ["foreign host", "rebound host"]),
        (NoOriginCheck, ["foreign origin", "null origin", "cross-site", "same-site"]),
        (NoTokenCheck, ["wrong token", "no token", "wrong cookie", "view token"]),
    ],
)
def test_each_defence_is_what_refuses(
    engine: Engine, tmp_path: Path, run_id: str, without: type[SecurityLayer], attacks: list[str]
) -> None:
    inside = rest_app(engine, server_options(tmp_path))
    rules = policy(server_options(tmp_path))
    for name in attacks:
        attack = (ATTACKS | ON_WRITES)[name]
        if name == "cross-site" or name == "same-site":
            attack = attack | {"origin": HOME}  # as a browser sends it with a form
        requests = [("POST", "/api/v1/runs", attack), ("PATCH", f"/api/v1/runs/{run_id}", attack)]
        kept = [r.status_code for _, r in send_all(SecurityLayer(inside, rules), requests)]
        assert not any(code < 400 for code in kept), name
        opened = [r.status_code for _, r in send_all(without(inside, rules), requests)]
        assert opened == [201, 200], name


def test_the_body_limit_is_what_refuses(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = SecurityLayer(
        rest_app(engine, server_options(tmp_path)), policy(server_options(tmp_path))
    )

    async def send() -> int:
        body = b'{"recipe": "demo"}' + b" " * 10_000_000
        headers = BEARER | {"content-type": "application/json"}
        async with AsyncClient(transport=ASGITransport(layer), base_url=HOME) as client:
            return (await client.post("/api/v1/runs", content=body, headers=headers)).status_code

    assert asyncio.run(send()) == 413
    monkeypatch.setattr(bodies, "MAX_BODY_BYTES", 10**9)
    assert asyncio.run(send()) == 201


def test_without_the_layer_every_attack_succeeds(
    engine: Engine, tmp_path: Path, run_id: str
) -> None:
    inside = rest_app(engine, server_options(tmp_path))
    before = contents(engine, tmp_path)
    requests = [
        (method, path, headers)
        for headers in (ATTACKS | ON_WRITES).values()
        for method, path in (
            ("GET", "/api/v1/runs"),
            ("POST", "/api/v1/runs"),
            ("PATCH", f"/api/v1/runs/{run_id}"),
            ("DELETE", f"/api/v1/runs/{run_id}"),
            ("POST", f"/api/v1/runs/{run_id}/restore"),
        )
    ]
    refused = [(a, r.status_code) for a, r in send_all(inside, requests) if r.status_code >= 300]
    assert refused == []
    assert contents(engine, tmp_path) != before


def test_gradio_serves_pages_and_no_more(engine: Engine, tmp_path: Path) -> None:
    server = build(engine, server_options(tmp_path))
    headers = COOKIE | SAME
    closed = [
        ("POST", "/gradio_api/upload", headers),
        ("GET", "/gradio_api/file=/etc/passwd", headers),
        ("GET", "/gradio_api/file/etc/passwd", headers),
        ("GET", "/gradio_api/proxy=http://evil.example/", headers),
        ("GET", "/gradio_api/deep_link", headers),
        ("GET", "/gradio_api/dev/reload", headers),
        ("POST", "/gradio_api/run/predict", headers),
        ("GET", "/gradio_api/runs", headers),
        ("GET", "/monitoring", headers),
        ("POST", "/login", headers),
        ("GET", "//gradio_api/upload", headers),
    ]
    assert {a[1]: r.status_code for a, r in send_all(server, closed)} == {a[1]: 404 for a in closed}
    pages = [
        ("GET", path, headers)
        for path in (
            *("/", "/new", "/run", "/rollouts", "/rollout", "/experiments", "/experiment"),
            "/config",
        )
    ]
    answers = send_all(server, pages)
    assert [r.status_code for _, r in answers] == [200] * len(pages)
    page = answers[0][1]
    assert "https://cdn" not in page.text and "googleapis" not in page.text
    assert "connect-src 'self'" in page.headers["content-security-policy"]
    assert '"run_history":false' in answers[-1][1].text.replace(" ", "")


TRAVERSALS = [
    "../../../../etc/passwd",
    "..%2f..%2f..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "....//....//etc/passwd",
    "..\\..\\..\\etc\\passwd",
    "..%5c..%5cetc%5cpasswd",
    "%252e%252e%252fetc%252fpasswd",
    "/etc/passwd",
    "//etc/passwd",
    "file:///etc/passwd",
    "..%c0%af..%c0%afetc/passwd",
    "%00/etc/passwd",
    "..%00/etc/passwd",
    "../token",
    "..%2ftoken",
    "../studio.db",
    "~root/.bashrc",
    "./../../secret.txt",
]
PATH_SLOTS = [
    "/static/{}",
    "/static/../{}",
    "/assets/{}",
    "/svelte/{}",
    "/api/v1/runs/{}/log",
    "/api/v1/runs/{}",
    "/api/v1/runs/run-{}/log",
    "/api/v1/rollouts/{}",
    "/api/v1/rollouts/{}/tokens",
    "/gradio_api/file={}",
    "/gradio_api/file/{}",
    "/gradio_api/custom_component/{}/client/component/x",
    "/gradio_api/stream/a/b/{}/x",
    "/{}",
]


def test_no_path_leads_out_of_its_folder(engine: Engine, tmp_path: Path) -> None:
    secret = "never to be served"
    data = tmp_path / "data"
    for file in (tmp_path / "secret.txt", data / "secret.txt", data / "runs" / "log.txt"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(secret)
    server = build(engine, server_options(data))
    payloads = TRAVERSALS + (
        [f"{'../' * n}{t}" for n in range(1, 4) for t in TRAVERSALS] if FULL else []
    )
    targets = [slot.format(payload) for slot in PATH_SLOTS for payload in payloads]
    for target in targets:
        status, content = asyncio.run(raw_get(server, target))
        assert status < 500, target
        for kept in (secret.encode(), b"root:x:", b"SQLite format"):
            assert kept not in content, target
    assert len(targets) >= (500 if FULL else 200)


async def raw_get(app: ASGIApp, target: str) -> tuple[int, bytes]:
    """A GET as a server passes it on: clients would tidy the path before they send it."""
    raw, _, query = target.encode("utf-8", "replace").partition(b"?")
    scope = {
        "type": "http",
        "method": "GET",
        "scheme": "http",
        "http_version": "1.1",
        "path": unquote(raw.decode()),
        "raw_path": raw,
        "query_string": query,
        "root_path": "",
        "server": ("127.0.0.1", 7860),
        "client": ("127.0.0.1", 1),
        "headers": [(b"host", b"127.0.0.1:7860")],
    }
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"], b"".join(m.get("body", b"") for m in sent[1:])


def test_layers_are_whole(engine: Engine, tmp_path: Path) -> None:
    server = build(engine, server_options(tmp_path))
    assert isinstance(server, SecurityLayer) and isinstance(server.app, FastAPI)
