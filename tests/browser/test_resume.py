"""The run page's Resume button: what has changed since the start, and going on all the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from opd.errors import ErrorKind
from storage.queue import jobs
from storage.queue.failure import Failure
from storage.queue.inputs import read_inputs
from storage.read.runs import read_run
from tests.support.stored_runs import OWNER, interrupted_run, write_prompts

pytestmark = pytest.mark.browser
Visit = Callable[[str], Any]


def test_resume_lists_what_has_changed_and_goes_on_by_choice(
    open_page: Visit, site: Any, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    run_id = interrupted_run(site.engine, rows)
    write_prompts(rows, 1200)
    page = open_page(f"/run?id={run_id}")
    page.locator("#resume").click()
    panel = page.locator("#changes")
    expect(panel).to_contain_text(
        "prompts.source: rows.jsonl has 1,200 rows, 4 when the run started"
    )
    expect(page.locator("#resume-anyway")).to_be_focused()
    assert read_run(site.engine, run_id)["status"] == "interrupted"
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 800})
        box = page.locator("#resume-anyway").bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    panel.get_by_role("button", name="Not now").click()
    expect(panel).to_have_count(0)
    page.locator("#resume").click()
    page.locator("#resume-anyway").click()
    expect(page.locator(".status.queued")).to_be_visible()
    expect(panel).to_have_count(0)
    assert read_inputs(site.engine, run_id).accept
    jobs.request_cancel(site.engine, run_id, "discard")


def test_resume_goes_on_at_once_where_nothing_has_changed(
    open_page: Visit, site: Any, tmp_path: Path
) -> None:
    run_id = interrupted_run(site.engine, tmp_path / "rows.jsonl")
    page = open_page(f"/run?id={run_id}")
    page.locator("#resume").click()
    expect(page.locator(".status.queued")).to_be_visible()
    expect(page.locator("#changes")).to_have_count(0)
    jobs.request_cancel(site.engine, run_id, "discard")


def test_a_run_that_an_attempt_refused_is_resumed_from_its_error(
    open_page: Visit, site: Any, tmp_path: Path
) -> None:
    """Such as a revision of the hub, which only an attempt asks for."""
    run_id = interrupted_run(site.engine, tmp_path / "rows.jsonl")
    jobs.requeue(site.engine, run_id)
    attempt = jobs.claim(site.engine, run_id, f"slot of {run_id}", OWNER)
    failure = Failure(ErrorKind.CHANGED_INPUTS, "student.model: revision is b, was a")
    jobs.finish(site.engine, run_id, attempt, "failed", failure)
    page = open_page(f"/run?id={run_id}")
    page.locator("#accept-changes").click()
    expect(page.locator(".status.queued")).to_be_visible()
    assert read_inputs(site.engine, run_id).accept
    jobs.request_cancel(site.engine, run_id, "discard")
