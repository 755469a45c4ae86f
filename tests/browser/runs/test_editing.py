"""Name, tags and notes in the browser, also where two people edit; deletion on the run's page."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from opd.config.run import parse
from storage.queue import jobs, run_details
from storage.queue.run_details import RunEdit
from storage.read.runs import read_run, read_runs
from tests.support.stored_runs import OWNER

pytestmark = pytest.mark.browser
HOSTILE = "<img src=x onerror='window.__canary=1'>"


@pytest.fixture
def run_id(site: Any) -> Iterator[str]:
    made = jobs.create_run(site.engine, parse({"name": "to edit", "steps": 9}), tags=("a", "b"))
    attempt = jobs.claim(site.engine, made, "cpu", OWNER)
    assert attempt is not None
    jobs.finish(site.engine, made, attempt, "finished", end_reason=f"stop.score: {HOSTILE}")
    yield made
    if any(item["id"] == made for item in read_runs(site.engine)["items"]):
        run_details.delete_run(site.engine, made)


@pytest.fixture
def open_page(visitor: Any, site: Any) -> Iterator[Callable[..., Any]]:
    """Opens an address of the site; a refused edit may be on the console, an error of ours not."""
    page = visitor.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))

    def visit(path: str, width: int = 1280) -> Any:
        page.set_viewport_size({"width": width, "height": 800})
        page.goto(f"{site.address}{path}")
        return page

    yield visit
    page.close()
    assert faults == []


def opened(page: Any) -> None:
    page.get_by_label("More actions").click()
    page.get_by_role("button", name="Edit name, tags, notes").click()


def test_of_two_people_the_second_sees_what_the_first_wrote(
    open_page: Callable[..., Any], site: Any, run_id: str
) -> None:
    page = open_page(f"/run?id={run_id}")
    page.wait_for_selector("#end-reason:not(:empty)")
    said = page.locator("#end-reason").inner_text()
    assert said.startswith("Ended after step 0 of 9 by stop.score: <img src=x")
    opened(page)
    page.get_by_label("Tags", exact=True).fill("a, mine")
    change = RunEdit(name=f"hers {HOSTILE}", add_tags=["hers"])
    run_details.edit(site.engine, run_id, change)
    page.get_by_role("button", name="Save", exact=True).click()
    page.wait_for_selector(".run-editor .bad-text p")
    message = page.locator(".run-editor .bad-text").inner_text()
    assert "Somebody else has edited this run meanwhile" in message
    assert f"name “hers {HOSTILE}”, tags a, b, hers, no notes" in message
    assert read_run(site.engine, run_id)["tags"] == ["a", "b", "hers"]
    page.get_by_role("button", name="Save my changes too").click()
    page.wait_for_selector(".run-editor", state="detached")
    stored = read_run(site.engine, run_id)
    assert stored["tags"] == ["a", "hers", "mine"]  # hers stays, "b" was taken off
    assert stored["name"] == f"hers {HOSTILE}"  # the name was not typed, so not sent
    assert page.evaluate("window.__canary ?? null") is None


def test_a_run_is_edited_and_deleted_on_its_page_without_a_mouse(
    open_page: Callable[..., Any], site: Any, run_id: str
) -> None:
    page = open_page(f"/run?id={run_id}", width=390)
    page.wait_for_selector("#end-reason:not(:empty)")
    page.get_by_label("More actions").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.get_by_label("Name").fill("bad\x07name")
    page.keyboard.press("Enter")
    page.wait_for_selector(".run-editor .bad-text:not(:empty)")
    assert "control characters" in page.locator(".run-editor .bad-text").inner_text()
    page.get_by_label("Name").fill("better")
    page.get_by_label("Notes").fill("seen on a phone")
    page.keyboard.press("Enter")
    page.wait_for_selector("#notes:has-text('seen on a phone')")
    assert page.locator("h1").inner_text() == "better"
    page.get_by_label("More actions").click()
    page.get_by_role("button", name="Delete").click()
    page.wait_for_selector("#deleted")
    assert run_id not in [item["id"] for item in read_runs(site.engine)["items"]]
    page.get_by_role("button", name="Undo").click()
    page.wait_for_selector("#deleted", state="detached")
    assert read_run(site.engine, run_id)["name"] == "better"


def test_the_actions_of_a_row_need_no_hover(
    open_page: Callable[..., Any], site: Any, run_id: str
) -> None:
    page = open_page("/")
    row = page.locator(f'tr[data-run="{run_id}"]')
    row.wait_for()
    assert row.get_by_label("More actions").is_visible()
    row.get_by_label("More actions").click()
    clone = row.get_by_role("link", name="Clone")
    assert clone.get_attribute("href") == f"new?from={run_id}"
    page.keyboard.press("Escape")
    assert not clone.is_visible()
    row.get_by_label("More actions").click()
    row.get_by_role("button", name="Edit").click()
    page.get_by_label("Tags", exact=True).fill("a, b")
    page.get_by_label("Name").fill("renamed")
    run_details.edit(site.engine, run_id, RunEdit(add_tags=["c"]))
    page.get_by_role("button", name="Save", exact=True).click()
    page.get_by_role("button", name="Drop my changes").click()
    page.wait_for_selector("tr.editor", state="detached")
    assert read_run(site.engine, run_id)["name"] == "to edit"


IN_SIGHT = """(element) => {
    const { left, top, width, height } = element.getBoundingClientRect();
    return element.contains(document.elementFromPoint(left + width / 2, top + height / 2));
}"""


@pytest.mark.parametrize("width", [390, 853, 1280])
def test_no_table_or_edge_cuts_a_menu_off(
    open_page: Callable[..., Any], site: Any, run_id: str, width: int
) -> None:
    long_name = "a name that is long, of a run that has tags " * 3
    run_details.edit(site.engine, run_id, RunEdit(name=long_name, add_tags=["sweep", "x" * 30]))
    page = open_page("/?search=long", width=width)
    row = page.locator(f'tr[data-run="{run_id}"]')
    row.get_by_label("More actions").click()
    for item in row.locator(".menu-items .btn").all():
        assert item.evaluate(IN_SIGHT), item.inner_text()
    page.goto(f"{site.address}/run?id={run_id}")
    for opener in (page.locator("#export > summary"), page.get_by_label("More actions")):
        opener.click()
        page.wait_for_selector("details[open] > .menu-items")
        for item in page.locator("details[open] > .menu-items > .btn:visible").all():
            assert item.evaluate(IN_SIGHT), item.inner_text()
        page.keyboard.press("Escape")
