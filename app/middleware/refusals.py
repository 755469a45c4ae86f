"""Refused requests: what a program is told in JSON, and a person on a page.

The pages are plain HTML: they show where a proxy is in the way of scripts too.
"""

from collections.abc import Mapping
from html import escape
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import Scope

from app.origins import Origins

# Which line makes a proxy pass on the name that the browser asked for; the same in docs/proxy.md.
HOST_LINES = {
    "nginx": "proxy_set_header Host $http_host;",
    "Caddy": "header_up Host {hostport}",
    "Traefik": "passHostHeader: true",
}
NEEDS_TOKEN = "This dashboard needs its token"
WRONG_TOKEN = "The token of this link is not the server's"
SIGN_IN = (
    "Open the link that <code>opd serve</code> printed when it started; it ends in "
    "<code>?token=…</code>."
)
NEEDS_COOKIE = (
    "If you did: the token is kept in a cookie, and this browser did not send it. Allow cookies "
    "for this address, private windows and extensions included, then open the link again. In a "
    "frame of another site, open the dashboard in a window of its own."
)
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:44rem;margin:4rem auto;padding:0 1rem;"
    "color:#1c2024;background:#fff}h1{font-size:1.4rem}code,pre{font:14px/1.5 ui-monospace,"
    "monospace;background:#f0f1f4;border-radius:4px;padding:.1em .3em}pre{padding:.6em .8em;"
    "overflow-x:auto}dt{font-weight:600;margin-top:.6rem}dd{margin:0}"
    "@media(prefers-color-scheme:dark){body{color:#e6e8eb;background:#15171a}"
    "code,pre{background:#24282d}}"
)


class Refusal(Exception):
    """A request that goes no further: status, a sentence for whoever sent it, what would help."""

    def __init__(
        self, status: int, message: str, hint: str = "", lines: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.hint = hint
        self.lines = dict(lines or {})  # by proxy, what to write in its configuration


def unknown_host(host: str) -> Refusal:
    return Refusal(
        403,
        f"the host {host!r} is not one of this server's; "
        "start it with --allow-host NAME to reach it by another name",
        "If a proxy put that name in place of the one in your address bar, let it pass on the "
        "header Host, and give that one to --allow-host:",
        HOST_LINES,
    )


def foreign_origin(origins: Origins, origin: str, host: str) -> Refusal:
    """For a page at `origin` whose request arrived for `host`: it is of another site, or of this
    one and a proxy changed the header Host on the way."""
    shown, arrived = origin[:80], host[:80]
    if origins.knows_origin(origin):
        return Refusal(
            403,
            f"the page is at {shown}, but the request arrived for {arrived}: it comes from another "
            "site, or a proxy on the way does not pass on the header Host",
            "Let the proxy pass on that header, port included, and reload it:",
            HOST_LINES,
        )
    return Refusal(
        403,
        f"the request comes from another site ({shown}); open the dashboard by its own address",
        "If this is its own address, behind a proxy, start the server with --allow-host NAME.",
    )


def refusal_response(scope: Scope, refusal: Refusal) -> Response:
    headers = {"cache-control": "no-store"}
    if wants_page(scope) and refusal.status == 401:
        if parse_qs(scope["query_string"], keep_blank_values=True).get(b"token"):
            return page(401, WRONG_TOKEN, f"<p>{SIGN_IN}</p>")
        return page(401, NEEDS_TOKEN, f"<p>{SIGN_IN}</p><p>{NEEDS_COOKIE}</p>")
    if wants_page(scope) and refusal.status == 403:
        return page(403, "The server refused this request", _refusal_html(refusal))
    if refusal.status == 401:
        headers["www-authenticate"] = "Bearer"
    if refusal.status in (408, 413):
        headers["connection"] = "close"
    content = {"error": refusal.message, "hint": refusal.hint, "lines": refusal.lines}
    return JSONResponse({k: v for k, v in content.items() if v}, refusal.status, headers)


def page(status: int, title: str, content: str) -> Response:
    """`content` is HTML."""
    text = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>OPD Studio: {escape(title)}'
        '</title><meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{STYLE}</style><main><h1>{escape(title)}</h1>{content}</main></html>"
    )
    return HTMLResponse(text, status, {"cache-control": "no-store"})


def wants_page(scope: Scope) -> bool:
    """Whether a person is to read the answer."""
    accepted = Headers(scope=scope).get("accept", "")
    return scope["method"] in ("GET", "HEAD") and "text/html" in accepted


def _refusal_html(refusal: Refusal) -> str:
    lines = "".join(
        f"<dt>{escape(name)}</dt><dd><pre>{escape(line)}</pre></dd>"
        for name, line in refusal.lines.items()
    )
    hint = f"<p>{escape(refusal.hint)}</p>" if refusal.hint else ""
    message = refusal.message[:1].upper() + refusal.message[1:]
    more = "<p>More: <code>docs/proxy.md</code>.</p>" if lines else ""
    return f"<p>{escape(message)}.</p>{hint}<dl>{lines}</dl>{more}"
