"""How fast the pages are, in headless Chromium: every figure beside its limit, p50 and p95.

    python -m bench.inspector [--opens 10] [--training 3] [--quick]

Fills one database with 10 runs and 1M tokens, with rollouts of 1,000, 10,000 and 32,000 tokens,
and another with 1,000 runs. "In the page" is by the key k, neighbours not yet fetched; the empty
shell is the page of runs, warm. With --training N, the demo recipe is trained N times with its
page open and N times without, in turn. --quick opens small databases once, to see that it works.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from bench.fill import fill
from bench.support.chromium import CHROMIUM, FLAGS
from opd.config.run import parse
from storage.engine import open_database
from storage.queue import jobs
from storage.read.rollouts import read_rollouts
from storage.read.runs import read_steps
from tests.conftest import TOKEN, serving

PAINT_LIMITS = {1_000: 150, 10_000: 250, 32_000: 500}  # ms, p95
SERVER_SHARE = 30  # percent of a paint
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
KEY_TIMES = """([key, times]) => new Promise((done) => {
    const times_ms = [];
    const once = () => {
        if (times_ms.length === times) return done(times_ms);
        const start = performance.now();
        document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
        requestAnimationFrame(() => {
            const channel = new MessageChannel();
            channel.port1.onmessage = () => {
                times_ms.push(performance.now() - start);
                setTimeout(once, 40);
            };
            channel.port2.postMessage(0);
        });
    };
    once();
})"""
PRESS_AND_WAIT = """() => new Promise((done) => {
    const before = location.href, start = performance.now();
    document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "N", bubbles: true }));
    const look = () => {
        const there = document.querySelector('#token-view[data-ready="true"] .tv-tok.pinned');
        if (location.href !== before && there) done(performance.now() - start);
        else requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
})"""
SINCE_START = "performance.now()"
# Looked for at every frame: Playwright itself looks ever more rarely, up to half a second apart.
READY_AFTER = """(selector) => new Promise((ready) => {
    const look = () => document.querySelector(selector)
        ? ready(performance.now()) : requestAnimationFrame(look);
    look();
})"""


@dataclass(frozen=True)
class Sizes:
    """What is stored, and how often the page is opened for the growth of its memory."""

    runs: int
    tokens: int
    long: tuple[int, int, int]  # rollouts of so many tokens
    listed_runs: int
    memory_opens: int


FULL = Sizes(10, 1_000_000, (1_000, 10_000, 32_000), 1_000, 200)
QUICK = Sizes(2, 4_000, (1_500, 1_600, 1_700), 20, 2)


class Measurements:
    """Figures by name, each with the limit that its p95 must keep; None: no limit."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}
        self.limits: dict[str, float | None] = {}

    def note(self, name: str, value: float, limit: float | None = None) -> None:
        self.values.setdefault(name, []).append(value)
        self.limits[name] = limit

    def show(self) -> None:
        print(f"{'':48} {'p50':>9} {'p95':>9} {'limit':>7}")
        for name, values in self.values.items():
            limit, worst = self.limits[name], percentile(values)
            verdict = "" if limit is None else f"{limit:7.0f}  {'ok' if worst <= limit else 'OVER'}"
            print(f"{name:48} {statistics.median(values):9.1f} {worst:9.1f} {verdict}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--opens", type=int, default=10)
    parser.add_argument("--training", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    sizes, opens = (QUICK, 1) if options.quick else (FULL, options.opens)
    table = Measurements()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=[*FLAGS, "--enable-precise-memory-info"]
        )
        rollouts(browser, Path(folder) / "tokens", sizes, opens, table)
        many_runs(browser, Path(folder) / "runs", sizes, opens, table)
        for number in range(2 * options.training):
            training(browser, Path(folder) / f"train{number}", number % 2 == 1, table)
        browser.close()
    table.show()
    slowed = [table.values.get(f"training step, page {s}, ms") for s in ("open", "closed")]
    if slowed[0] and slowed[1]:
        ratio = statistics.median(slowed[0]) / statistics.median(slowed[1])
        print(f"training with the page open ÷ without, medians: {ratio:.3f} (limit 1.02)")


def rollouts(browser: Browser, folder: Path, sizes: Sizes, opens: int, table: Measurements) -> None:
    engine = open_database(folder)
    run_id = fill(engine, sizes.runs, sizes.tokens, sizes.long)
    longest = read_rollouts(engine, run_id, sort="-tokens", limit=4)["items"]
    engine.dispose()
    with serving(folder) as site:
        for _ in range(opens):
            with visitor(browser, site) as page:
                open_rollouts(page, site, longest, table)
        with visitor(browser, site) as page:
            memory(page, site, run_id, sizes.memory_opens, table)
        with visitor(browser, site) as page:
            lists(page, site, run_id, opens, table)


def open_rollouts(
    page: Page, site: str, longest: list[dict[str, Any]], table: Measurements
) -> None:
    shell = opened(page, f"{site}/", ".page-bar")
    table.note("empty shell by address, ms", shell)
    page.goto(f"{site}/rollout?id={longest[3]['id']}&sort=-tokens&at=3")
    page.wait_for_selector(READY)
    for at in (2, 1, 0):
        page.wait_for_timeout(700)
        item = longest[at]
        page.keyboard.press("k")
        page.wait_for_selector(f'{READY}[data-rollout="{item["id"]}"]')
        times = page.evaluate("window.__opd.open")
        limit = PAINT_LIMITS.get(item["tokens"])
        table.note(f"{item['tokens']} tokens in the page, ms", times["total"], limit)
        share = 100 * server_ms(page, item["id"]) / times["total"]
        table.note(f"{item['tokens']} tokens, server's share, %", share, SERVER_SHARE)
        for ms in page.evaluate(KEY_TIMES, ["n", 5]):
            table.note(f"{item['tokens']} tokens, next worst token, ms", ms, 100)
    for ms in page.evaluate(SCROLL):
        table.note("frame while scrolling the longest, ms", ms, 33)
    for item in longest[2::-1]:
        address = f"{site}/rollout?id={item['id']}"
        more = opened(page, address, READY) - shell
        table.note(f"{item['tokens']} tokens by address, above the shell, ms", more, 600)
    size = len(page.request.get(f"{site}/api/v1/rollouts/{longest[0]['id']}/tokens").body())
    table.note("payload of the longest, bytes per token", size / longest[0]["tokens"], 24)


def server_ms(page: Page, rollout_id: str) -> float:
    """From the request of the tokens to the first byte of the answer, as the browser saw it."""
    return float(
        page.evaluate(
            "(id) => Math.max(0, ...performance.getEntriesByType('resource')"
            ".filter((e) => e.name.includes(`${id}/tokens`))"
            ".map((e) => e.responseStart - e.requestStart))",
            rollout_id,
        )
    )


def memory(page: Page, site: str, run_id: str, opens: int, table: Measurements) -> None:
    """Growth of the heap, garbage collected, over opens with the key j after a tenth as many."""
    page.goto(f"{site}/rollout?id={first_id(page, site, run_id)}&sort=tokens&at=0")
    page.wait_for_selector(READY)
    session = page.context.new_cdp_session(page)
    used = []
    for count in (max(1, opens // 10), opens):
        for _ in range(count):
            before = page.get_attribute("#token-view", "data-rollout")
            page.keyboard.press("j")
            page.wait_for_selector(f'{READY}:not([data-rollout="{before}"])')
        session.send("HeapProfiler.collectGarbage")
        used.append(session.send("Runtime.getHeapUsage")["usedSize"])
    table.note(f"memory after {opens} opens, growth, MB", (used[1] - used[0]) / 1e6, 20)


def lists(page: Page, site: str, run_id: str, opens: int, table: Measurements) -> None:
    """The worst tokens of a run, as the server answers them, and the next one across rollouts."""
    for _ in range(opens):
        for name, query in (("", ""), (", one class", "&token_class=digit")):
            start = float(page.evaluate(SINCE_START))
            page.evaluate(
                "(url) => fetch(url).then((r) => r.json())",
                f"{site}/api/v1/runs/{run_id}/hot-tokens?limit=50{query}",
            )
            table.note(
                f"worst tokens of a run{name}, ms",
                float(page.evaluate(SINCE_START)) - start,
                200,
            )
    page.goto(f"{site}/rollout?id={first_id(page, site, run_id)}")
    page.wait_for_selector(READY)
    page.wait_for_timeout(1000)
    for _ in range(opens):
        table.note("next worst token across the run, ms", page.evaluate(PRESS_AND_WAIT), 200)
        page.wait_for_timeout(500)


def first_id(page: Page, site: str, run_id: str) -> str:
    address = f"{site}/api/v1/runs/{run_id}/rollouts?sort=tokens&limit=1"
    return str(page.request.get(address).json()["items"][0]["id"])


def many_runs(
    browser: Browser, folder: Path, sizes: Sizes, opens: int, table: Measurements
) -> None:
    engine = open_database(folder)
    for number in range(sizes.listed_runs):
        jobs.create_run(engine, parse({"name": f"sweep {number}", "seed": number}))
    engine.dispose()
    with serving(folder) as site, visitor(browser, site) as page:
        opened(page, f"{site}/", ".table.runs tbody tr")
        for _ in range(opens):
            ms = opened(page, f"{site}/", ".table.runs tbody tr")
            table.note(f"page of {sizes.listed_runs:,} runs, by address, ms", ms, 1000)


def training(browser: Browser, folder: Path, watched: bool, table: Measurements) -> None:
    """One run of the demo recipe, its page open or not; the seconds of its steps."""
    engine = open_database(folder)
    with serving(folder) as site:
        command = [sys.executable, "-m", "app.cli.main", "train", "demo", "--json"]
        job = subprocess.Popen(
            [*command, "--data-dir", str(folder), "--set", "evaluation.every=100"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ,
        )
        if watched:
            with visitor(browser, site) as page:
                run_id = started(page, site)
                page.goto(f"{site}/run?id={run_id}")
                output, _ = job.communicate()
        else:
            output, _ = job.communicate()
    run_id = json.loads(output.decode().strip().splitlines()[-1])["run_id"]
    columns = read_steps(engine, run_id)["columns"]
    engine.dispose()
    seconds = [columns[name] for name in columns if name.startswith("seconds_")]
    state = "open" if watched else "closed"
    for step in list(zip(*seconds, strict=True))[2:]:  # the first ones warm up
        table.note(f"training step, page {state}, ms", 1000 * sum(step))


def started(page: Page, site: str) -> str:
    while True:
        items = page.request.get(f"{site}/api/v1/runs").json()["items"]
        if items:
            return str(items[0]["id"])
        page.wait_for_timeout(200)


@contextmanager
def visitor(browser: Browser, site: str) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.goto(f"{site}/?token={TOKEN}")
    page.wait_for_selector(".page-bar")
    yield page
    context.close()


def opened(page: Page, address: str, ready: str) -> float:
    """Milliseconds from the start of the navigation until the selector is there."""
    page.goto(address, wait_until="commit")
    return float(page.evaluate(READY_AFTER, ready))


def percentile(values: list[float], share: float = 0.95) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


if __name__ == "__main__":
    main()
