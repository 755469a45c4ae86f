"""Equal rollouts and tokens stand as one entry with their number; all of them are a click away."""

from collections.abc import Callable
from typing import Any

import pytest

from opd.types import EvaluationEvent
from storage.queue import jobs
from storage.read.rollouts import read_rollouts
from tests.support import stored_runs

pytestmark = pytest.mark.browser


@pytest.fixture
def run_id(site: Any) -> str:
    """Its evaluation and its probe of step 0 are one text; another sample is not."""
    name, writer = stored_runs.started(site.engine, "same", name="same")
    record = stored_runs.record(tokens=5)
    rollouts = [
        stored_runs.rollout(0, 0, sample, kind=kind, completion="one text", record=record)
        for kind, sample in (("eval", 0), ("eval", 1), ("probe", 0))
    ]
    other = stored_runs.rollout(0, 0, 2, kind="eval", record=stored_runs.record(tokens=5, seed=7))
    writer.evaluation(EvaluationEvent(0, [], [*rollouts, other]), stored_runs.texts)
    jobs.finish(site.engine, name, 1, "finished")
    return name


def test_equal_entries_stand_together(
    open_page: Callable[[str], Any], site: Any, run_id: str
) -> None:
    items = read_rollouts(site.engine, run_id)["items"]
    assert len({item["same"] for item in items}) == 2
    page = open_page(f"/rollouts?run={run_id}")
    shown = page.locator("tr[data-rollout]:visible")
    shown.first.wait_for()
    assert shown.count() == 2
    button = page.locator("tr[data-rollout] .same:visible")
    assert button.inner_text() == "×3"
    assert "eval ×2, probe" in button.get_attribute("title")
    button.click()
    assert shown.count() == len(items)
    assert "/rollouts?" in page.url, "the button opens no rollout"
    page.goto(page.url + "&view=worst")
    page.locator(".worst-row:visible").first.wait_for()
    values = page.locator(".worst-row .worst-value").all_inner_texts()
    assert sum(value.startswith("×3 ") for value in values) >= 5 - 2
    assert len(values) < 4 * 5
