"""Pages keep the scripts of an edition, and are never shown those of another for it."""

import asyncio
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from httpx import ASGITransport, AsyncClient, Response
from starlette.applications import Starlette

from app import page_files, pages
from app.scripts import STATIC

SCRIPT = "lib/main.js"


def get(path: str, headers: dict[str, str] | None = None) -> Response:
    site = Starlette()
    site.mount("/static", page_files.PageFiles())

    async def response() -> Response:
        transport = ASGITransport(site)
        async with AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get(f"/static/{path}", headers=headers)

    return asyncio.run(response())


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Files of our own, that may be changed."""
    folder = tmp_path / "static"
    shutil.copytree(STATIC / "lib", folder / "lib")
    monkeypatch.setattr(page_files, "STATIC", folder)
    _forget()
    yield folder
    _forget()


def _forget() -> None:
    page_files.edition.cache_clear()
    page_files._signatures.cache_clear()


def test_a_page_asks_for_the_edition_which_browsers_keep() -> None:
    addresses = re.findall(r'(?:href|src)="static/([^"]+)"', pages.head())
    assert len(addresses) > 5
    for address in addresses:
        answer = get(address)
        assert answer.status_code == 200, address
        assert answer.headers["cache-control"] == page_files.KEPT
        name = address.partition("/")[2]
        assert answer.content == (STATIC / name).read_bytes()


@pytest.mark.parametrize(
    "path",
    [
        SCRIPT,
        f"e-0123456789abcdef/{SCRIPT}",
        "plotly.min.js",
        "js/iframeResizer.contentWindow.min.js",
    ],
)
def test_what_has_no_edition_or_an_older_one_is_asked_for_again(path: str) -> None:
    answer = get(path)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-cache"
    assert get(path, {"if-none-match": answer.headers["etag"]}).status_code == 304


def test_another_content_is_another_edition(copy: Path) -> None:
    before = page_files.edition()
    (copy / SCRIPT).write_text("changed")
    _forget()
    assert page_files.edition() != before


def test_a_file_that_was_changed_since_is_not_kept(copy: Path) -> None:
    address = f"{page_files.edition()}/{SCRIPT}"
    assert get(address).headers["cache-control"] == page_files.KEPT
    (copy / SCRIPT).write_text("changed")
    answer = get(address)
    assert (answer.text, answer.headers["cache-control"]) == ("changed", "no-cache")
    os.remove(copy / SCRIPT)
    assert get(address).status_code == 404


def test_plotly_is_the_installed_packages() -> None:
    answer = get(page_files.PLOTLY)
    assert len(answer.content) > 1_000_000
    kind = answer.headers["content-type"].partition(";")[0]
    assert kind in ("text/javascript", "application/javascript")  # the second once Gradio is loaded


@pytest.mark.parametrize("path", ["../../page_files.py", "%2e%2e/%2e%2e/page_files.py", ""])
def test_an_edition_leads_nowhere_else(path: str) -> None:
    assert get(f"{page_files.edition()}/{path}").status_code in (404, 405)
