"""The outermost layer: every request passes here before any route, Gradio's own included.

In order: header size, Host allow-list, same origin, token, body size and time. What is refused is
refused before a route sees it. Bodies are read here whole (they are small by the limit), so that
no route can meet one that is too large, too slow or cut off; that of an upload is counted while
its route reads it.
"""

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote_plus, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.access import Caller, Tokens
from app.frames import NO_FRAMES, Frames
from app.middleware.bodies import (
    CountedBody,
    check_length,
    drain_before_end,
    read_body,
    replay,
    too_large,
)
from app.middleware.refusals import Refusal, foreign_origin, refusal_response, unknown_host
from app.origins import Origins

UPLOADS = "/api/v1/uploads"  # the one route with a limit of its own
MAX_HEADER_BYTES = 32_000
MAX_TARGET_BYTES = 8_000
SAFE_METHODS = ("GET", "HEAD")
COOKIE_SECONDS = 30 * 24 * 3600
CONTENT_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",  # Gradio evaluates its templates
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
    )
)
RESPONSE_HEADERS = {
    "x-content-type-options": "nosniff",
    # "no-referrer" would make browsers send `Origin: null` with same-origin forms
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


@dataclass(frozen=True)
class Policy:
    """Who may ask, and how much. `guard_reads`: reading needs a token too."""

    origins: Origins
    tokens: Tokens
    guard_reads: bool
    root_path: str = ""
    body_seconds: float = 30.0
    frames: Frames = NO_FRAMES
    upload_bytes: int = 0

    def takes_upload(self, scope: Scope) -> bool:
        """Whether the request is for the one route whose body is not read whole here."""
        path = scope["path"].removeprefix(self.root_path)
        return bool(self.upload_bytes and scope["method"] == "POST" and path == UPLOADS)

    @property
    def response_headers(self) -> dict[str, str]:
        """The headers of every answer."""
        policy = f"{CONTENT_POLICY}; frame-ancestors {self.frames.ancestors}"
        by_frames = {} if self.frames.origins else {"x-frame-options": "DENY"}
        return {"content-security-policy": policy} | RESPONSE_HEADERS | by_frames


class SecurityLayer:
    """ASGI middleware that applies a Policy to every HTTP request and websocket."""

    def __init__(self, app: ASGIApp, policy: Policy) -> None:
        self.app = app
        self.policy = policy
        self._headers = policy.response_headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            send = _with_headers(_with_own_path(send, scope, self.policy.root_path), self._headers)
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            caller = self._judge(scope)
            if link := _token_link(scope, self.policy):
                await link(scope, receive, send)
                return
            if self.policy.takes_upload(scope):
                await self._stream(self._inner_scope(scope, caller), receive, send)
                return
            body = await read_body(scope, receive, self.policy.body_seconds)
        except Refusal as refusal:
            if refusal.status == 413:
                send = drain_before_end(receive, send)
            await refusal_response(scope, refusal)(scope, receive, send)
            return
        await self.app(self._inner_scope(scope, caller), replay(body, receive), send)

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets the route read the body itself. Raises Refusal where it must not go on."""
        limit = self.policy.upload_bytes
        check_length(scope, limit, too_large(limit))
        body = CountedBody(receive, limit, self.policy.body_seconds)
        answer = body.sending(drain_before_end(receive, send, unless=lambda: body.complete))
        await self.app(scope, body.receive, answer)
        if body.refusal is not None:
            raise body.refusal

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            caller = self._judge(scope)
        except Refusal as refusal:
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": refusal.message[:120]})
            return
        await self.app(self._inner_scope(scope, caller), receive, send)

    def _judge(self, scope: Scope) -> Caller:
        """Who sends the request, and may. Raises Refusal."""
        _check_sizes(scope)
        headers = Headers(scope=scope)
        writes = scope["type"] == "websocket" or scope["method"] not in SAFE_METHODS
        self._check_host(scope, headers)
        self._check_origin(headers, writes)
        caller = self._caller(scope, headers, writes)
        if writes and caller.access == "view":
            raise Refusal(403, "this link is view-only: it can read everything and change nothing")
        if caller.access == "none" and (writes or self.policy.guard_reads):
            raise Refusal(
                401,
                "a token is needed: open the link that `opd serve` printed, "
                "or send the header `Authorization: Bearer TOKEN`",
            )
        return caller

    def _check_host(self, scope: Scope, headers: Headers) -> None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self.policy.origins.knows(hosts[0], scope.get("server")):
            raise unknown_host(hosts[0][:80] if hosts else "none")

    def _check_origin(self, headers: Headers, writes: bool) -> None:
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        foreign = "the request comes from another site; open the dashboard by its own address"
        if origin is not None and not self.policy.origins.same(origin, headers):
            raise foreign_origin(self.policy.origins, origin, headers.get("host", "none"))
        if writes:
            if site not in (None, "same-origin"):
                raise Refusal(403, foreign)
            if site is None and origin is None and "authorization" not in headers:
                raise Refusal(
                    403,
                    "a request that changes something needs `Authorization: Bearer TOKEN` "
                    "unless a browser states its origin",
                )
        elif site in ("cross-site", "same-site") and not self._opens_page(headers):
            raise Refusal(403, foreign)

    def _opens_page(self, headers: Headers) -> bool:
        """A whole page, not an image or script: by a link that a person followed, or in a frame,
        of which browsers show only those on the pages that the content policy names."""
        shown = ("document", "iframe") if self.policy.frames.origins else ("document",)
        mode, destination = headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")
        return mode == "navigate" and destination in shown

    def _caller(self, scope: Scope, headers: Headers, writes: bool) -> Caller:
        """By bearer header, `?token=`, or cookie; a wrong header or link is refused, not ignored.

        A cookie travels with requests from anywhere, so it opens writes only for a browser that
        says where they come from.
        """
        stated = [self.policy.tokens.caller(given) for given in _stated(scope, headers)]
        if any(one.access == "none" for one in stated):
            raise Refusal(401, "the token is wrong: open the link that `opd serve` printed")
        if stated:
            return stated[0]
        if writes and "sec-fetch-site" not in headers and "origin" not in headers:
            return Caller("none")
        return self.policy.tokens.of_cookies(headers.getlist("cookie"))

    def _inner_scope(self, scope: Scope, caller: Caller) -> Scope:
        """What the routes see: who asks, a proxy's prefix, and no forwarding header that nobody
        vouches for."""
        state: MutableMapping[str, Any] = {**scope.get("state", {}), "caller": caller}
        headers = self.policy.origins.without_untrusted(scope["headers"])
        below = _below(self.policy.root_path, scope)
        return {**scope, "state": state, "headers": headers, **below}


def _below(prefix: str, scope: Scope) -> Scope:
    """Path and prefix as ASGI has them: the path with the prefix, which a proxy may have cut."""
    if not prefix or f"{scope['path']}/".startswith(f"{prefix}/"):
        return {"root_path": prefix or scope.get("root_path", "")}
    raw = prefix.encode() + (scope.get("raw_path") or scope["path"].encode())
    return {"root_path": prefix, "path": prefix + scope["path"], "raw_path": raw}


def _check_sizes(scope: Scope) -> None:
    if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > MAX_TARGET_BYTES:
        raise Refusal(414, f"the address is over the limit of {MAX_TARGET_BYTES} bytes")
    if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADER_BYTES:
        raise Refusal(431, f"the headers are over the limit of {MAX_HEADER_BYTES} bytes")


def _stated(scope: Scope, headers: Headers) -> list[str]:
    """Tokens that the request states on purpose, the header's before the link's."""
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    bearer = [credentials.strip()] if scheme.lower() == "bearer" else []
    return bearer + _link_tokens(scope)


def _link_tokens(scope: Scope) -> list[str]:
    if scope["type"] != "http" or scope["method"] not in SAFE_METHODS:
        return []
    query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    return [value for name, value in query if name == "token"]


def _token_link(scope: Scope, policy: Policy) -> Response | None:
    """For `?token=…`: the same address without it, and a cookie that holds it from now on."""
    tokens = _link_tokens(scope)
    if not tokens:
        return None
    prefix = policy.root_path
    path = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1").partition("?")[0]
    if not f"{path}/".startswith(f"{prefix}/"):
        path = prefix + path
    path = "/" + path.lstrip("/\\")  # "//name" would lead to another host
    parts = scope["query_string"].decode("latin-1").split("&")
    kept = "&".join(p for p in parts if unquote_plus(p.partition("=")[0]) != "token")
    if policy.origins.behind_proxy and not prefix:  # which may have cut a prefix nobody told of
        path = "./" + path.rpartition("/")[2]
    response = RedirectResponse(f"{path}?{kept}" if kept else path, status_code=303)
    secure = scope["scheme"] == "https"
    across_sites = secure and policy.frames.across_sites(Headers(scope=scope)["host"])
    others = policy.tokens.other_cookies(tokens[0], Headers(scope=scope).getlist("cookie"))
    for name in (policy.tokens.cookie_of(tokens[0]), *others):
        response.set_cookie(
            name,
            "" if name in others else tokens[0],
            max_age=0 if name in others else COOKIE_SECONDS,
            path=prefix or "/",
            secure=secure,
            httponly=True,
            samesite="none" if across_sites else "lax",
        )
    if across_sites:  # Python's own cookies know the word from 3.14 on
        response.raw_headers[:] = [
            (name, value + b"; Partitioned" * (name == b"set-cookie"))
            for name, value in response.raw_headers
        ]
    response.headers["cache-control"] = "no-store"
    return response


def _with_own_path(send: Send, scope: Scope, prefix: str) -> Send:
    """Redirects by path alone, below the prefix: what they were made of, Host and scheme, may not
    be what the browser asked for."""

    async def kept(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            to = urlsplit(headers.get("location", ""))
            if to.path.startswith("/") and to.netloc in ("", Headers(scope=scope).get("host")):
                path = "/" + to.path.lstrip("/\\")  # "//name" would lead to another host
                path = path if f"{path}/".startswith(f"{prefix}/") else prefix + path
                headers["location"] = f"{path}?{to.query}" if to.query else path
        await send(message)

    return kept


def _with_headers(send: Send, added: dict[str, str]) -> Send:
    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            message.setdefault("headers", [])
            headers = MutableHeaders(scope=message)
            for name, value in added.items():
                headers[name] = value
        await send(message)

    return guarded
