"""Columns of the run table: chosen, put in order, sorted by their heads, grouped, and in links."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from opd.config.run import parse
from storage.queue import jobs, run_details
from tests.support import stored_runs

pytestmark = pytest.mark.browser
RATE = "optimizer.learning_rate"
HOSTILE = "<img src=x onerror='window.__canary=1'>"


@pytest.fixture(scope="module")
def sweep(site: Any) -> Iterator[dict[str, str]]:
    """Runs of two learning rates by name, with losses; one has no step."""
    made = {}
    for number, (rate, loss) in enumerate(((1e-3, 3.0), (1e-3, 1.0), (1e-4, 2.0))):
        name = f"kolibri {number}"
        config = {"name": name, "optimizer": {"learning_rate": rate}}
        run_id, writer = stored_runs.started(site.engine, slot=f"sweep:{number}", **config)
        writer.step(stored_runs.step_event(1, rollouts=1, loss=loss), stored_runs.texts)
        jobs.finish(site.engine, run_id, 1, "finished")
        made[name] = run_id
    config = {"name": "kolibri 3", "prompts": {"system": HOSTILE}}
    made["kolibri 3"] = jobs.create_run(site.engine, parse(config))
    yield made
    for run_id in made.values():
        if run_id == made["kolibri 3"]:
            jobs.request_cancel(site.engine, run_id, "discard")
        run_details.delete_run(site.engine, run_id)


def names(page: Any) -> list[str]:
    return [name.inner_text() for name in page.locator("tr[data-run] .run-name").all()]


def test_heads_sort_and_say_so(open_page: Callable[[str], Any], sweep: dict[str, str]) -> None:
    page = open_page(f"/?search=kolibri&columns=loss:best,{RATE}")
    page.wait_for_selector("tr[data-run]")
    head = page.get_by_role("columnheader", name="Loss, best")
    head.get_by_role("button").click()
    page.wait_for_function("document.querySelector('th[aria-sort=ascending]')")
    page.wait_for_function("document.querySelector('.run-name').textContent === 'kolibri 1'")
    assert names(page) == ["kolibri 1", "kolibri 2", "kolibri 0", "kolibri 3"]
    page.keyboard.press("Enter")  # the head that was pressed keeps the focus
    page.wait_for_function("document.querySelector('th[aria-sort=descending]')")
    page.wait_for_function("document.querySelector('.run-name').textContent === 'kolibri 0'")
    assert names(page) == ["kolibri 0", "kolibri 2", "kolibri 1", "kolibri 3"]
    query = parse_qs(urlsplit(page.url).query)
    assert (query["sort"], query["order"]) == (["loss:best"], ["desc"])
    page.reload()
    page.wait_for_selector("tr[data-run]")
    assert names(page)[0] == "kolibri 0"
    cells = page.locator(f'tr[data-run="{sweep["kolibri 0"]}"] td').all_inner_texts()
    assert cells[3:5] == ["3", "0.001"]
    href = page.get_by_role("link", name="CSV").get_attribute("href")
    assert "sort=loss%3Abest" in href and "search=kolibri" in href


def test_columns_are_chosen_ordered_and_reset_by_keyboard(
    open_page: Callable[[str], Any], sweep: dict[str, str]
) -> None:
    page = open_page("/?search=kolibri")
    page.wait_for_selector("tr[data-run]")
    page.get_by_role("button", name="Columns").press("Enter")
    page.get_by_label("Search columns").fill("learning_rate")
    box = page.get_by_label(RATE)
    box.focus()
    page.keyboard.press("Space")
    page.wait_for_function("location.search.includes('columns=')")
    assert page.evaluate("document.activeElement.dataset.id") == RATE
    for _ in range(9):
        page.get_by_role("button", name=f"Move {RATE} up").press("Enter")
    for column in ("Recipe", "Student ← teacher", "Step", "Tokens"):
        page.get_by_role("button", name=f"Remove {column}", exact=True).press("Enter")
    assert parse_qs(urlsplit(page.url).query)["columns"] == [
        f"{RATE},kl,score,seconds,disk,created_at"
    ]
    page.keyboard.press("Escape")
    page.wait_for_function("document.querySelectorAll('th[scope=col]').length === 10")
    heads = page.locator("th[scope=col]").all_inner_texts()
    assert heads[3:5] == [RATE, "KL, nats per token"]
    page.get_by_role("button", name="Columns").click()
    page.get_by_label("Search columns").fill("nothing like it")
    page.get_by_text("No metric or setting of the stored runs").wait_for()
    page.get_by_role("button", name="Reset").click()
    page.wait_for_function("!location.search.includes('columns=')")
    page.keyboard.press("Escape")
    page.get_by_role("columnheader", name="Recipe").wait_for()


def test_groups_have_counts_and_figures(
    open_page: Callable[[str], Any], sweep: dict[str, str]
) -> None:
    page = open_page("/?search=kolibri&columns=loss,prompts.system")
    page.wait_for_selector("tr[data-run]")
    page.get_by_role("button", name="Columns").click()
    page.get_by_label("Group by").select_option(RATE)
    page.keyboard.press("Escape")
    page.wait_for_selector("tr.run-group")
    rows = page.locator("tr.run-group").all_inner_texts()
    assert "0.0001 · 1 run" in rows[0] and "0.001 · 3 runs" in rows[1]
    assert "2 ± 1.414" in rows[1] and "best 1" in rows[1]
    assert names(page) == ["kolibri 2", "kolibri 3", "kolibri 1", "kolibri 0"]
    assert page.get_by_text(HOSTILE[:20]).count() == 1
    assert page.evaluate("window.__canary ?? null") is None
    page.get_by_role("button", name="grouped by").click()
    page.wait_for_function("!document.querySelector('tr.run-group')")


def test_an_unknown_column_of_a_link_is_said_and_reset(
    visitor: Any, site: Any, sweep: dict[str, str]
) -> None:
    page = visitor.new_page()
    page.goto(f"{site.address}/?search=kolibri&columns=lerning_rate&group=nope")
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert "no column" in alert.inner_text()
    alert.get_by_role("button", name="Reset columns").click()
    page.wait_for_selector("tr[data-run]")
    assert "columns" not in page.url
    page.close()


def test_at_390_pixels_the_table_scrolls_and_the_chooser_fits(
    chromium: Any, site: Any, sweep: dict[str, str], tmp_path: Path
) -> None:
    context = chromium.new_context(
        viewport={"width": 390, "height": 844}, storage_state=None, has_touch=True
    )
    page = context.new_page()
    page.goto(site.link(f"/?search=kolibri&columns=loss,loss:best,{RATE},score,created_at"))
    page.wait_for_selector("tr[data-run]")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.get_by_role("button", name="Columns").tap()
    page.wait_for_selector(".column-option")
    box = page.locator("dialog.chooser").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    cut = "e => e.scrollWidth > e.clientWidth + 1"
    assert not page.locator(".column-parts").evaluate(cut)
    context.close()
