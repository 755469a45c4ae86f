"""Rollouts and tokens are marked by key and by button; marks are seen where the run is read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from opd.types import Mark
from storage.engine import begin
from storage.marks.edit import add_mark, edit_mark, insert_marks, remove_mark
from storage.marks.listing import read_marks
from storage.read.rollouts import read_rollout, read_rollouts
from tests.browser.rollout.judged_run import judged

pytestmark = pytest.mark.browser
Visit = Callable[[str], Any]
EVIL = '<img src=x onerror="window.__evil=1">\u202e\n${x} second line'


@pytest.fixture(scope="module")
def run_id(site: Any) -> str:
    return judged(site.engine, "marked")


@pytest.fixture
def rollout(site: Any, run_id: str) -> Any:
    """A rollout without marks."""
    yield str(read_rollouts(site.engine, run_id, step=1)["items"][0]["id"])
    for mark in read_marks(site.engine, run_id)["items"]:
        remove_mark(site.engine, mark["id"])


def shown(page: Any) -> Any:
    page.wait_for_selector("#token-view[data-ready=true]")
    return page.locator(".mark-note")


def test_a_token_is_marked_by_key_and_its_note_edited(
    open_page: Visit, site: Any, run_id: str, rollout: str
) -> None:
    page = open_page(f"/rollout?id={rollout}&pos=3")
    note = shown(page)
    page.locator(".tv-scroll").first.focus()
    page.keyboard.press("b")
    field = page.get_by_label("Note on the token")
    expect(field).to_be_focused()
    field.fill(EVIL)
    page.keyboard.press("ArrowLeft")  # moves within the field, not to another token
    assert "pos=3" in page.url
    page.keyboard.press("Control+Enter")
    expect(note).to_contain_text("Marked token")
    expect(note).to_contain_text('<img src=x onerror="window.__evil=1">')
    token = page.locator(".tv-scroll [data-index='3']")
    assert "marked" in token.get_attribute("class").split()
    assert token.get_attribute("aria-label").endswith(", marked")
    (stored,) = read_marks(site.engine, run_id)["items"]
    assert (stored["position"], stored["note"]) == (3, EVIL)
    page.reload()
    expect(shown(page)).to_contain_text("second line")
    page.get_by_role("button", name="Edit the note").click()
    field.fill("better")
    page.get_by_role("button", name="Save mark").click()
    expect(note).to_contain_text("better")
    assert read_marks(site.engine, run_id)["items"][0]["note"] == "better"
    page.get_by_role("button", name="Remove the mark").click()
    expect(page.get_by_role("button", name="Mark this token")).to_be_visible()
    assert read_marks(site.engine, run_id)["total"] == 0
    assert page.evaluate("window.__evil") is None


def test_of_two_people_the_second_reads_what_the_first_noted(
    visitor: Any, site: Any, run_id: str, rollout: str
) -> None:
    page = visitor.new_page()  # whose console may name the answers that refuse
    page.goto(site.link(f"/rollout?id={rollout}&pos=3"))
    note = shown(page)
    page.get_by_role("button", name="Mark this token").click()
    page.get_by_label("Note on the token").fill("mine")
    mark = add_mark(site.engine, rollout, 3, "theirs")
    page.get_by_role("button", name="Save mark").click()
    expect(note.get_by_role("alert")).to_contain_text("It is now:theirs")
    edit_mark(site.engine, mark, "theirs again")
    page.get_by_role("button", name="Save mine instead").click()
    expect(note.get_by_role("alert")).to_contain_text("It is now:theirs again")
    page.get_by_role("button", name="Keep theirs").click()
    expect(note).to_contain_text("theirs again")
    edit_mark(site.engine, mark, "a third")
    page.get_by_role("button", name="Remove the mark").click()
    expect(note.get_by_role("alert")).to_contain_text("read it first")
    expect(note).to_contain_text("a third")
    page.get_by_role("button", name="Edit the note").click()
    page.get_by_label("Note on the token").fill("mine")
    edit_mark(site.engine, mark, "a fourth")
    page.get_by_role("button", name="Save mark").click()
    page.get_by_role("button", name="Save mine instead").click()
    expect(page.locator(".mark-text")).to_have_text("mine")
    (stored,) = read_marks(site.engine, run_id)["items"]
    assert (stored["note"], stored["version"]) == ("mine", 5)
    page.close()


def test_what_is_typed_waits_while_another_token_is_read(
    open_page: Visit, site: Any, run_id: str, rollout: str
) -> None:
    page = open_page(f"/rollout?id={rollout}&pos=2")
    shown(page)
    page.get_by_role("button", name="Mark this token").click()
    page.get_by_label("Note on the token").fill("half a tho")
    page.locator(".tv-scroll [data-index='5']").click()
    expect(page.get_by_label("Note on the token")).to_have_count(0)
    page.locator(".tv-scroll [data-index='2']").click()
    expect(page.get_by_label("Note on the token")).to_have_value("half a tho")
    page.get_by_label("Note on the token").press("Escape")
    expect(page.get_by_role("button", name="Mark this token")).to_be_visible()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("mark the pinned token")
    assert read_marks(site.engine, run_id)["total"] == 0


def test_a_rollout_is_marked_and_found_in_list_and_run(
    open_page: Visit, site: Any, run_id: str, rollout: str
) -> None:
    page = open_page(f"/rollout?id={rollout}&pos=3")
    shown(page)
    page.locator("#mark-rollout").click()
    page.get_by_label("Note on the rollout").fill("the whole of it")
    page.get_by_role("button", name="Save mark").click()
    expect(page.locator("#mark-rollout")).to_have_text("Marked")
    add_mark(site.engine, rollout, 4, EVIL)
    page = open_page(f"/rollouts?run={run_id}")
    expect(page.locator(f"[data-rollout='{rollout}'] [aria-label='2 marks']")).to_be_visible()
    page.get_by_label("Marked", exact=True).select_option("true")
    expect(page.locator("tbody tr")).to_have_count(1)
    assert "marked=true" in page.url
    page = open_page(f"/run?id={run_id}")
    panel = page.locator("#marks")
    expect(panel.locator(".mark-row")).to_have_count(2)
    expect(panel).to_contain_text("the whole of it")
    expect(panel).to_contain_text('onerror="window.__evil=1"')
    with page.expect_download() as download:
        panel.get_by_role("link", name="1 prompt (JSON lines)").click()
    group = read_rollout(site.engine, rollout)["group"]
    assert Path(download.value.path()).read_text() == (
        f'{{"prompt": "What is {group}?", "answer": "{group}"}}\n'
    )
    panel.locator(".mark-row").nth(1).click()
    expect(shown(page)).to_contain_text("second line")
    assert "pos=4" in page.url and page.evaluate("window.__evil") is None


def test_a_mark_whose_rollout_is_gone_is_listed_and_can_be_removed(
    open_page: Visit, site: Any, run_id: str
) -> None:
    target = {"rollout_id": "roll-gone", "completion": ""}
    with begin(site.engine) as connection:
        insert_marks(connection, run_id, [target], [Mark(2, EVIL)])
    page = open_page(f"/run?id={run_id}")
    gone = page.locator("#marks .mark-row")
    expect(gone).to_contain_text("has not written it again")
    expect(gone).to_contain_text("second line")
    expect(page.get_by_role("link", name="(JSON lines)")).to_have_count(0)
    gone.get_by_role("button", name="Remove").click()
    expect(page.locator("#marks")).to_be_hidden()
    assert read_marks(site.engine, run_id)["total"] == 0
    assert page.evaluate("window.__evil") is None
