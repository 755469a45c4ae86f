"""The findings on a run's page, in a real Chromium."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from opd.types import StepEvent
from storage.diagnosis.diagnose import diagnose
from storage.queue import jobs, run_details
from storage.read.runs import read_run
from storage.write.records import RunWriter
from tests.browser.test_doctor import CONTRASTS
from tests.support import records_with_fault
from tests.support.records_with_fault import OTHER_END, Columns

pytestmark = pytest.mark.browser
Visit = Callable[[str], Any]
MakeRun = Callable[..., str]
AGAIN = """async (run) => {
    const { Diagnosis } = await import("./static/run/diagnosis.js");
    window.__again ??= new Diagnosis(run);
    await window.__again.refresh();
}"""
HOSTILE = b"<img src=x onerror='window.__canary=1'>"


@pytest.fixture
def make_run(site: Any) -> Iterator[MakeRun]:
    """Stores runs, finished unless `running`, which are gone after the test."""
    names: list[str] = []

    def make(*arguments: Any, running: bool = False, **options: Any) -> str:
        run_id = records_with_fault.run(site.engine, *arguments, **options)
        names.append(run_id)
        if not running:
            jobs.finish(site.engine, run_id, 1, "finished")
        return run_id

    yield make
    for run_id in names:
        if read_run(site.engine, run_id)["status"] == "running":
            jobs.finish(site.engine, run_id, 1, "finished")
        run_details.delete_run(site.engine, run_id)


def other_end(columns: Columns, number: int) -> None:
    columns["teacher_logprobs"][-1] = -12 - number / 10
    columns["top"][-1] = [OTHER_END, 0]


def opened(open_page: Visit, run_id: str) -> Any:
    page = open_page(f"/run?id={run_id}")
    page.wait_for_selector(".diagnosis[data-findings]")
    return page


def test_a_finding_shows_its_evidence_and_leads_to_its_token(
    open_page: Visit, site: Any, make_run: MakeRun
) -> None:
    run_id = make_run(other_end)
    page = opened(open_page, run_id)
    (card,) = diagnose(site.engine, run_id)["items"]
    finding = page.locator('[data-code="stop-mismatch"]')
    summary = finding.locator("summary")
    assert card["title"] in summary.inner_text()
    assert "Fault" in summary.inner_text(), "the severity is a word, not a colour alone"
    assert "1 finding in 64 rollouts" in page.locator(".diagnosis header").inner_text()
    assert not finding.locator(".diagnosis-more").is_visible()
    summary.focus()
    page.keyboard.press("Enter")
    text = finding.inner_text()
    assert card["text"] in text and card["advice"] in text
    rows = finding.locator(".diagnosis-evidence tbody tr")
    assert rows.count() == len(card["evidence"])
    for i, evidence in enumerate(card["evidence"]):
        assert rows.nth(i).locator("th").inner_text() == evidence["label"]
    assert rows.nth(1).locator("td").first.inner_text() == "100%"
    assert rows.nth(1).locator("td").nth(1).inner_text() == "≥ 50%"
    assert rows.nth(2).locator("td").first.inner_text() == "64"
    first = card["rollouts"][0]
    with page.expect_navigation():
        finding.locator(".diagnosis-links a").first.click()
    assert f"id={first['id']}" in page.url and f"pos={first['position']}" in page.url
    page.wait_for_selector(f'#token-detail[data-index="{first["position"]}"]')
    detail = page.locator("#token-detail")
    detail.get_by_text(re.compile("Teacher (wanted|leaned to)")).wait_for()
    assert "<|other|>" in detail.inner_text() and "<eos>" in detail.inner_text()


def test_all_such_rollouts_are_a_filter_away(open_page: Visit, make_run: MakeRun) -> None:
    page = opened(open_page, make_run(other_end))
    page.locator('[data-code="stop-mismatch"] > summary').click()
    with page.expect_navigation():
        page.click("text=All matching rollouts")
    page.wait_for_selector(".table.rollouts")
    assert page.get_by_label("Finish reason").input_value() == "stop"


def test_a_healthy_run_says_so_and_what_was_looked_at(
    open_page: Visit, site: Any, make_run: MakeRun
) -> None:
    run_id = make_run()
    page = opened(open_page, run_id)
    panel = page.locator(".diagnosis")
    assert "No problems found in 64 rollouts, 1,280 tokens" in panel.inner_text()
    assert "1 of 9 checks had too little data" in panel.inner_text()
    panel.locator("summary").click()
    checks = panel.locator("[data-check]")
    silent = diagnose(site.engine, run_id)["silent"]
    assert [checks.nth(i).get_attribute("data-check") for i in range(checks.count())] == [
        s["code"] for s in silent
    ]
    template = panel.locator('[data-check="template-mismatch"]').inner_text()
    assert "0.100 nats" in template and "≥ 2 nats" in template
    late = panel.locator('[data-check="unsure-late"]').inner_text()
    assert "Not checked" in late and "128" in late


def test_too_little_and_nothing_are_told_apart(open_page: Visit, make_run: MakeRun) -> None:
    page = opened(open_page, make_run(steps=1))
    assert "Too little data yet: 8 rollouts" in page.locator(".diagnosis").inner_text()
    page = opened(open_page, make_run(steps=0))
    assert "No data yet" in page.locator(".diagnosis").inner_text()


def test_the_last_steps_are_looked_at_too_and_a_finding_stays_open(
    open_page: Visit, site: Any, make_run: MakeRun
) -> None:
    run_id = make_run(other_end, running=True, steps=5)
    page = open_page("/")
    page.clock.install()
    page.goto(site.link(f"/run?id={run_id}"))
    page.wait_for_selector('.diagnosis[data-findings="1"]')
    page.locator('[data-code="stop-mismatch"] > summary').click()
    requests: list[str] = []
    page.on("request", lambda r: requests.append(r.url) if r.url.endswith("/diagnosis") else None)
    writer = RunWriter(site.engine, run_id, 1)
    columns = records_with_fault.columns(records_with_fault.TOKENS, 1)
    other_end(columns, 1)
    rollouts = [records_with_fault.rollout(6, 900, columns)]
    writer.step(
        StepEvent(6, {}, 20, 1.0, records_with_fault.HEALTHY, rollouts), records_with_fault.texts
    )
    jobs.finish(site.engine, run_id, 1, "finished")
    head, passed = page.locator(".diagnosis header"), 0
    while "41 rollouts" not in head.inner_text() and passed < 120:
        page.clock.run_for(1_500)
        passed += 1.5
        page.wait_for_load_state("networkidle")
    assert "1 finding in 41 rollouts" in head.inner_text()
    assert page.locator('[data-code="stop-mismatch"]').get_attribute("open") is not None
    for _ in range(10):
        page.evaluate(AGAIN, run_id)
    assert len(requests) <= 2 + passed / 15, "ten calls at once are one look"


def test_an_error_is_told_and_can_be_tried_again(
    open_page: Visit, site: Any, make_run: MakeRun
) -> None:
    run_id = make_run(other_end)
    page = open_page("/")
    page.route("**/diagnosis", lambda route: route.fulfill(body="{", status=200), times=1)
    page.goto(site.link(f"/run?id={run_id}"))
    page.wait_for_selector(".diagnosis .face.bad")
    page.locator(".diagnosis").get_by_text("Try again").click()
    page.wait_for_selector('[data-code="stop-mismatch"]')


def test_hostile_tokens_stay_text(
    open_page: Visit, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = records_with_fault.texts

    def hostile(ids: Any) -> dict[int, tuple[bytes, bool]]:
        return {i: (HOSTILE, True) if i == OTHER_END else t for i, t in plain(ids).items()}

    monkeypatch.setattr(records_with_fault, "texts", hostile)
    page = opened(open_page, make_run(other_end, tokenizer="hostile"))
    page.locator('[data-code="stop-mismatch"] > summary').click()
    assert "<img src=x" in page.locator('[data-code="stop-mismatch"]').inner_text()
    assert page.evaluate("window.__canary") is None


def test_words_are_readable_in_both_themes(open_page: Visit, make_run: MakeRun) -> None:
    page = opened(open_page, make_run(other_end))
    for summary in page.locator(".diagnosis summary").all():
        summary.click()
    for theme in ("light", "dark"):
        page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
        contrasts = page.evaluate(CONTRASTS.replace(".doctor-finding *", ".diagnosis *"))
        assert len(contrasts) > 30 and min(contrasts) >= 4.5, theme
