"""Bodies that a route reads while they come in, counted here."""

import asyncio

from starlette.types import Message, Receive, Send


class CountedBody:
    """The `receive` of a large body: over the limit, or after a long silence, the client is gone as
    far as the route can see, and `refusal` says why: a status and a sentence."""

    def __init__(self, receive: Receive, limit: int, seconds: float) -> None:
        self._receive = receive
        self._limit = limit
        self._seconds = seconds
        self._count = 0
        self.complete = False
        self.refusal: tuple[int, str] | None = None

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
        self.refusal = (status, message)
        return {"type": "http.disconnect"}


def too_large(limit: int) -> str:
    return f"the file is over the limit of {limit / 1e6:,.0f} MB (opd serve --upload-limit)"
