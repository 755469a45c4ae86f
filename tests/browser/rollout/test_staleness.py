"""The head of a rollout that older weights wrote says by how many updates."""

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

from opd.types import StepEvent
from storage.read.rollouts import read_rollouts
from tests.support import stored_runs

pytestmark = pytest.mark.browser


def test_the_head_says_how_old_the_weights_were(open_page: Callable[[str], Any], site: Any) -> None:
    run_id, writer = stored_runs.started(site.engine, "stale", name="stale")
    kept = [stored_runs.rollout(2, n, staleness=s) for n, s in enumerate((None, 0, 1))]
    writer.step(StepEvent(2, {}, 60, 1.0, {"staleness": 1.0}, kept), stored_runs.texts)
    for item in read_rollouts(site.engine, run_id)["items"]:
        page = open_page(f"/rollout?id={item['id']}")
        page.wait_for_selector("#token-view[data-ready=true]")
        facts = page.locator(".rt-facts")
        if item["staleness"]:
            expect(facts).to_contain_text("staleness1 step")
            expect(facts.get_by_title("sampling.lag: written by weights")).to_be_visible()
        else:
            expect(facts).not_to_contain_text("staleness")
