"""From the command to the first heatmap, and to the end of the run, in a real browser.

    python -m bench.first_heatmap [--screenshots DIR] [--quick]

Starts `opd demo` in a fresh data directory, opens the printed link in Chromium, waits until the
run's page offers a rollout, opens it, and waits until its tokens are painted. --quick cancels the
run then.
"""

import argparse
import json
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import Page, sync_playwright

from bench.support.chromium import CHROMIUM, FLAGS

LIMIT = 300.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--screenshots", type=Path)
    parser.add_argument("--quick", action="store_true", help="cancel the run after the heatmap")
    options = parser.parse_args()
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as data:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        start = time.perf_counter()
        server = subprocess.Popen(
            [sys.executable, "-m", "app.cli.main", "demo", "--port", "0", "--data-dir", data],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert server.stdout is not None
            link = re.search(r"http://\S+", server.stdout.readline())
            assert link is not None
            measure(browser.new_page(), link[0], start, options)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=30)


def measure(page: Page, link: str, start: float, options: argparse.Namespace) -> None:
    def passed(what: str) -> None:
        print(f"{time.perf_counter() - start:6.1f} s  {what}", flush=True)

    address, query = link.split("/run?")
    run_id = parse_qs(query)["id"][0]
    api = f"{address}/api/v1/runs/{run_id}"
    open_when_up(page, link, start)
    passed("the run's page is open")
    stored = wait(page, start, f"{api}/rollouts?limit=1", lambda answer: answer["total"] > 0)
    passed("a rollout is stored")
    page.goto(f"{address}/rollout?id={stored['items'][0]['id']}")
    page.wait_for_selector("#token-view[data-ready='true']", timeout=60_000)
    passed("its heatmap is painted")
    if options.screenshots:
        page.screenshot(path=options.screenshots / "first_heatmap.png")
    if options.quick:
        page.request.post(f"{api}/cancel", data={"mode": "discard"}, headers={"Origin": address})
    page.goto(f"{address}/run?id={run_id}")
    run = wait(page, start, api, lambda answer: answer["status"] not in ("queued", "running"))
    passed(f"the run is {run['status']}: accuracy {run['score_start']} -> {run['score']}")
    if options.screenshots:
        page.wait_for_timeout(500 if options.quick else 3000)
        page.screenshot(path=options.screenshots / "run.png", full_page=True)


def open_when_up(page: Page, link: str, start: float) -> None:
    """The link is printed before the port accepts; a user reloads, and this asks the port."""
    where = urlsplit(link)
    while time.perf_counter() - start < LIMIT:
        with socket.socket() as probe:
            if probe.connect_ex((where.hostname, where.port)) == 0:
                break
        time.sleep(0.1)
    page.goto(link)


def wait(page: Page, start: float, url: str, done: Callable[[Any], bool]) -> dict[str, Any]:
    while time.perf_counter() - start < LIMIT:
        answer: dict[str, Any] = json.loads(page.request.get(url).text())
        if done(answer):
            return answer
        time.sleep(0.2)
    raise TimeoutError(url)


if __name__ == "__main__":
    main()
