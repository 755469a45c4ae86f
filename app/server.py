"""Puts the dashboard together: security layer, REST, static files, Gradio's pages."""

import asyncio
import importlib
import os
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from sqlalchemy import Engine
from starlette._utils import get_route_path
from starlette.responses import Response
from starlette.types import ASGIApp

from app.access import Tokens
from app.api import (
    comparison,
    configs,
    diagnosis,
    doctor,
    experiments,
    insights,
    lab,
    marks,
    model_requests,
    related,
    rollouts,
    run_table,
    runs,
    system,
)
from app.api.files import exports, reports, sources, uploads
from app.api.http.replies import Error, Json, Problems, add_error_handlers
from app.frames import frames_of
from app.middleware.gradio_pages import FirstLook, OnlyKnownRoutes
from app.origins import is_loopback, origins_of
from app.page_files import PageFiles
from app.security import Policy, SecurityLayer
from app.sources.roots import NO_ROOTS, SourceOptions
from opd.errors import UserError
from opd.network import proxies_ignored
from storage.data_dir import DataDir

ROUTERS = tuple(
    part.router
    for part in (
        *(run_table, runs, comparison, experiments, insights, diagnosis),
        *(rollouts, related, lab, marks),
        *(configs, doctor, model_requests, reports, exports, sources, uploads, system),
    )
)
ALL_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]


@dataclass(frozen=True)
class ServerOptions:
    """How the server is reached. Without `token` and `named_tokens`, no writes at all.

    `trouble()` says why no run would start, "" where one would."""

    data_dir: DataDir
    host: str = "127.0.0.1"
    port: int = 7860
    token: str | None = None
    view_token: str | None = None
    named_tokens: Mapping[str, str] = field(default_factory=dict)  # by person
    allow_hosts: Sequence[str] = ()
    root_path: str = ""
    mcp: bool = False
    allow_frames: Sequence[str] = ()
    sources: SourceOptions = NO_ROOTS
    trouble: Callable[[], str] = str


def build(engine: Engine, options: ServerOptions) -> ASGIApp:
    """The whole application. Imports Gradio, which takes seconds; call it outside an event loop.

    Raises UserError."""
    layer = policy(options)
    site = rest_app(engine, options)
    asyncio.run(_mount_pages(site, options))
    return SecurityLayer(site, layer)


def policy(options: ServerOptions) -> Policy:
    """The security rules that follow from the options. Raises UserError."""
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)*", options.root_path):
        raise UserError("must look like /studio, without a slash at its end", where="--root-path")
    reached_from_afar = not is_loopback(options.host)
    if reached_from_afar and not (options.token or options.named_tokens):
        raise UserError(f"is required when bound to {options.host}", where="--token")
    if options.view_token and options.view_token in (options.token, *options.named_tokens.values()):
        raise UserError("must differ from the view-only token", where="--token")
    origins = origins_of(options.host, options.allow_hosts, options.root_path)
    return Policy(
        origins=origins,
        tokens=Tokens(
            *(options.token, options.view_token, f"opd_token_{options.port}"), options.named_tokens
        ),
        guard_reads=reached_from_afar,
        root_path=options.root_path,
        frames=frames_of(options.allow_frames, origins),
        upload_bytes=options.sources.upload_bytes,
    )


def rest_app(engine: Engine, options: ServerOptions) -> FastAPI:
    """REST and static files, without pages and without the security layer."""
    site = FastAPI(
        title="OPD Studio",
        openapi_url="/api/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        responses={404: {"model": Error}, 409: {"model": Error}, 422: {"model": Problems}},
    )
    site.state.engine = engine
    site.state.data_dir = options.data_dir
    site.state.sources = options.sources
    site.state.trouble = options.trouble
    add_error_handlers(site)
    for router in ROUTERS:
        site.include_router(router)
    site.add_api_route("/api/{rest:path}", _unknown, methods=ALL_METHODS, include_in_schema=False)
    site.mount("/static", PageFiles())
    return site


async def _mount_pages(site: FastAPI, options: ServerOptions) -> None:
    """Gradio opens an event loop, with its sockets, for each lock it makes outside of one."""
    gradio = _imported_gradio(options.mcp)
    from app.pages import build_pages, mount_options  # noqa: PLC0415 - imports gradio

    pages = build_pages(site)
    if options.mcp:
        from app.programs.mcp_server import add_tools  # noqa: PLC0415 - needs an extra

        add_tools(site, pages)
    with warnings.catch_warnings():
        # said of every application with several pages, also when SSR is off as here
        warnings.filterwarnings("ignore", message="SSR mode is not supported with multi-page")
        gradio.mount_gradio_app(
            site,
            pages,
            path="/",
            server_name=options.host,
            server_port=options.port,
            root_path=options.root_path or None,
            mcp_server=False,
            enable_monitoring=False,
            **mount_options(),
        )
    mounted = site.router.routes[-1]
    for layer in (OnlyKnownRoutes, FirstLook):  # the last one is the outermost
        mounted.app.add_middleware(layer)  # type: ignore[attr-defined]


def _imported_gradio(with_mcp: bool) -> Any:
    """Gradio imports the MCP library wherever it is installed, which takes half a second: only
    where it is used. The import itself takes seconds: only when serving."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    hidden = not with_mcp and "mcp" not in sys.modules
    if hidden:
        sys.modules["mcp"] = None  # type: ignore[assignment]
    try:
        with proxies_ignored():
            import gradio  # noqa: PLC0415
    finally:
        if hidden:
            del sys.modules["mcp"]
    if with_mcp and not hasattr(gradio.mcp.GradioMCPServer, "types"):
        importlib.reload(gradio.mcp)  # a server before this one did without
    return gradio


async def _unknown(request: Request) -> Response:
    """404 for an address without a route, 405 for a route without the method."""
    path = get_route_path(request.scope)
    routes = [route for router in ROUTERS for route in router.routes]
    methods = {m for r in routes if r.path_regex.match(path) for m in r.methods}
    if not methods:
        return Json({"error": "there is nothing at this address"}, 404)
    reply = Json({"error": f"{request.method} is not allowed for this address"}, 405)
    reply.headers["allow"] = ", ".join(sorted(methods))
    return reply
