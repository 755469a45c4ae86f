"""The demo recipe over several seeds: scores before and after, steps and seconds to a target.

    python -m bench.demo_scores [--seeds 3] [--target 0.8] [--prompts 500]

Every seed is an ordinary run in a fresh data directory, evaluated after every step. Seconds are
those of the steps themselves, evaluation left out.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from typing import Any

from sqlalchemy import Engine

from storage.engine import open_database
from storage.read.runs import read_evaluations, read_run, read_steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--target", type=float, default=0.8)
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--set", action="append", default=[], help="passed on to opd train")
    options = parser.parse_args()
    ends: dict[str, list[float]] = {}
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as data:
            run_id = train(data, seed, options)
            engine = open_database(data)
            report(engine, run_id, seed, options.target, ends)
            engine.dispose()
    for name, values in ends.items():
        print(
            f"{name:28} mean {statistics.mean(values):.3f} over {len(values)} seeds, "
            f"standard error {spread(values):.3f}"
        )


def spread(values: list[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def train(data: str, seed: int, options: argparse.Namespace) -> str:
    settings = [
        f"seed={seed}",
        "evaluation.every=1",
        f"evaluation.prompts={options.prompts}",
        *options.set,
    ]
    command = [sys.executable, "-m", "app.cli.main", "train", "demo", "--data-dir", data, "--json"]
    for setting in settings:
        command += ["--set", setting]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    return str(json.loads(done.stdout.splitlines()[-1])["run_id"])


def report(
    engine: Engine, run_id: str, seed: int, target: float, ends: dict[str, list[float]]
) -> None:
    scores: dict[str, list[dict[str, Any]]] = {}
    for item in read_evaluations(engine, run_id)["items"]:
        if item["metric"] == "pass@1":
            scores.setdefault(item["suite"], []).append(item)
    columns = read_steps(engine, run_id)["columns"]
    phases = [c for c in columns if c.startswith("seconds_")]
    seconds = [sum(columns[p][i] or 0 for p in phases) for i in range(len(columns["step"]))]
    share = sum(columns["seconds_store"]) / sum(seconds)
    for suite, items in scores.items():
        reached = next((i["step"] for i in items if i["value"] >= target), None)
        took = (
            "not reached"
            if reached is None
            else f"{target:.0%} after {reached} steps, {sum(seconds[:reached]):.1f} s"
        )
        curve = " ".join(f"{i['value']:.2f}" for i in items)
        print(
            f"seed {seed} {suite:15} {shown(items[0])} -> {shown(items[-1])}   {took}   [{curve}]"
        )
        ends.setdefault(f"{suite} before", []).append(items[0]["value"])
        ends.setdefault(f"{suite} after", []).append(items[-1]["value"])
    run = read_run(engine, run_id)
    print(
        f"seed {seed} median step {statistics.median(seconds):.2f} s, storing {share:.1%} of it, "
        f"{run['bytes'] / run['tokens']:.0f} bytes a token with both top-8",
        flush=True,
    )


def shown(item: dict[str, Any]) -> str:
    return f"{item['value']:.3f} ± {item['standard_error']:.3f}"


if __name__ == "__main__":
    main()
