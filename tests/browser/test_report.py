"""Reports opened from disk in a real Chromium whose network is unplugged."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import expect

from app.report import report
from storage.marks.edit import add_mark
from storage.read.rollouts import read_rollouts
from storage.read.runs import read_run
from storage.read.tokens import EXTRA_COLUMNS, MAIN_COLUMNS, read_tokens, read_topk
from tests.browser.rollout.judged_run import judged

pytestmark = pytest.mark.browser
Open = Callable[..., Any]


@pytest.fixture
def open_report(chromium: Any, site: Any, tmp_path: Path) -> Iterator[Open]:
    """Writes and opens a report; nothing may be asked of the network or be on the console."""
    contexts = []
    faults: list[str] = []

    def visit(name: str, *, rollouts: int = 3, fragment: str = "", scheme: str = "light") -> Any:
        path = tmp_path / "report.html"
        path.write_text(report(site.engine, name, rollouts=rollouts).html, encoding="utf-8")
        context = chromium.new_context(
            viewport={"width": 1280, "height": 800}, color_scheme=scheme, offline=True
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: faults.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        inside = ("file:", "data:", "blob:")
        page.on("request", lambda r: None if r.url.startswith(inside) else faults.append(r.url))
        page.goto(f"{path.as_uri()}{fragment}")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert faults == []


def worst(site: Any, count: int = 1) -> list[str]:
    """Of the rollouts with both models' figures."""
    items = read_rollouts(site.engine, site.run_id, limit=50)["items"]
    return [item["id"] for item in items if item["kl_sum"] is not None][:count]


def ready(page: Any, rollout_id: str) -> None:
    page.wait_for_selector(f'#token-view[data-ready="true"][data-rollout="{rollout_id}"]')


def shown(value: float) -> str:
    return f"{value:.3f}".replace("-", "−")


def test_a_rollout_opens_with_its_stored_numbers(open_report: Open, site: Any) -> None:
    [name] = worst(site)
    names = (*MAIN_COLUMNS, *EXTRA_COLUMNS)
    stored = read_tokens(site.engine, name, names).columns
    page = open_report(name)
    ready(page, name)
    view = page.locator("#token-view")
    assert view.get_attribute("data-tokens") == str(len(stored["completion_ids"]))
    hottest = int(np.argmax(stored["reverse_kl"]))
    page.keyboard.press("n")
    page.wait_for_selector(f'#token-detail[data-index="{hottest}"]')
    page.wait_for_selector("#token-detail .alt-row.sampled")
    page.wait_for_function("document.querySelector('#token-detail').innerText.includes('entropy')")
    text = page.locator("#token-detail").inner_text()
    for column in ("reverse_kl", "student_logprobs", "teacher_logprobs", "student_entropy"):
        assert shown(float(stored[column][hottest])) in text, column
    alternatives = read_topk(site.engine, name, hottest, 1)[0]
    rows = page.locator("#token-detail .alt-row:not(.alt-head):not(.alt-rest)").count()
    assert rows == len(
        {
            e["id"]
            for e in (alternatives["token"], *alternatives["student"], *alternatives["teacher"])
        }
    )
    order = np.argsort(-stored["reverse_kl"], kind="stable")
    page.keyboard.press("n")
    page.wait_for_selector(f'#token-detail[data-index="{order[1]}"]')
    page.keyboard.press("p")
    page.wait_for_selector(f'#token-detail[data-index="{hottest}"]')
    assert f"pos={hottest}" in page.url


def test_the_address_opens_the_same_place(open_report: Open, site: Any) -> None:
    [name] = worst(site)
    page = open_report(name, fragment=f"#rollout?id={name}&pos=3&metric=log_ratio")
    ready(page, name)
    page.wait_for_selector('#token-detail[data-index="3"]')
    assert page.locator("#metric").input_value() == "log_ratio"


def test_a_runs_list_opens_its_rollouts_and_back_returns(open_report: Open, site: Any) -> None:
    first, second = worst(site, 2)
    page = open_report(site.run_id)
    page.wait_for_selector("#report-rollouts")
    run = read_run(site.engine, site.run_id)
    assert run["name"] in page.locator("h1").inner_text()
    assert page.locator(".report-plot").count() >= 1
    listed = page.locator("#report-rollouts tbody tr").evaluate_all(
        "rows => rows.map((r) => r.dataset.rollout)"
    )
    assert listed[:2] == [first, second]
    page.keyboard.press("j")  # no key of the token view acts on the run's page
    assert "#" not in page.url
    page.locator("#report-rollouts tbody a").first.click()
    ready(page, first)
    page.keyboard.press("j")
    ready(page, second)
    page.go_back()
    ready(page, first)
    page.go_back()
    page.wait_for_selector("#report-rollouts")
    page.go_forward()
    ready(page, first)
    page.locator(".report-run-link").click()
    page.wait_for_selector("#report-rollouts")


def test_the_worst_tokens_lead_to_their_place(open_report: Open, site: Any) -> None:
    page = open_report(site.run_id)
    row = page.locator(".worst-row").first
    row.wait_for()
    target = dict(re.findall(r"(id|pos)=([^&]+)", row.get_attribute("href") or ""))
    row.click()
    ready(page, target["id"])
    page.wait_for_selector(f'#token-detail[data-index="{target["pos"]}"]')


def test_what_asks_the_server_is_not_offered(open_report: Open, site: Any) -> None:
    [name] = worst(site)
    page = open_report(name)
    ready(page, name)
    assert page.locator('a[href="./"]:visible, a[href="#server"]:visible').count() == 0
    assert page.locator('[role="tab"]:visible').count() == 0


def test_light_and_dark(open_report: Open, site: Any) -> None:
    colours = []
    for scheme in ("light", "dark"):
        page = open_report(worst(site)[0], scheme=scheme)
        page.wait_for_selector('#token-view[data-ready="true"]')
        colours.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert colours == ["rgb(248, 248, 246)", "rgb(18, 19, 22)"]
    page.locator(".theme-switch").click()
    page.wait_for_function(
        "getComputedStyle(document.body).backgroundColor === 'rgb(248, 248, 246)'"
    )


def test_hostile_text_stays_text(open_report: Open, site: Any) -> None:
    """Tokens of the site's newest run try to leave their element."""
    rollouts = read_rollouts(site.engine, site.run_id, text="__canary")["items"]
    assert rollouts
    page = open_report(rollouts[0]["id"])
    ready(page, rollouts[0]["id"])
    assert "__canary" in page.locator("#token-view").inner_text()
    page.locator(".report-run-link").click()
    page.wait_for_selector("#report-rollouts")
    assert "__canary" in page.locator("#report-rollouts").inner_text()
    assert page.evaluate("window.__canary") is None
    assert page.locator(".opd script, .opd img, .opd iframe").count() == 0


def test_marks_are_listed_and_their_notes_can_be_read(open_report: Open, site: Any) -> None:
    """Of every marked rollout, not only of the worst ones; nothing can be changed."""
    evil = '<img src=x onerror="window.__evil=1">\u202e\nsecond line'
    run_id = judged(site.engine, "reported marks")
    best = read_rollouts(site.engine, run_id, sort="kl_sum")["items"][0]["id"]
    add_mark(site.engine, best, 4, evil)
    add_mark(site.engine, best, None, "</script>")
    page = open_report(run_id, rollouts=1)
    rows = page.locator("#marks .mark-row")
    expect(rows).to_have_count(2)
    expect(rows.nth(0)).to_contain_text("</script>")
    expect(page.locator("#marks .btn")).to_have_count(0)
    rows.nth(1).click()
    ready(page, best)
    note = page.locator(".mark-note")
    expect(note).to_contain_text('<img src=x onerror="window.__evil=1">')
    expect(page.locator(".tv-scroll .marked")).to_have_count(1)
    expect(note.locator("button")).to_have_count(0)
    expect(page.locator("#mark-rollout")).to_be_hidden()
    page.keyboard.press("b")
    expect(page.locator("textarea")).to_have_count(0)
    assert page.evaluate("window.__evil") is None
