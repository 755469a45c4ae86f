"""How fast the token view paints, in headless Chromium: p50 and p95 in milliseconds.

    python -m bench.paint [--opens 10]

Fills a database with 10 runs and 1M tokens and opens rollouts of 1,000, 10,000 and 32,000 tokens:
within the page by the key k, neighbours not yet fetched, and by their address. The empty shell is
the page of runs, warm. Also the key n, frames while scrolling, and bytes a token of the payload.
"""

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from bench.fill import fill
from storage import queries
from storage.engine import open_database
from tests.conftest import CHROMIUM, FLAGS, TOKEN, _serving

LONG = (1_000, 10_000, 32_000)
READY = '#token-view[data-ready="true"]'
SCROLL = """() => new Promise((done) => {
    const pane = document.querySelector(".tv-scroll"), frames = [];
    let last = performance.now();
    const frame = (now) => {
        frames.push(now - last); last = now; pane.scrollTop += 240;
        frames.length < 90 ? requestAnimationFrame(frame) : done(frames.slice(1));
    };
    requestAnimationFrame(frame);
})"""
SINCE_START = "performance.now()"
Times = dict[str, list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--opens", type=int, default=10)
    opens = parser.parse_args().opens
    times: Times = {}
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        engine = open_database(folder)
        run_id = fill(engine, 10, 1_000_000, LONG)
        longest = queries.rollouts(engine, run_id, sort="-tokens", limit=4)["items"]
        engine.dispose()
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        with _serving(Path(folder)) as site:
            for _ in range(opens):
                measure(browser, site, longest, times)
        browser.close()
    for name, values in times.items():
        print(f"{name:34} p50 {statistics.median(values):7.1f}   p95 {percentile(values):7.1f}")


def measure(browser: Browser, site: str, longest: list[dict[str, Any]], times: Times) -> None:
    def note(name: str, value: float) -> None:
        times.setdefault(name, []).append(value)

    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.goto(f"{site}/?token={TOKEN}")
    page.wait_for_selector(".page-bar")
    note("empty shell by address, ms", opened(page, f"{site}/", ".page-bar"))
    page.goto(f"{site}/rollout?id={longest[3]['id']}&sort=-tokens&at=3")
    page.wait_for_selector(READY)
    for at in (2, 1, 0):
        page.wait_for_timeout(700)
        item = longest[at]
        page.keyboard.press("k")
        page.wait_for_selector(f'{READY}[data-rollout="{item["id"]}"]')
        note(f"{item['tokens']} tokens in the page, ms", page.evaluate("window.__opd.open.total"))
    for frame in page.evaluate(SCROLL):
        note("frame while scrolling 32,000, ms", frame)
    for item in longest[2::-1]:
        address = f"{site}/rollout?id={item['id']}"
        note(f"{item['tokens']} tokens by address, ms", opened(page, address, READY))
    size = len(page.request.get(f"{site}/api/v1/rollouts/{longest[0]['id']}/tokens").body())
    note("payload of 32,000, bytes a token", size / longest[0]["tokens"])
    context.close()


def opened(page: Page, address: str, ready: str) -> float:
    """Milliseconds from the start of the navigation until the selector is there."""
    page.goto(address, wait_until="commit")
    page.wait_for_selector(ready)
    return float(page.evaluate(SINCE_START))


def percentile(values: list[float], share: float = 0.95) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


if __name__ == "__main__":
    main()
