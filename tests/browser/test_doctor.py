"""The doctor beside the form, in a real Chromium; the test takes the model process's place."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from opd.config.run import parse
from opd.doctor.examine import report
from opd.doctor.findings import Finding
from storage.queue import requests
from tests.support.stored_runs import me

pytestmark = pytest.mark.browser
Visit = Callable[[str], Any]
HOSTILE = "<img src=x onerror='window.__canary = 1'>"
FINDINGS = [
    Finding("tokenizer-same", "ok", "Student and teacher share a tokenizer", "All 76 ids agree."),
    Finding("time", "info", "Roughly 2 s a step", "Rough.", "", {"seconds": 2.0}),
    Finding(
        "stops-differ",
        "warning",
        f"The teacher ends its answers with {HOSTILE}",
        "The student's answers run on to the limit.",
        "Add it to eos_token_id in generation_config.json.",
        {"student": ["1 (<eos>)"], "teacher": [HOSTILE]},
    ),
]


@pytest.fixture
def claimed(site: Any) -> Iterator[Callable[[], dict[str, Any]]]:
    """Takes the next question, as the model process would; nothing waits afterwards."""

    def take() -> dict[str, Any]:
        row = requests.claim(site.engine, me())
        assert row is not None
        return row

    yield take
    for name in requests.waiting(site.engine):
        requests.fail(site.engine, name, "the test is over")


def start_doctor(page: Any) -> None:
    page.wait_for_selector("#start-run:not([disabled])")
    with page.expect_response("**/api/v1/doctor"):
        page.click("#run-doctor")


def test_findings_appear_as_they_are_made(
    open_page: Visit, site: Any, claimed: Callable[[], dict[str, Any]]
) -> None:
    page = open_page("/new")
    page.wait_for_selector("#run-doctor")
    start_doctor(page)
    assert page.locator("#run-doctor").is_disabled()
    page.wait_for_selector("text=Waiting for the model process")
    question = claimed()
    assert parse(question["payload"]["config"]).name == "demo"
    partial = {"findings": [f.as_dict() for f in FINDINGS[:1]]}
    requests.progress(site.engine, question["id"], phase="comparing tokenizers", answer=partial)
    page.wait_for_selector("text=Comparing tokenizers …")
    page.wait_for_selector("text=1 check")
    requests.finish(site.engine, question["id"], report(parse({}), FINDINGS))
    page.wait_for_selector("text=1 warning")
    assert page.locator("#run-doctor").is_enabled()
    cards = page.locator(".doctor-finding:visible")
    assert [cards.nth(i).get_attribute("data-severity") for i in range(cards.count())] == [
        "warning",
        "info",
    ]
    first = cards.first.inner_text()
    assert "Warning" in first, "the severity is a word, not a colour alone"
    assert "What to change: Add it to eos_token_id" in first and HOSTILE in first
    cards.first.locator("summary").click()
    assert HOSTILE in cards.first.locator("pre").inner_text()
    assert page.evaluate("window.__canary") is None
    table = page.locator("#doctor-memory").inner_text()
    assert "student's weights" in table and "Peak" in table
    page.fill("#field-steps", "7")
    page.wait_for_selector("text=The settings have changed since this check.")


def test_a_failure_is_told_and_can_be_tried_again(
    open_page: Visit, site: Any, claimed: Callable[[], dict[str, Any]]
) -> None:
    page = open_page("/new")
    page.wait_for_selector("#run-doctor")
    page.uncheck("#doctor-models")
    start_doctor(page)
    question = claimed()
    assert question["payload"]["models"] is False
    requests.fail(site.engine, question["id"], "killed by signal 9", hint="Lower it.")
    page.wait_for_selector(".doctor .face.bad")
    text = page.locator(".doctor .face.bad").inner_text()
    assert "killed by signal 9" in text and "Lower it." in text
    with page.expect_response("**/api/v1/doctor"):
        page.click("text=Try again")
    assert claimed()["kind"] == "doctor"


def test_words_are_readable_in_both_themes(
    open_page: Visit, site: Any, claimed: Callable[[], dict[str, Any]]
) -> None:
    page = open_page("/new")
    page.wait_for_selector("#run-doctor")
    start_doctor(page)
    requests.finish(site.engine, claimed()["id"], report(parse({}), FINDINGS))
    page.wait_for_selector("text=1 warning")
    for theme in ("light", "dark"):
        page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
        contrasts = page.evaluate(CONTRASTS)
        assert min(contrasts) >= 4.5, theme


CONTRASTS = """async () => {
    const { contrast } = await import("./static/lib/palette.js");
    const byte = (v) => Math.round(Number(v)).toString(16).padStart(2, "0");
    const hex = (text) => "#" + text.match(/[0-9.]+/g).slice(0, 3).map(byte).join("");
    const opaque = (text) => !/, 0\\)$|transparent/.test(text);
    const behind = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const colour = getComputedStyle(at).backgroundColor;
            if (opaque(colour)) return colour;
        }
        return "rgb(255, 255, 255)";
    };
    return [...document.querySelectorAll(".doctor-finding *, .doctor-memory td")]
        .filter((e) => e.textContent.trim() && e.checkVisibility())
        .map((e) => contrast(hex(behind(e)), hex(getComputedStyle(e).color)));
}"""
