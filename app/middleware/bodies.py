"""Bodies of requests, within their limits of size and time: read whole before a route sees them, or
counted while it reads them.
"""

import asyncio
import contextlib
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from app.middleware.refusals import Refusal

MAX_BODY_BYTES = 2_000_000
DRAIN_BYTES, DRAIN_SECONDS = 100_000_000, 5.0


class CountedBody:
    """The `receive` of a large body: over the limit, or after a long silence, the client is gone as
    far as the route can see, and `refusal` says why."""

    def __init__(self, receive: Receive, limit: int, seconds: float) -> None:
        self._receive = receive
        self._limit = limit
        self._seconds = seconds
        self._count = 0
        self.complete = False
        self.refusal: Refusal | None = None

    async def receive(self) -> Message:
        if self.refusal is not None:
            return {"type": "http.disconnect"}
        if self.complete:
            return await self._receive()
        try:
            async with asyncio.timeout(self._seconds):
                message = await self._receive()
        except TimeoutError:
            return self._refuse(408, f"nothing came for {self._seconds:g} seconds")
        if message["type"] != "http.request":
            self.complete = True
            return message
        self._count += len(message.get("body", b""))
        if self._count > self._limit:
            return self._refuse(413, too_large(self._limit))
        self.complete = not message.get("more_body", False)
        return message

    def sending(self, send: Send) -> Send:
        """A `send` that keeps back what the route answers to a body that was refused."""

        async def kept(message: Message) -> None:
            if self.refusal is None:
                await send(message)

        return kept

    def _refuse(self, status: int, message: str) -> Message:
        self.refusal = Refusal(status, message)
        return {"type": "http.disconnect"}


def too_large(limit: int) -> str:
    return f"the file is over the limit of {limit / 1e6:,.0f} MB (opd serve --upload-limit)"


def check_length(scope: Scope, limit: int, refusal: str) -> None:
    """Refuses a body by the length that its header states."""
    declared = Headers(scope=scope).get("content-length", "0")
    if not declared.isdecimal():
        raise Refusal(400, "Content-Length is not a number")
    if len(declared) > 12 or int(declared) > limit:
        raise Refusal(413, refusal)


async def read_body(scope: Scope, receive: Receive, seconds: float) -> bytes:
    """The whole body, counted while it comes in. Raises Refusal when too large or too slow."""
    refusal = f"the body is over the limit of {MAX_BODY_BYTES} bytes"
    check_length(scope, MAX_BODY_BYTES, refusal)
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise Refusal(400, "the client disconnected before its request was complete")
                body += message.get("body", b"")
                if len(body) > MAX_BODY_BYTES:
                    raise Refusal(413, refusal)
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise Refusal(408, f"the body took longer than {seconds:g} seconds") from None


def drain_before_end(
    receive: Receive, send: Send, unless: Callable[[], bool] = lambda: False
) -> Send:
    """Sends the answer, then throws away what still comes in, then ends. `unless`: all has come in.

    A connection closed on a client that is still sending is reset, and the answer lost with it.
    """

    async def patient(message: Message) -> None:
        if message["type"] != "http.response.body" or message.get("more_body") or unless():
            await send(message)
            return
        await send({**message, "more_body": True})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                await _discard(receive)
        await send({"type": "http.response.body", "body": b""})

    return patient


async def _discard(receive: Receive) -> None:
    left = DRAIN_BYTES
    while left > 0:
        message = await receive()
        if message["type"] != "http.request" or not message.get("more_body", False):
            return
        left -= len(message["body"])


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body read before, then whatever the client sends next."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return first.pop() if first else await receive()

    return replayed
