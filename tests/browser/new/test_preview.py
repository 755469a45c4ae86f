"""The preview of prompts beside the form, in a real Chromium; the test takes the model process's
place, and answers as it would."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from app.worker.models.process import preview_prompts
from app.worker.models.request import ModelCache, ModelRequest
from storage.data_dir import DataDir
from storage.queue import requests
from tests.browser.test_accessibility import FAULTS, serious
from tests.conftest import TOKEN, opening
from tests.support.stored_runs import me

pytestmark = pytest.mark.browser
Visit = Callable[[str], Any]
HOSTILE = "<img src=x onerror='window.__canary = 1'> ${1+1} \u202egnp "
ROWS = [
    {
        "conversations": [
            {"from": "system", "value": "Be brief."},
            {"from": "human", "value": f"{text}"},
        ],
        "answer": str(n),
        "subject": "math" if n % 2 else "letters",
        "level": n,
    }
    for n, text in enumerate([HOSTILE, "What is 2 + 3?\n", "Say it. " * 60, *"abcdefgh"])
]
YAML = """\
student: bundled/assistant
teacher:
  model: bundled/assistant
  route_by: subject
  routes:
    math: {{model: bundled/assistant, prompt: "{{prompt}} It is {{answer}}.", system: You know.}}
prompts:
  {{source: {rows}, eval_source: {rows}, max_prompt_tokens: 100, overlong: drop, grader: none}}
sampling: {{max_new_tokens: 16}}
evaluation: {{suites: {{"short": {{source: {rows}, grader: none}}}}}}
"""


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in ROWS), encoding="utf-8")
    return path


@pytest.fixture
def claim(site: Any, tmp_path: Path) -> Iterator[Callable[[], tuple[str, Any]]]:
    """Takes the next request, with what the model process would answer; nothing waits later."""

    def take() -> tuple[str, Any]:
        claimed = requests.claim(site.engine, me())
        assert claimed is not None and claimed["kind"] == "prompts"
        directory = DataDir(tmp_path)
        request = ModelRequest(claimed["payload"], site.engine, directory, ModelCache(directory))
        return claimed["id"], request

    yield take
    for name in requests.waiting(site.engine):
        requests.fail(site.engine, name, "the test is over")


def answered(site: Any, claim: Any) -> dict[str, Any]:
    """Answers the request that the page has sent; its payload."""
    name, request = claim()
    requests.finish(site.engine, name, preview_prompts(request, lambda *_: True))
    payload: dict[str, Any] = request.payload
    return payload


def awaited(page: Any, action: Callable[[], Any]) -> None:
    with page.expect_response("**/api/v1/prompt-preview"):
        action()


def opened(page: Any, rows: Path) -> None:
    page.wait_for_selector("#start-run:not([disabled])")
    page.fill("#yaml", YAML.format(rows=rows))
    expect(page.locator("#start-run")).to_be_enabled()
    page.locator("#preview-prompts").focus()
    awaited(page, lambda: page.keyboard.press("Enter"))


def test_prompts_are_shown_as_both_models_will_read_them(
    open_page: Visit, site: Any, claim: Any, rows: Path
) -> None:
    page = open_page("/new")
    opened(page, rows)
    expect(page.locator("#prompt-preview [role=status]")).to_contain_text("Waiting for the model")
    payload = answered(site, claim)
    assert (payload["prompts"], payload["count"]) == ("train", 3)
    panel = page.locator("#prompt-preview")
    expect(panel.locator(".preview-prompt")).to_have_count(3)
    text = panel.inner_text()
    assert "rows.jsonl read as ShareGPT" in text and "11 rows; 11 with an answer." in text
    assert "level not used" in " ".join(panel.locator(".preview-columns").inner_text().split())
    assert "1 is too long and is left out." in text
    first, second, third = panel.locator(".preview-prompt").all()
    student = first.locator('[data-section="student"]')
    assert " of 100 tokens" in student.inner_text()
    first.locator("summary").click()
    assert HOSTILE.split(" ${")[0] in first.locator("dl").inner_text()
    assert "⟨202E⟩" in first.locator("dl").inner_text()
    assert student.locator(".preview-special").count() >= 3
    assert "tokens stand for text that the tokenizer does not know" in student.inner_text()
    assert "Reads the student’s prompt." in first.locator('[data-section="teacher"]').inner_text()
    route = second.locator('[data-section="teacher.routes.math"]')
    assert "Teacher for math" in route.inner_text()
    assert " is 1." in route.inner_text()
    assert third.locator(".tag.bad").inner_text() == "left out"
    third.locator("summary").click()
    assert "conversations" in third.locator("dl").inner_text()
    assert page.evaluate("window.__canary") is None
    page.fill("#field-steps", "7")
    expect(panel.locator("[role=status]")).to_have_text(
        "The settings have changed since this preview."
    )


def test_other_sets_and_the_way_back(open_page: Visit, site: Any, claim: Any, rows: Path) -> None:
    page = open_page("/new")
    opened(page, rows)
    answered(site, claim)
    expect(page.locator(".preview-prompt")).to_have_count(3)
    for name in ("held-out", "evaluation.suites.short"):
        awaited(page, lambda name=name: page.select_option("#preview-set", name))
        assert answered(site, claim)["prompts"] == name
        expect(page.locator(".preview-prompt")).to_have_count(3)
    expect(page.locator("#prompt-preview")).to_contain_text("answered by the student only")
    page.get_by_role("button", name="Close the preview").click()
    expect(page.locator("#prompt-preview")).to_be_hidden()
    expect(page.locator("#preview-prompts")).to_be_focused()


def test_what_cannot_be_read_stands_at_its_row_or_field(
    open_page: Visit, site: Any, claim: Any, rows: Path
) -> None:
    rows.write_text(f'{{"prompt": 3}}\n{{"prompt": "{HOSTILE}"}}\n'.replace("\u202e", ""))
    page = open_page("/new")
    opened(page, rows)
    answered(site, claim)
    problems = page.locator(".preview-problems")
    expect(problems).to_contain_text("The run cannot start: ")
    expect(problems).to_contain_text("Line 1: prompt must be non-empty text (got 3)")
    awaited(page, lambda: page.get_by_role("button", name="Refresh").click())
    name, _ = claim()
    said = "prompts.columns.answer: rows.jsonl has no column 'x'; it has prompt"
    requests.fail(site.engine, name, said, hint="Correct the field named above.")
    expect(page.locator("#prompt-preview .face.bad")).to_contain_text("has no column 'x'")
    field = page.locator('[data-field="prompts.columns.answer"] .bad-text')
    expect(field).to_have_text("rows.jsonl has no column 'x'; it has prompt")
    with page.expect_response("**/api/v1/prompt-preview"):
        page.get_by_role("button", name="Try again").click()
    page.get_by_role("button", name="Close the preview").click()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light")])
def test_it_is_accessible_and_nothing_is_cut(
    chromium: Any, site: Any, claim: Any, rows: Path, width: int, scheme: str
) -> None:
    touch = width == 390
    context = chromium.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, has_touch=touch
    )
    context.request.get(site.link(f"/?token={TOKEN}"))
    with opening(context, site.address) as visit:
        page = visit("/new")
        opened(page, rows)
        answered(site, claim)
        expect(page.locator(".preview-prompt")).to_have_count(3)
        expect(page.locator("#prompt-preview h2")).to_be_in_viewport()
        expect(page.locator(".preview-prompt h3").first).to_be_in_viewport()
        assert serious(page) == []
        assert page.evaluate(FAULTS, 24 if touch else 0) == []
    context.close()
