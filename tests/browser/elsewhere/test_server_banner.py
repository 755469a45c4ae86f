"""Every page that offers to start something says that nothing would start, and why."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.conftest import Site

pytestmark = pytest.mark.browser
CAUSE = "the supervisor, which starts runs, ended: <b>/data/supervisor.log</b>: Is a directory"
PAGES = ("", "new", "experiments", "playground")


class Trouble:
    """Makes the server say that its supervisor does not stay, and a run queued therefore."""

    def __init__(self, page: Any, run_id: str) -> None:
        self.cause = CAUSE
        self.run_id = run_id
        page.route(re.compile("/api/v1/health$"), self.health)
        page.route(re.compile(f"/api/v1/runs/{run_id}$"), self.run)
        page.route(re.compile(r"/api/v1/runs(\?.*)?$"), self.runs)

    def health(self, route: Any) -> None:
        reason = self.cause or None
        route.fulfill(json=route.fetch().json() | {"ok": not self.cause, "reason": reason})

    def run(self, route: Any) -> None:
        route.fulfill(json=route.fetch().json() | self.queued())

    def runs(self, route: Any) -> None:
        answer = route.fetch().json()
        for run in answer["items"]:
            run |= self.queued() if run["id"] == self.run_id else {}
        route.fulfill(json=answer)

    def queued(self) -> dict[str, Any]:
        return {"status": "queued", "waits_for": {}, "waits_because": self.cause or None}


def test_every_page_says_so_with_the_cause_until_it_is_gone(
    open_page: Callable[[str], Any], site: Site
) -> None:
    page = open_page("/new")
    trouble = Trouble(page, site.run_id)
    banner = page.get_by_role("alert").filter(has_text="Nothing starts at the moment")
    for path in (*PAGES, f"run?id={site.run_id}"):
        open_page(f"/{path}")
        expect(banner).to_contain_text(f"{CAUSE[1:]}.")
    waits = page.locator("#waits-for")
    expect(waits).to_have_text(f"waiting: {CAUSE}")
    trouble.cause = ""
    expect(banner).to_have_count(0)
    expect(waits).to_have_count(0)


@pytest.mark.parametrize("width", [390, 1280])
def test_the_list_says_what_a_queued_run_waits_for(
    open_page: Callable[[str], Any], site: Site, width: int
) -> None:
    page = open_page("/new")
    page.set_viewport_size({"width": width, "height": 800})
    Trouble(page, site.run_id)
    open_page("/")
    note = page.locator(f"tr[data-run='{site.run_id}'] .waits")
    expect(note).to_have_attribute("title", CAUSE)
    expect(note).to_contain_text("waiting: the supervisor")
    box = page.locator("#server-banner").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= width
