"""From the click to a run's work: with a process that waits for runs, and without.

    python -m bench.starts.run_starts [--count 3] [--steps 1] [--pause 20]

A server in a fresh data directory for each; the runs are the demo's pair with nothing but one step
and a small evaluation, sent one after the other by REST, as the page does. Seconds from the request
to "loading models" in the run's log, to its first step, and to its end. In the pause before each
run, which users make too, the process that waits loads its libraries.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from opd.network import client

LIMIT = 120.0
CONFIG = {
    "device": "cpu",
    "threads": 1,
    "sampling": {"prompts_per_step": 2, "group_size": 2, "max_new_tokens": 8},
    "evaluation": {"prompts": 2, "temperatures": [0], "keep": 0},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=3, help="runs for each of both")
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--pause", type=float, default=20.0, help="seconds before each run")
    options = parser.parse_args()
    for standby in (False, True):
        spent = [list(t) for t in zip(*served(standby, options), strict=True)]
        names = ("loading its models", "first step", "end")
        shown = ", ".join(
            f"{name} {median(s):.1f} ({min(s):.1f} to {max(s):.1f})"
            for name, s in zip(names, spent, strict=True)
        )
        print(f"{'with' if standby else 'without'} a process that waits: {shown} s", flush=True)


def served(standby: bool, options: argparse.Namespace) -> list[tuple[float, float, float]]:
    with tempfile.TemporaryDirectory() as data:
        server = subprocess.Popen(
            [sys.executable, "-m", "app.cli.main", "serve", "--port", "0", "--data-dir", data],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OPD_STANDBY": str(int(standby))},
        )
        try:
            assert server.stdout is not None
            address = re.search(r"(http://\S+?)/\?token=(\S+)", server.stdout.readline())
            assert address is not None
            studio = ServerClient(address[1], address[2], Path(data))
            _until(studio.ready)
            runs = []
            for _ in range(options.count):
                time.sleep(options.pause)
                runs.append(studio.run(options.steps))
            return runs
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=30)


class ServerClient:
    def __init__(self, address: str, token: str, data_dir: Path) -> None:
        headers = {"Authorization": f"Bearer {token}"}
        self._client = client(address, base_url=address, headers=headers, timeout=10)
        self._data_dir = data_dir

    def run(self, steps: int) -> tuple[float, float, float]:
        """Seconds from the request to the loading of the models, the first step and the end."""
        start = time.perf_counter()
        run_id = self._ask("runs", {"config": CONFIG | {"steps": steps}})["id"]
        log = self._data_dir / "runs" / run_id / "log.txt"

        def said(text: str) -> Callable[[], bool]:
            return lambda: log.exists() and text in log.read_text(encoding="utf-8")

        moments = []
        for text in ("loading models", f"step {steps}/{steps}", "run finished"):
            _until(said(text))
            moments.append(time.perf_counter() - start)
        return moments[0], moments[1], moments[2]

    def ready(self) -> bool:
        try:
            return bool(self._ask("health")["supervisor"])
        except httpx.TransportError:  # it does not listen yet
            return False

    def _ask(self, path: str, content: dict[str, Any] | None = None) -> Any:
        reply = self._client.request(
            *("GET" if content is None else "POST", f"/api/v1/{path}"), json=content
        )
        return reply.raise_for_status().json()


def _until(condition: Callable[[], bool]) -> None:
    end = time.perf_counter() + LIMIT
    while not condition():
        if time.perf_counter() > end:
            raise TimeoutError(f"not within {LIMIT:.0f} s")
        time.sleep(0.02)


if __name__ == "__main__":
    main()
