"""The whole way in a real browser, with the real server, supervisor, worker and models."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.trained_site import enter, server

pytestmark = pytest.mark.browser


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[str]:
    """The link of a server on a fresh data directory."""
    with server(tmp_path) as link:
        yield link


def opened(page: Any, link: str) -> str:
    """Opens the link as soon as the port accepts; returns the server's address."""
    enter(page, link)
    page.goto(link)
    assert "token" not in page.url  # it has become a cookie, and left the address
    return link.partition("/?")[0]


def test_launch_watch_and_find_the_worst_token(chromium: Any, studio: str) -> None:
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    faults: list[str] = []
    page.on("console", lambda m: faults.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    address = opened(page, studio)
    try:
        launch(page)
        watch(page)
        find(page)
        stop(page, address)
    finally:
        shots = os.environ.get("OPD_SCREENSHOTS")
        if shots:
            page.screenshot(path=f"{shots}/journey.png")
        context.close()
    assert faults == []


def launch(page: Any) -> None:
    """From the empty list of runs, over the form, to a run."""
    page.get_by_role("link", name="New run").first.click()
    steps = page.get_by_label("Steps", exact=True)
    steps.fill("-3")
    page.locator("#field-steps-problem", has_text="greater than or equal to 1").wait_for()
    steps.fill("400")  # long enough to be watched, and stopped
    page.locator("#field-steps-problem", has_text="greater than or equal to 1").wait_for(
        state="detached"
    )
    page.locator("#start-run").click()
    page.wait_for_url(re.compile(r"/run\?id=run-"))


def watch(page: Any) -> None:
    """The chart grows while the run goes on; its first point leads to that step's rollouts."""
    points = 'document.querySelector(".js-plotly-plot .trace .point")'
    page.wait_for_function(f"{points} !== null")
    count = "document.querySelectorAll('.js-plotly-plot')[0].data[0].x.length"
    before = page.evaluate(count)
    page.wait_for_function(f"{count} > {before}")
    page.locator(".js-plotly-plot .trace .point").first.hover(force=True)
    page.locator(".js-plotly-plot .nsewdrag").first.click(position=centre_of_point(page))
    page.wait_for_url(re.compile(r"/rollouts\?run=run-.*step="))


def centre_of_point(page: Any) -> dict[str, float]:
    """The first chart's first point, from the corner of the layer that takes the clicks."""
    point: dict[str, float] = page.evaluate("""() => {
        const chart = document.querySelector(".js-plotly-plot");
        const point = chart.querySelector(".trace .point").getBoundingClientRect();
        const layer = chart.querySelector(".nsewdrag").getBoundingClientRect();
        return { x: point.x + point.width / 2 - layer.x, y: point.y + point.height / 2 - layer.y };
    }""")
    return point


def find(page: Any) -> None:
    """The list's first rollout, its worst token, and the sentence about it; Back works."""
    page.locator(".table.rollouts a[href*='rollout?id=']").first.click()
    page.wait_for_selector("#token-view[data-ready='true']")
    page.keyboard.press("n")
    detail = page.locator("#token-detail")
    detail.get_by_text("Teacher").first.wait_for()
    assert re.search(r"\d\.\d\d", detail.inner_text())
    assert "pos=" in page.url
    shared = page.url
    page.reload()
    page.wait_for_selector("#token-view[data-ready='true']")
    assert page.url == shared
    page.go_back()
    page.wait_for_url(re.compile(r"/rollouts\?run=run-"))


def stop(page: Any, address: str) -> None:
    """Stops the run from its page and keeps what it learnt."""
    run_id = re.search(r"run=(run-\w+)", page.url)
    assert run_id is not None
    page.goto(f"{address}/run?id={run_id[1]}")
    page.locator("#stop summary").click()
    page.get_by_role("button", name="Stop and save").click()
    page.locator(".status.cancelled").wait_for()
    page.locator("#resume").wait_for()
    run = page.request.get(f"{address}/api/v1/runs/{run_id[1]}").json()
    assert run["checkpoints"][-1]["step"] == run["step"] > 0
