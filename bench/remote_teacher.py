"""How much of a teacher's server is used: its own prefill throughput, and what a run gets of it.

    python -m bench.remote_teacher URL MODEL [--top-k 0 20] [--rows 128] [--length 60]
        [--vocabulary 76] [--rounds 3]

For each k, tokens per second: `bare`, the same sequences without `prompt_logprobs`; `server`, the
form that a run asks in, saturated (the best of several sizes of requests and numbers of them at
once) and its answers thrown away; `ours`, as a run's teacher reads them. The quickest of the
rounds, which take turns.
"""

import argparse
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx

from opd.config.models import RouteConfig
from opd.network import HttpClient, client
from opd.teachers.vllm_answers import AnswerReader, Server
from opd.teachers.vllm_client import RemoteTeacher

SATURATED = ((64, 4), (16, 8), (8, 16))  # rows of a request, requests at once


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("model")
    parser.add_argument("--top-k", type=int, nargs="+", default=[0, 20])
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--length", type=int, default=60)
    parser.add_argument("--vocabulary", type=int, default=76)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rng = random.Random(0)
    low, high = options.length * 2 // 3, options.length * 4 // 3
    rows = [
        [rng.randrange(options.vocabulary) for _ in range(rng.randint(low, high))]
        for _ in range(options.rows)
    ]
    for k in options.top_k:
        report(options.url, options.model, k, rows, options.rounds)


def report(url: str, model: str, k: int, rows: list[list[int]], rounds: int) -> None:
    given = {"kind": "remote", "url": url, "model": model, "top_k": k, "timeout": 600}
    config = RouteConfig.model_validate(given)
    tokens, teacher = sum(map(len, rows)), RemoteTeacher(config)
    prompts, completions = [r[:1] for r in rows], [r[1:] for r in rows]
    reader = AnswerReader(Server(url, "teacher", None), k)
    scored = reader.body(model, rows)
    bare = {name: value for name, value in scored.items() if name != "prompt_logprobs"}
    with client(url, timeout=600, limits=httpx.Limits(max_connections=None)) as connection:
        ways: dict[str, Callable[[], Any]] = {
            f"{name} {size}×{at_once}": partial(saturate, connection, url, body, size, at_once)
            for name, body in (("bare", bare), ("server", scored))
            for size, at_once in SATURATED
        }
        ways["ours"] = partial(teacher.read, prompts, completions)
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds + 1):
            for name, way in ways.items():
                started = time.perf_counter()
                way()
                seconds[name].append(time.perf_counter() - started)
    teacher.close()
    rates = {name: tokens / min(s[1:]) for name, s in seconds.items()}  # warm
    best = {
        name: max((r, n) for n, r in rates.items() if n.startswith(name))
        for name in ("bare", "server", "ours")
    }
    shown = ", ".join(f"{n} {r:,.0f} tokens/s" for r, n in best.values())
    print(f"k {k}: {shown}; ours/server {best['ours'][0] / best['server'][0]:.0%}")


def saturate(
    connection: HttpClient, url: str, body: dict[str, Any], size: int, at_once: int
) -> None:
    """The rows of `body` in requests of `size`, so many under way at once."""
    rows = body["prompt"]
    bodies = [body | {"prompt": rows[i : i + size]} for i in range(0, len(rows), size)]

    def ask(one: dict[str, Any]) -> None:
        connection.post(f"{url}/completions", json=one).raise_for_status()

    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(ask, bodies))


if __name__ == "__main__":
    main()
