"""Around Gradio's application: closes routes, and adds to its pages what must not be a module."""

import re
from html import escape

from starlette._utils import get_route_path
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.http.replies import Json
from app.middleware.refusals import page, wants_page
from app.scripts import STATIC

# What Gradio's pages and clients of its endpoints need of its routes. Uploads, files by path,
# proxying, monitoring and editing are not among it, and what a later version adds is not until it
# is named here.
GRADIO_API = (
    "app_id",
    "call/",
    "cancel",
    "heartbeat/",
    "info",
    "queue/",
    "reset",
    "startup-events",
    "theme.css",
)
GRADIO_CLOSED = ("login", "logout", "monitoring", "custom_component", "openapi.json")
STYLE = (
    ".opd-first-look{position:relative;z-index:1000;margin:1rem;padding:.8rem 1rem;"
    "border-left:4px solid #c62f2f;background:#fdf0f0;color:#1c2024;"
    "font:15px/1.5 system-ui,sans-serif}.opd-first-look p{margin:.2rem 0}"
    ".opd-first-look pre{margin:.1rem 0 .4rem;padding:.3rem .5rem;background:#fff;"
    "overflow-x:auto;font:14px/1.5 ui-monospace,monospace}"
)
PREFIX = r"(/[A-Za-z0-9._~-]+)+"


class OnlyKnownRoutes:
    """ASGI middleware that closes the routes no page of ours needs."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not _is_open(get_route_path(scope)):
            await Json({"error": "there is nothing at this address"}, 404)(scope, receive, send)
            return
        await self.app(scope, receive, send)


class FirstLook:
    """ASGI middleware that puts static/lib/server/first_look.js into each page, and gives whoever
    asks for a page that is not there one that says so."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        script = (STATIC / "lib" / "server" / "first_look.js").read_text(encoding="utf-8")
        self._addition = f"<style>{STYLE}</style><script>{script}</script></head>".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET" or not wants_page(scope):
            await self.app(scope, receive, send)
            return
        held: list[Message] = []  # a page, until it is whole

        async def hold(message: Message) -> None:
            if held or _is_page(message):
                held.append(message)
            else:
                await send(message)

        await self.app(scope, receive, hold)
        if held and held[0]["status"] == 404:
            await _no_page(scope)(scope, receive, send)
        elif held:
            await self._send_page(held, send)

    async def _send_page(self, held: list[Message], send: Send) -> None:
        body = b"".join(message["body"] for message in held[1:])
        body = body.replace(b"</head>", self._addition, 1)
        MutableHeaders(raw=held[0]["headers"])["content-length"] = str(len(body))
        await send(held[0])
        await send({"type": "http.response.body", "body": body})


def _is_page(message: Message) -> bool:
    if message["type"] != "http.response.start":
        return False
    kind = Headers(raw=message["headers"]).get("content-type", "")
    return message["status"] == 404 or kind.startswith("text/html")


def _no_page(scope: Scope) -> Response:
    """Names the prefix that a proxy may have left in the path."""
    prefix = get_route_path(scope).rpartition("/")[0]
    is_prefix = re.fullmatch(PREFIX, prefix) is not None
    advice = (
        f"<p>If a proxy leaves <code>{escape(prefix)}</code> in the address, start the server with "
        f"<code>--root-path {escape(scope.get('root_path', '') + prefix)}</code>.</p>"
    )
    return page(
        404,
        "There is no page at this address",
        f'<p><a href="{escape(scope.get("root_path", ""))}/">All runs</a></p>' + advice * is_prefix,
    )


def _is_open(path: str) -> bool:
    first, _, rest = path.lstrip("/").partition("/")
    if first == "gradio_api":
        return rest.startswith(GRADIO_API)
    return first not in GRADIO_CLOSED
