"""What is put around Gradio's application, here around one that answers as it is told."""

import asyncio

import pytest
from httpx import ASGITransport, AsyncClient, Response
from starlette.responses import Response as Answer
from starlette.responses import StreamingResponse
from starlette.types import ASGIApp

from app.middleware.gradio_pages import FirstLook, OnlyKnownRoutes

PAGE = "<html><head><title>ä</title></head><body>…</body></html>"
HTML = {"accept": "text/html"}


def ask(application: ASGIApp, path: str = "/new", method: str = "GET", **headers: str) -> Response:
    async def send() -> Response:
        async with AsyncClient(
            transport=ASGITransport(application), base_url="http://localhost"
        ) as client:
            return await client.request(method, path, headers=headers)

    return asyncio.run(send())


def test_the_script_is_in_every_page_and_in_nothing_else() -> None:
    page = ask(FirstLook(Answer(PAGE, media_type="text/html")), **HTML)
    assert page.text.startswith("<html><head><title>ä</title><style>.opd-first-look{")
    assert page.text.count("</script></head><body>…</body></html>") == 1
    assert int(page.headers["content-length"]) == len(page.content)
    pieces = StreamingResponse(iter([PAGE[:20], PAGE[20:]]), media_type="text/html")
    assert ask(FirstLook(pieces), **HTML).text == page.text
    for other in (Answer(PAGE, media_type="text/css"), Answer(b"", 204)):
        assert ask(FirstLook(other), **HTML).content == other.body
    same = FirstLook(Answer(PAGE, media_type="text/html"))
    assert ask(same, accept="*/*").text == PAGE
    assert ask(same, method="POST", **HTML).text == PAGE


@pytest.mark.parametrize(
    ("path", "advised"),
    [
        ("/studio/", "/studio"),
        ("/a/b/run", "/a/b"),
        ("/nothing", None),
        ("/<script>/x", None),
        ("//evil.example/x", None),
    ],
)
def test_an_address_without_a_page_has_one(path: str, advised: str | None) -> None:
    missing = FirstLook(Answer('{"detail":"Not Found"}', 404, media_type="application/json"))
    page = ask(missing, f"http://localhost{path}", **HTML)
    assert page.status_code == 404 and "There is no page at this address" in page.text
    assert (f"--root-path {advised}<" in page.text) == (advised is not None)
    assert ("--root-path" in page.text) == (advised is not None)
    assert "<script" not in page.text
    assert ask(missing, path="/x", accept="*/*").json() == {"detail": "Not Found"}


def test_routes_that_no_page_needs_are_closed() -> None:
    inside = OnlyKnownRoutes(Answer("inside"))
    for path in ("/gradio_api/file=/etc/passwd", "/login", "/gradio_api/upload", "/monitoring"):
        assert ask(inside, path).status_code == 404
    for path in ("/", "/new", "/gradio_api/queue/join", "/config"):
        assert ask(inside, path).text == "inside"
