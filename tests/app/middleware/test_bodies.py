"""Bodies counted while a route reads them."""

import asyncio
from typing import Any

from starlette.types import Message

from app.middleware.bodies import CountedBody


def read(pieces: list[Message], limit: int, times: int = 2) -> tuple[list[Message], CountedBody]:
    """What a route gets that reads so many messages."""

    async def receive() -> Message:
        if not pieces:
            await asyncio.sleep(60)
        return pieces.pop(0)

    async def run() -> list[Message]:
        return [await body.receive() for _ in range(times)]

    body = CountedBody(receive, limit, 0.02)
    return asyncio.run(run()), body


def piece(size: int, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": b"x" * size, "more_body": more}


GONE: Message = {"type": "http.disconnect"}


def test_a_body_within_its_limit_passes() -> None:
    sent = [piece(3), piece(2, more=False), GONE]
    got, body = read([*sent], 5)
    assert got[:2] == sent[:2] and body.complete and body.refusal is None


def test_a_body_over_its_limit_ends_for_the_route() -> None:
    got, body = read([piece(3), piece(3), piece(3), piece(3)], 5, 4)
    assert got == [piece(3), GONE, GONE, GONE]
    assert body.refusal is not None and body.refusal.status == 413 and not body.complete


def test_silence_ends_a_body() -> None:
    got, body = read([piece(1)], 5)
    assert got == [piece(1), GONE] and body.refusal is not None and body.refusal.status == 408


def test_a_client_that_goes_is_not_refused() -> None:
    got, body = read([piece(1), GONE], 5)
    assert got[1] == GONE and body.refusal is None


def test_what_the_route_answers_then_is_kept_back() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    _, fine = read([piece(1, more=False), GONE], 5)
    asyncio.run(fine.sending(send)({"type": "http.response.start"}))
    assert len(sent) == 1
    _, large = read([piece(9)], 5)
    asyncio.run(large.sending(send)({"type": "http.response.start"}))
    assert len(sent) == 1
