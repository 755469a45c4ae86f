"""The security layer by itself, around an application that records what reaches it."""

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from httpx import ASGITransport, AsyncClient, Response
from starlette.types import Message, Receive, Scope, Send

from app.access import Caller, Tokens
from app.middleware import bodies
from app.middleware.bodies import MAX_BODY_BYTES
from app.security import Policy, SecurityLayer
from app.server import ServerOptions, policy
from storage.data_dir import DataDir

TOKEN = "full-" + "t" * 38
VIEW = "view-" + "v" * 38
HOME = "http://127.0.0.1:7860"
BEARER = {"authorization": f"Bearer {TOKEN}"}
SAME = {"sec-fetch-site": "same-origin", "origin": HOME}
COOKIE = {"cookie": f"opd_token_7860={TOKEN}"}
VIEW_COOKIE = {"cookie": f"opd_token_7860={VIEW}"}
NAMED_COOKIE = {"cookie": f"{Tokens(TOKEN, VIEW).cookie}={TOKEN}"}
LINK = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


class Recorder:
    """An ASGI application that answers 200 and keeps what it was asked."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            return
        message = await receive()
        assert not message["more_body"]
        self.bodies.append(message["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"inside"})


def options(**changes: Any) -> ServerOptions:
    return ServerOptions(
        **{"data_dir": DataDir(Path("/nonexistent")), "token": TOKEN, "view_token": VIEW} | changes
    )


def ask(
    method: str = "GET",
    url: str = "/api/v1/runs",
    headers: dict[str, str] | None = None,
    *,
    served: ServerOptions | None = None,
    content: Any = None,
) -> tuple[Response, Recorder]:
    """Sends one request through a layer; the answer, and what came through."""
    inside = Recorder()
    layer = SecurityLayer(inside, policy(served or options()))

    async def send() -> Response:
        transport = ASGITransport(layer)
        async with AsyncClient(transport=transport, base_url=HOME) as client:
            return await client.request(method, url, headers=headers, content=content)

    return asyncio.run(send()), inside


def status(method: str = "GET", headers: dict[str, str] | None = None, **more: Any) -> int:
    response, inside = ask(method, headers=headers, **more)
    assert bool(inside.scopes) == (response.status_code == 200)
    return response.status_code


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:7860",
        "localhost",
        "LOCALHOST:9999",
        "[::1]:7860",
        "studio.example:80",
        "10.0.0.7",
    ],
)
def test_known_hosts_pass_on_any_port(host: str) -> None:
    served = options(allow_hosts=["Studio.Example", "10.0.0.7"])
    assert status(headers={"host": host}, served=served) == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "evil.example:7860",
        "evil.example@127.0.0.1",
        "127.0.0.1:7860@evil.example",
        "127.0.0.1:port",
        "127.0.0.1/evil",
        "0.0.0.0:7860",
        "169.254.169.254",
        "[::ffff:127.0.0.1]",
        "xn--localhost-.example",
        "localhost\t",
        "",
    ],
)
def test_foreign_hosts_are_refused(host: str) -> None:
    assert status(headers={"host": host, **BEARER}) == 403


def test_two_host_headers_are_refused() -> None:
    scope = http_scope(headers=[(b"host", b"localhost"), (b"host", b"evil.example")])
    assert asyncio.run(call(policy(options()), scope))[0]["status"] == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PURGE"])
@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (SAME | COOKIE, 200),
        ({"sec-fetch-site": "same-origin"} | COOKIE, 200),
        ({"origin": HOME} | COOKIE, 200),
        (BEARER, 200),
        (SAME | BEARER, 200),
        (COOKIE, 403),
        ({}, 403),
        ({"authorization": "Basic eDp5"} | COOKIE, 401),
        (SAME, 401),
        (SAME | {"authorization": "Bearer wrong"}, 401),
        (SAME | COOKIE | {"authorization": "Bearer wrong"}, 401),
        (SAME | {"cookie": "opd_token_7860=wrong"}, 401),
        (SAME | {"cookie": f"opd_token_9999={TOKEN}"}, 401),
        (SAME | NAMED_COOKIE, 200),
        (SAME | NAMED_COOKIE | {"cookie": f"{NAMED_COOKIE['cookie']}x"}, 401),
        (SAME | VIEW_COOKIE, 403),
        ({"authorization": f"Bearer {VIEW}"}, 403),
        (BEARER | {"origin": "https://evil.example"}, 403),
        (BEARER | {"origin": "null"}, 403),
        (COOKIE | {"origin": "null"}, 403),
        (COOKIE | {"origin": "http://127.0.0.1:8000"}, 403),
        (COOKIE | {"origin": "http://127.0.0.1:7860.evil.example"}, 403),
        (COOKIE | {"origin": "http://user@127.0.0.1:7860"}, 403),
        (COOKIE | {"origin": "http://127.0.0.1:7860/path"}, 403),
        (COOKIE | {"origin": "file://"}, 403),
        (COOKIE | {"origin": "http://[", "sec-fetch-site": "same-origin"}, 403),
        (COOKIE | {"origin": HOME, "sec-fetch-site": "cross-site"}, 403),
        (COOKIE | {"origin": HOME, "sec-fetch-site": "same-site"}, 403),
        (COOKIE | {"origin": HOME, "sec-fetch-site": "none"}, 403),
        (BEARER | {"sec-fetch-site": "cross-site"}, 403),
        (COOKIE | LINK, 403),
    ],
)
def test_writes(method: str, headers: dict[str, str], expected: int) -> None:
    assert status(method, headers) == expected


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("headers", "here", "beyond"),
    [
        ({}, 200, 401),
        (COOKIE, 200, 200),
        (VIEW_COOKIE, 200, 200),
        (BEARER, 200, 200),
        ({"authorization": "Bearer wrong"}, 401, 401),
        ({"authorization": "Bearer "}, 401, 401),
        ({"cookie": "opd_token_7860=stale"}, 200, 401),
        (LINK, 200, 401),
        (LINK | COOKIE, 200, 200),
        (LINK | COOKIE | {"sec-fetch-dest": "iframe"}, 403, 403),
        (COOKIE | {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, 403, 403),
        (COOKIE | {"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"}, 403, 403),
        (COOKIE | {"origin": "https://evil.example"}, 403, 403),
        (COOKIE | {"origin": "null"}, 403, 403),
        (COOKIE | SAME, 200, 200),
    ],
)
def test_reads(method: str, headers: dict[str, str], here: int, beyond: int) -> None:
    assert status(method, headers) == here
    afar = options(host="0.0.0.0")
    assert status(method, headers | {"host": "127.0.0.1:7860"}, served=afar) == beyond


def test_a_tunnel_may_change_the_port() -> None:
    through = {"host": "localhost:9000", "origin": "http://localhost:9000"} | COOKIE
    assert status("POST", through) == 200
    assert status("POST", through | {"origin": "http://localhost:9001"}) == 403


def test_a_proxy_is_believed_only_by_name() -> None:
    proxied = COOKIE | {"origin": "https://studio.example", "x-forwarded-host": "studio.example"}
    assert status("POST", proxied) == 403
    assert status("POST", proxied, served=options(root_path="/x")) == 403
    named = options(allow_hosts=["studio.example"])
    assert status("POST", proxied, served=named) == 200
    assert status("POST", proxied | {"x-forwarded-host": "evil.example"}, served=named) == 403
    assert status("POST", proxied | {"host": "studio.example"}, served=named) == 200


REWRITTEN = {"origin": "https://studio.example"}  # Host is the loopback's, as nginx leaves it
SAME_SITE = {"sec-fetch-site": "same-origin"}
OTHER_PORT = {"origin": "http://studio.example:8080"}


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        # the name is allowed, and the browser says that it stays on the site: whatever the port
        (REWRITTEN | SAME_SITE, 200),
        (OTHER_PORT | SAME_SITE, 200),
        (OTHER_PORT | SAME_SITE | {"host": "studio.example"}, 200),
        (OTHER_PORT | SAME_SITE | {"x-forwarded-host": "studio.example"}, 200),
        ({"origin": "http://localhost:9000"} | SAME_SITE, 200),
        # browsers that say nothing: only at the port that addresses leave out
        (REWRITTEN, 200),
        ({"origin": "http://studio.example"}, 200),
        (OTHER_PORT, 403),
        (OTHER_PORT | {"host": "studio.example"}, 403),
        ({"origin": "https://studio.example:8443", "host": "studio.example"}, 403),
        ({"origin": "http://localhost:9000"}, 403),
        # another site, or another port of this one
        (REWRITTEN | {"sec-fetch-site": "same-site"}, 403),
        (OTHER_PORT | {"sec-fetch-site": "same-site", "host": "studio.example"}, 403),
        (REWRITTEN | {"sec-fetch-site": "cross-site"}, 403),
        (REWRITTEN | {"sec-fetch-site": "none"}, 403),
        ({"origin": "https://evil.example"} | SAME_SITE, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "https://a.studio.example"} | SAME_SITE, 403),
        ({"origin": "https://studio.example.evil.example"} | SAME_SITE, 403),
        ({"origin": "null"} | SAME_SITE, 403),
        # a name that was made to lead here
        ({"origin": "http://evil.example", "host": "evil.example"} | SAME_SITE, 403),
        (REWRITTEN | SAME_SITE | {"x-forwarded-host": "evil.example"}, 403),
        ({"origin": "http://evil.example", "x-forwarded-host": "evil.example"} | SAME_SITE, 403),
    ],
)
def test_a_proxy_that_rewrites_the_host(headers: dict[str, str], expected: int) -> None:
    named = options(allow_hosts=["studio.example"])
    assert status("POST", COOKIE | headers, served=named) == expected
    unnamed = status("POST", COOKIE | headers, served=options())
    assert unnamed == (200 if expected == 200 and "localhost" in headers["origin"] else 403)


def test_a_refused_origin_says_what_is_missing() -> None:
    named = options(allow_hosts=["studio.example"])
    refusal = ask("POST", headers=COOKIE | OTHER_PORT, served=named)[0].json()
    assert (
        "http://studio.example:8080, but the request arrived for 127.0.0.1:7860" in refusal["error"]
    )
    assert refusal["lines"]["nginx"] == "proxy_set_header Host $http_host;"
    refusal = ask("POST", headers=COOKIE | {"origin": "https://evil.example"})[0].json()
    assert "another site (https://evil.example)" in refusal["error"] and "lines" not in refusal


def test_redirects_stay_below_the_prefix_and_on_the_host() -> None:
    async def location(made: str, root_path: str) -> str:
        async def redirecting(_scope: Scope, _receive: Receive, send: Send) -> None:
            headers = [(b"location", made.encode())]
            await send({"type": "http.response.start", "status": 307, "headers": headers})
            await send({"type": "http.response.body", "body": b""})

        layer = SecurityLayer(redirecting, policy(options(root_path=root_path)))
        async with AsyncClient(transport=ASGITransport(layer), base_url=HOME) as client:
            return str((await client.get("/")).headers["location"])

    for made, plain, below in (
        (f"{HOME}/run?id=a", "/run?id=a", "/studio/run?id=a"),
        (f"{HOME}/studio/", "/studio/", "/studio/"),
        ("/new", "/new", "/studio/new"),
        (f"{HOME}//evil.example/x", "/evil.example/x", "/studio/evil.example/x"),
        ("https://elsewhere.example/a", *("https://elsewhere.example/a",) * 2),
        ("./run?id=a", "./run?id=a", "./run?id=a"),
    ):
        assert asyncio.run(location(made, "")) == plain
        assert asyncio.run(location(made, "/studio")) == below


def test_a_prefix_that_nobody_told_of_survives_the_link() -> None:
    named = options(allow_hosts=["studio.example"])
    for path, location in (
        ("/", "./"),
        ("/run?id=a&", "./run?id=a"),
        ("/a/javascript:x?", "./javascript:x"),
        (f"{HOME}//evil.example/?", "./"),
        (f"{HOME}//evil.example?", "./evil.example"),
    ):
        joint = "" if "?" in path else "?"
        response, _ = ask("GET", f"{path}{joint}token={TOKEN}", served=named)
        assert response.headers["location"] == location


def test_forwarding_headers_reach_the_routes_only_behind_a_proxy() -> None:
    given = {
        "x-forwarded-host": "evil.example",
        "x-forwarded-proto": "https",
        "x-gradio-server": "http://evil.example",
        "forwarded": "host=evil.example",
    }
    _, inside = ask(headers=given)
    names = {name for name, _ in inside.scopes[0]["headers"]}
    assert not names & {name.encode() for name in given}
    _, inside = ask(headers=given, served=options(root_path="/studio"))
    kept = dict(inside.scopes[0]["headers"])
    assert kept[b"x-forwarded-proto"] == b"https"
    assert b"x-forwarded-host" not in kept and b"x-gradio-server" not in kept


def test_the_link_becomes_a_cookie_and_leaves_the_address() -> None:
    response, inside = ask("GET", f"/run?id=run-a&token={TOKEN}&x=%26")
    assert response.status_code == 303 and not inside.scopes
    assert response.headers["location"] == "/run?id=run-a&x=%26"
    cookie = response.headers["set-cookie"]
    assert cookie.startswith(f"{policy(options()).tokens.cookie}={TOKEN};")
    for part in ("HttpOnly", "Max-Age=", "Path=/", "SameSite=lax"):
        assert part in cookie
    assert "Secure" not in cookie
    assert "Secure" in ask("GET", f"https://127.0.0.1/?token={TOKEN}")[0].headers["set-cookie"]


@pytest.mark.parametrize(
    ("url", "location"),
    [
        (f"/?token={TOKEN}", "/"),
        (f"/?%74oken={TOKEN}", "/"),
        (f"/?token={VIEW}&a=1", "/?a=1"),
        (f"{HOME}//evil.example/?token={TOKEN}", "/evil.example/"),
        (f"{HOME}/%2f%2fevil.example?token={TOKEN}", "/%2f%2fevil.example"),
        (f"{HOME}/%0d%0aset-cookie:a=b?token={TOKEN}", "/%0d%0aset-cookie:a=b"),
    ],
)
def test_the_link_never_leads_elsewhere(url: str, location: str) -> None:
    response, _ = ask("GET", url)
    assert (response.status_code, response.headers["location"]) == (303, location)
    name = policy(options()).tokens.cookie
    assert response.headers.get_list("set-cookie")[0].startswith(f"{name}=")
    assert len(response.headers.get_list("set-cookie")) == 1


def test_the_link_keeps_a_proxys_prefix() -> None:
    for path in ("/studio/run", "/run"):
        response, _ = ask("GET", f"{path}?token={TOKEN}", served=options(root_path="/studio"))
        assert response.headers["location"] == "/studio/run"
        assert "Path=/studio" in response.headers["set-cookie"]


def test_a_wrong_link_is_refused_and_sets_nothing() -> None:
    for query in ("token=wrong", f"token={TOKEN}&token=wrong", "token="):
        response, inside = ask("GET", f"/?{query}", headers={"accept": "text/html"})
        assert response.status_code == 401 and not inside.scopes
        assert "set-cookie" not in response.headers
        assert "opd serve" in response.text and response.headers["content-type"][:9] == "text/html"
    assert status("POST", SAME, url=f"/?token={TOKEN}") == 401


def test_a_persons_link_takes_the_place_of_another_in_the_same_browser() -> None:
    team = options(named_tokens={"anna": "a" * 20, "ben": "b" * 20})
    tokens = policy(team).tokens
    anna, ben = tokens.cookie_of("a" * 20), tokens.cookie_of("b" * 20)
    held = {"cookie": f"{anna}={'a' * 20}; {tokens.cookie}={VIEW}; other=1"}
    response, _ = ask("GET", f"https://127.0.0.1/?token={'b' * 20}", held, served=team)
    first, *others = response.headers.get_list("set-cookie")
    assert first.startswith(f"{ben}={'b' * 20}; HttpOnly; Max-Age=2592000")
    assert [one.partition(";")[0] for one in others] == sorted(
        [f'{anna}=""', f'{tokens.cookie}=""']
    )
    assert all("Max-Age=0" in one for one in others)
    _, inside = ask(headers={"cookie": f"{ben}={'b' * 20}"}, served=team)
    assert inside.scopes[0]["state"]["caller"] == Caller("full", "ben")
    _, inside = ask("POST", headers={"authorization": f"Bearer {'a' * 20}"}, served=team)
    assert inside.scopes[0]["state"]["caller"] == Caller("full", "anna")


def test_routes_are_told_the_access() -> None:
    for headers, access in ((COOKIE, "full"), (VIEW_COOKIE, "view"), ({}, "none")):
        _, inside = ask(headers=headers)
        assert inside.scopes[0]["state"]["caller"] == Caller(access)


def test_every_answer_carries_the_headers() -> None:
    for response, _ in (ask(), ask(headers={"host": "evil.example"}), ask(url=f"/?token={TOKEN}")):
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["x-frame-options"] == "DENY"
        assert response.headers["referrer-policy"] == "same-origin"
        assert "frame-ancestors 'none'" in response.headers["content-security-policy"]
        assert "access-control-allow-origin" not in response.headers


def test_refusals_say_what_to_do() -> None:
    assert "--allow-host" in ask(headers={"host": "evil.example"})[0].json()["error"]
    assert "Bearer" in ask("POST")[0].json()["error"]
    assert "view-only" in ask("POST", headers=SAME | VIEW_COOKIE)[0].json()["error"]


async def pieces(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b"x" * 65_536


def test_a_large_body_is_refused_without_being_kept() -> None:
    tracemalloc.start()
    response, inside = ask("POST", headers=BEARER, content=pieces(800))  # 52 MB
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert response.status_code == 413 and not inside.scopes
    assert "2000000" in response.json()["error"]
    assert peak < 3 * MAX_BODY_BYTES


def test_an_endless_body_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "DRAIN_BYTES", 10 * MAX_BODY_BYTES)
    response, _ = ask("POST", headers=BEARER, content=pieces(10**9))
    assert response.status_code == 413
    monkeypatch.setattr(bodies, "DRAIN_SECONDS", 0.05)
    headers = [(b"content-length", b"50000000"), *AUTHORISED]
    sent = asyncio.run(call(policy(options()), http_scope("POST", headers), body=None))
    assert sent[0]["status"] == 413 and sent[-1] == {"type": "http.response.body", "body": b""}


def test_a_body_at_the_limit_passes_whole() -> None:
    body = bytes(range(250)) * (MAX_BODY_BYTES // 250)
    response, inside = ask("POST", headers=BEARER, content=body)
    assert response.status_code == 200 and inside.bodies == [body]
    response, inside = ask("POST", headers=BEARER, content=body + b"x")
    assert response.status_code == 413 and not inside.scopes


@pytest.mark.parametrize("length", ["50000000", "9" * 400, "-1", "1e3", "", "0x10"])
def test_a_bad_content_length_is_refused_unread(
    length: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "DRAIN_SECONDS", 0.05)
    scope = http_scope("POST", [(b"content-length", length.encode()), *AUTHORISED])
    start = asyncio.run(call(policy(options()), scope, body=None))[0]
    assert start["status"] == (413 if length.isdecimal() else 400)


def test_a_slow_body_is_given_up() -> None:
    served = policy(options())
    impatient = Policy(served.origins, served.tokens, guard_reads=False, body_seconds=0.05)
    scope = http_scope("POST", AUTHORISED)
    assert asyncio.run(call(impatient, scope, body=None))[0]["status"] == 408


def test_long_headers_and_addresses_are_refused() -> None:
    assert status(headers={"x-long": "x" * 40_000}) == 431
    assert status(url="/" + "x" * 9_000) == 414
    assert status(url="/?" + "x" * 9_000) == 414


@pytest.mark.parametrize(
    ("headers", "accepted"),
    [
        ([(b"origin", HOME.encode()), (b"cookie", f"opd_token_7860={TOKEN}".encode())], True),
        ([(b"authorization", f"Bearer {TOKEN}".encode())], True),
        ([(b"origin", HOME.encode())], False),
        ([(b"cookie", f"opd_token_7860={TOKEN}".encode())], False),
        ([(b"origin", b"https://evil.example"), *[(b"authorization", TOKEN.encode())]], False),
    ],
)
def test_websockets_are_judged_as_writes(
    headers: list[tuple[bytes, bytes]], accepted: bool
) -> None:
    scope = http_scope(headers=[(b"host", b"127.0.0.1:7860"), *headers]) | {"type": "websocket"}
    del scope["method"]
    sent = asyncio.run(call(policy(options()), scope))
    assert sent[0]["type"] == ("websocket.accept" if accepted else "websocket.close")
    scope["headers"][0] = (b"host", b"evil.example")
    assert asyncio.run(call(policy(options()), scope))[0]["type"] == "websocket.close"


AUTHORISED = [(b"host", b"127.0.0.1:7860"), (b"authorization", f"Bearer {TOKEN}".encode())]


def http_scope(method: str = "GET", headers: list[tuple[bytes, bytes]] | None = None) -> Scope:
    return {
        "type": "http",
        "method": method,
        "scheme": "http",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "server": ("127.0.0.1", 7860),
        "headers": headers or [],
    }


async def call(rules: Policy, scope: Scope, body: bytes | None = b"") -> list[Message]:
    """The layer's messages for a raw scope; without a body the client never sends one."""
    sent: list[Message] = []

    async def receive() -> Message:
        if body is None:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await SecurityLayer(Recorder(), rules)(scope, receive, send)
    return sent


def test_without_a_token_nothing_can_be_changed() -> None:
    closed = options(token=None, view_token=None)
    for bearer in ({}, {"authorization": "Bearer None"}, {"authorization": "Bearer"}):
        assert status("POST", SAME | bearer, served=closed) == 401
    assert status(served=closed) == 200
