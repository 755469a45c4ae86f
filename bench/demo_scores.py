"""A recipe over several seeds: scores before and after, steps and seconds to a target, seconds by
phase, memory.

    python -m bench.demo_scores [--seeds 3] [--target 0.8] [--prompts 500] [--every 1]
        [--recipe smollm-handbook] [--data-dir DIR]

Every seed is an ordinary run, in a fresh data directory unless one is given, where it stays for the
pages to show. Seconds are those of the steps themselves, evaluation left out.
"""

import argparse
import json
import math
import resource
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
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--data-dir", default="")
    parser.add_argument("--every", type=int, default=1, help="steps between evaluations")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--target", type=float, default=0.8)
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--set", action="append", default=[], help="passed on to opd train")
    options = parser.parse_args()
    ends: dict[str, list[float]] = {}
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as fresh:
            data = options.data_dir or fresh
            run_id = train(data, seed, options)
            engine = open_database(data)
            report(engine, run_id, seed, options.target, ends)
            engine.dispose()
    for name, values in ends.items():
        print(
            f"{name:28} mean {statistics.mean(values):.3f} over {len(values)} seeds, "
            f"standard error {spread(values):.3f}"
        )
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    print(f"peak memory of a run's process {peak:.1f} GB")


def spread(values: list[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def train(data: str, seed: int, options: argparse.Namespace) -> str:
    settings = [
        f"seed={seed}",
        f"evaluation.every={options.every}",
        f"evaluation.prompts={options.prompts}",
        *options.set,
    ]
    command = [sys.executable, "-m", "app.cli.main", "train", options.recipe]
    command += ["--data-dir", data, "--json"]
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
    by_phase = {p.removeprefix("seconds_"): sum(s or 0 for s in columns[p]) for p in phases}
    print(
        f"seed {seed} {len(seconds)} steps, {sum(columns['tokens'])} completion tokens, "
        f"{sum(columns['flops']) / 1e12:.1f} TFLOP; seconds: "
        + ", ".join(f"{phase} {total:.1f}" for phase, total in by_phase.items())
    )
    run = read_run(engine, run_id)
    print(f"seed {seed} {(run['finished_at'] - run['started_at']) / 60:.1f} minutes in all")
    print(
        f"seed {seed} median step {statistics.median(seconds):.2f} s, storing {share:.1%} of it, "
        f"{run['bytes'] / run['tokens']:.0f} bytes a token with both top-8, largest sampler gap "
        f"{max(gap or 0 for gap in columns.get('sampler_gap', [0])):.1e} nats",
        flush=True,
    )


def shown(item: dict[str, Any]) -> str:
    return f"{item['value']:.3f} ± {item['standard_error']:.3f}"


if __name__ == "__main__":
    main()
