"""Below a short completion stand the other samples of its prompt; below a long one, nothing."""

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

from storage.read.rollouts import read_rollouts
from tests.browser.rollout.judged_run import SAMPLES, STEPS, judged

pytestmark = pytest.mark.browser


def test_others_of_the_prompt_are_a_click_away(open_page: Callable[[str], Any], site: Any) -> None:
    run_id = judged(site.engine, "same prompt")
    items = read_rollouts(site.engine, run_id, step=2)["items"]
    first = next(i["id"] for i in items if i["group"] == 0 and i["sample"] == 0)
    page = open_page(f"/rollout?id={first}")
    rows = page.locator(".same-row")
    expect(rows).to_have_count(4)
    for number in range(SAMPLES - 1):
        expect(rows.nth(number)).to_contain_text("step 2")
    expect(rows.first.locator("[class^=q], [class*=' q'], .same-text span").first).to_be_visible()
    page.get_by_role("button", name="More (4)").click()
    expect(rows).to_have_count(SAMPLES * STEPS - 1)
    rows.first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#token-view[data-ready=true]")
    assert first not in page.url


def test_a_long_text_asks_for_none(open_page: Callable[[str], Any], site: Any) -> None:
    longest = read_rollouts(site.engine, site.run_id, sort="-tokens", limit=1)["items"][0]["id"]
    page = open_page("/")
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(site.address.rstrip("/") + f"/rollout?id={longest}")
    page.wait_for_selector("#token-view[data-ready=true]")
    page.wait_for_timeout(500)
    assert page.locator(".same-prompt").is_hidden()
    assert not [url for url in requests if "/related" in url]
