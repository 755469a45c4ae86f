"""Whose call of an endpoint it is, for the REST route that answers it within the process."""

from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr
from gradio.context import LocalContext
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send


@contextmanager
def call_by(request: Request | None) -> Iterator[None]:
    """Inside, endpoints are called by whoever sent the request, as they are when Gradio does."""
    token = LocalContext.request.set(None if request is None else gr.Request(request))
    try:
        yield
    finally:
        LocalContext.request.reset(token)


def as_caller(site: ASGIApp) -> ASGIApp:
    """The site, asked by whoever calls the endpoint that is running now."""
    call = LocalContext.request.get(None)
    request = call.request if call is not None else None
    state = dict(request.scope.get("state", {})) if request is not None else {}

    async def with_state(scope: Scope, receive: Receive, send: Send) -> None:
        await site({**scope, "state": state}, receive, send)

    return with_state
