"""What the teacher read stands in the student's place; lists are filtered by the teacher."""

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

from storage.read.rollouts import read_rollouts
from tests.browser.rollout.judged_run import EVIL, HARD, HINTED, judged
from tests.support import stored_runs

pytestmark = pytest.mark.browser
Visit = Callable[[str], Any]


@pytest.fixture(scope="module")
def run_id(site: Any) -> str:
    return judged(site.engine, "who judges")


def one(site: Any, run_id: str, group: int) -> str:
    items = read_rollouts(site.engine, run_id, step=1)["items"]
    return str(next(i["id"] for i in items if i["group"] == group))


def prompt_text(page: Any) -> str:
    return "".join(page.locator(".tv-prompt").all_inner_texts())


def test_a_switch_shows_the_teachers_prompt(open_page: Visit, site: Any, run_id: str) -> None:
    page = open_page(f"/rollout?id={one(site, run_id, 1)}")
    page.wait_for_selector("#token-view[data-ready=true]")
    before = prompt_text(page)
    assert "Hint" not in before
    expect(page.locator(".rt-facts")).to_contain_text("judged by hard:")
    expect(page.locator(".rt-prompt-note")).to_contain_text("read another prompt")
    completion = page.locator("[data-index]").all_inner_texts()
    page.get_by_role("button", name="Teacher", exact=True).click()
    expect(page.locator(".tv-prompt").first).to_have_text("<|im_start|>")
    shown = prompt_text(page)
    for part in ("system", 'onerror="window.__evil=1"', "the answer is 4.", "2 + 2?"):
        assert part in shown
    assert len(shown) >= len(HINTED) - HINTED.count("\n") - 2
    assert page.locator("[data-index]").all_inner_texts() == completion
    expect(page.locator(".tv-label")).to_have_text(["system", "user"])
    assert "prompt=teacher" in page.url
    page.reload()
    expect(page.locator(".tv-prompt").first).to_have_text("<|im_start|>")
    page.locator(".tv-scroll").first.focus()
    page.keyboard.press("t")
    expect(page.get_by_role("button", name="Student", exact=True)).to_have_attribute(
        "aria-pressed", "true"
    )
    assert prompt_text(page) == before
    page.keyboard.press("j")
    assert page.evaluate("window.__evil") is None


def test_a_teacher_that_read_the_students_prompt_has_no_switch(
    open_page: Visit, site: Any, run_id: str
) -> None:
    page = open_page(f"/rollout?id={one(site, run_id, 0)}&prompt=teacher")
    page.wait_for_selector("#token-view[data-ready=true]")
    assert not page.locator(".rt-prompt").is_visible()
    expect(page.locator(".rt-facts")).to_contain_text("judged by plain")


def test_a_run_of_before_says_that_it_was_not_recorded(open_page: Visit, site: Any) -> None:
    hinted = {"teacher": {"model": "org/model", "prompt": f"{EVIL} {{prompt}}"}}
    names = [("several", {"teacher": {**hinted["teacher"], "routes": {"a": "b"}, "route_by": "x"}})]
    names += [("hinted", hinted), ("plain", {})]
    said = {}
    for name, config in names:
        run_id, writer = stored_runs.started(site.engine, name, name=name, **config)
        writer.step(stored_runs.step_event(1, 1), stored_runs.texts)
        page = open_page(f"/rollout?id={read_rollouts(site.engine, run_id)['items'][0]['id']}")
        page.wait_for_selector("#token-view[data-ready=true]")
        note = page.locator(".rt-prompt")
        said[name] = (note.inner_text() if note.is_visible() else "") + page.locator(
            ".rt-facts"
        ).inner_text()
    assert "not recorded" in said["several"] and "one of 2 teachers" in said["several"]
    assert "not recorded" in said["hinted"] and "teachers" not in said["hinted"]
    assert "recorded" not in said["plain"] and "teacher" not in said["plain"]


def test_lists_are_filtered_by_the_teacher(open_page: Visit, site: Any, run_id: str) -> None:
    page = open_page(f"/rollouts?run={run_id}")
    page.set_viewport_size({"width": 1600, "height": 900})
    choice = page.get_by_label("Teacher")
    expect(choice.locator("option")).to_have_count(3)
    choice.select_option(HARD)
    rows = page.locator("tr[data-rollout]")
    expect(rows).to_have_count(10)
    assert {row.locator("td").nth(2).inner_text()[0] for row in rows.all()} == {"1"}
    expect(page.locator(".worst-row").first).to_be_visible()
    assert f"teacher={HARD}" in page.url
    rows.first.locator("a").click()
    page.wait_for_selector("#token-view[data-ready=true]")
    expect(page.locator(".rt-head")).to_contain_text("of 10 by KL sum")
    assert page.evaluate("window.__evil") is None
