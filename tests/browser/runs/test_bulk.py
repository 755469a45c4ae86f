"""What is done with the runs that are ticked, all at once, and what is told of those that fail."""

from collections.abc import Iterator
from typing import Any

import pytest

from opd.config.run import parse
from storage.queue import jobs, requests, run_details
from storage.queue.run_details import RunEdit
from storage.read.runs import read_run, read_runs
from tests.support.stored_runs import OWNER

pytestmark = pytest.mark.browser
HOSTILE = "<img src=x onerror='window.__canary=1'>"


@pytest.fixture
def runs(site: Any) -> Iterator[list[str]]:
    """A running one, a finished one and a queued one, newest last."""
    made = [jobs.create_run(site.engine, parse({"name": f"bulk {n} {HOSTILE}"})) for n in range(3)]
    for number in (0, 1):
        attempt = jobs.claim(site.engine, made[number], f"test:{number}", OWNER)
        assert attempt is not None
        if number == 1:
            jobs.finish(site.engine, made[number], attempt, "finished")
    yield made
    jobs.finish(site.engine, made[0], 1, "finished")
    there = {item["id"] for item in read_runs(site.engine)["items"]}
    for run_id in there.intersection(made):
        run_details.delete_run(site.engine, run_id)


@pytest.fixture
def ticked(visitor: Any, site: Any, runs: list[str]) -> Iterator[Any]:
    """The page of runs with the three ticked; refused requests may be on the console."""
    page = visitor.new_page()
    page.goto(f"{site.address}/?search=bulk")
    for run_id in runs:
        box = page.locator(f'tr[data-run="{run_id}"] td.choose input')
        box.focus()
        page.keyboard.press("Space")
    page.get_by_text("3 selected").wait_for()
    yield page
    assert page.evaluate("window.__canary ?? null") is None
    page.close()


def tags(site: Any, runs: list[str]) -> list[list[str]]:
    return [read_run(site.engine, run_id)["tags"] for run_id in runs]


def test_tags_are_added_and_a_run_that_somebody_else_edits_is_told(
    ticked: Any, site: Any, runs: list[str]
) -> None:
    field = ticked.get_by_label("Tags of the selected runs")
    field.fill("a, b")
    field.press("Enter")
    ticked.wait_for_function("document.querySelectorAll('.tag-button').length >= 6")
    assert tags(site, runs) == [["a", "b"]] * 3
    ticked.route("**/api/v1/runs?*", lambda route: route.abort())  # it sees nothing new from here
    run_details.edit(site.engine, runs[1], RunEdit(notes="hers"))
    field.fill("b")
    ticked.get_by_role("button", name="Remove tags").click()
    alert = ticked.locator(".bulk-report [role=alert]")
    alert.wait_for()
    assert alert.inner_text().startswith("2 of 3 untagged. Not changed:")
    assert f"({runs[1]}): was edited by somebody else" in alert.inner_text()
    assert alert.locator("li").count() == 1
    assert tags(site, runs) == [["a"], ["a", "b"], ["a"]]


def test_those_that_can_be_are_deleted_and_come_back(
    ticked: Any, site: Any, runs: list[str]
) -> None:
    ticked.get_by_role("group", name="Selected runs").get_by_role("button", name="Delete").click()
    alert = ticked.locator(".bulk-report [role=alert]")
    alert.wait_for()
    assert "2 of 3 deleted" in alert.inner_text() and "is running" in alert.inner_text()
    there = {item["id"] for item in read_runs(site.engine)["items"]}
    assert there.intersection(runs) == {runs[0]}
    ticked.get_by_role("button", name="Undo").click()
    ticked.wait_for_function("document.querySelectorAll('tr[data-run]').length === 3")
    assert {*runs} <= {item["id"] for item in read_runs(site.engine)["items"]}


def test_stop_export_compare_and_the_box_of_all(ticked: Any, site: Any, runs: list[str]) -> None:
    href = ticked.locator("#compare").get_attribute("href")
    assert href == f"compare?runs={','.join(runs)}"
    bar = ticked.get_by_role("group", name="Selected runs")
    bar.get_by_text("Export", exact=True).click()
    bar.get_by_role("button", name="Table, CSV").click()
    line = ticked.locator(".file-line")
    line.wait_for()
    assert "3-runs-rollouts.csv" in line.inner_text()
    (request,) = requests.read_file_requests(site.engine)
    assert request["payload"] == {"runs": runs, "format": "csv", "table": False}
    ticked.get_by_role("button", name="Cancel 3-runs-rollouts.csv").click()
    line.wait_for(state="detached")
    bar.get_by_role("button", name="Stop").click()
    ticked.wait_for_selector(f'tr[data-run="{runs[2]}"] .status.cancelled')
    assert read_run(site.engine, runs[0])["cancel_mode"] == "save"
    every = ticked.get_by_label("Select all runs of this page")
    assert every.is_checked()
    every.press("Space")
    assert not bar.is_visible() and ticked.locator("td.choose input:checked").count() == 0
