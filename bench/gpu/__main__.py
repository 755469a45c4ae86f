"""What a GPU does with real shapes, part by part, from random weights and without a network.

    python -m bench.gpu [--part table] [--device cuda|cpu] [--out FILE] [--models FOLDER]
        [--times N] [--small]

A student of Qwen3-0.6B's shape and a teacher of Qwen3-4B's, a vocabulary of 151,936 ids, 16 × 4
rollouts of 512 tokens a step, bfloat16. Every part is a process of its own with a time limit, and
takes about a minute on one H100: medians with their range over N measurements (three) after one
that warms up, fewer only where time is short (n is printed). Without --part all are run, the
table first. Each line is printed, and appended to FILE as a line of JSON.

It needs the project's tree, torch, transformers, pydantic, psutil and safetensors; with peft the
adapters, with bitsandbytes the quantized weights, with trl and datasets TRL's step. Packages that
a machine without a network lacks may lie beside it as wheels: pip install --no-index --no-deps
WHEELS/*.whl. --small is the default on a processor.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.gpu.parts import PARTS, figures_of

UNUSABLE = 2  # exit code where the device is not there
MAKING = 60.0  # seconds that a part may take besides for making the models


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="; ".join(f"{name}: {part.help}" for name, part in PARTS.items()),
    )
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--device", default="cuda", help="cuda (default), cuda:N or cpu")
    parser.add_argument("--out", type=Path, help="file to append lines of JSON to")
    parser.add_argument("--models", type=Path, help="folder that keeps the models between calls")
    parser.add_argument("--times", type=int, default=3, help="measurements of each figure (3)")
    parser.add_argument("--small", action="store_true", help="tiny shapes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        options.models = options.models or Path(folder)
        options.models.mkdir(parents=True, exist_ok=True)
        return run_part(options) if options.part else run_all(options)


def run_all(options: argparse.Namespace) -> int:
    """Each part in a process of its own; the exit code is 1 where one failed, 2 without device."""
    failed = []
    for name, part in PARTS.items():
        command = [sys.executable, "-m", "bench.gpu", "--part", name, "--device", options.device]
        command += ["--times", str(options.times), "--models", str(options.models)]
        command += ["--small"] if options.small else []
        command += ["--out", str(options.out)] if options.out else []
        try:
            code = subprocess.run(command, check=False, timeout=part.limit + MAKING).returncode
        except subprocess.TimeoutExpired:
            print(f"{name}: stopped after {part.limit + MAKING:.0f} s", flush=True)
            code = 1
        if code == UNUSABLE:
            return code
        if code:
            failed.append(name)
    if failed:
        print(f"\nfailed: {', '.join(failed)}")
    return 1 if failed else 0


def run_part(options: argparse.Namespace) -> int:
    import torch

    from bench.gpu.workbench import Workbench
    from opd.devices.choice import pick_device
    from opd.errors import UserError

    try:
        device = pick_device(options.device)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return UNUSABLE
    small = options.small or device.type == "cpu"
    bench = Workbench(device, small, options.models, options.times)
    threads = os.environ.get("OMP_NUM_THREADS")
    torch.set_num_threads(int(threads) if threads else os.cpu_count() or 1)
    environment = bench.environment()
    print(f"\n{options.part}: {PARTS[options.part].help}; {environment}", flush=True)
    start = time.perf_counter()
    for figures in figures_of(options.part, bench):
        print(f"  {figures.name:34} {printed(figures.values)}", flush=True)
        if options.out:
            write_line(options.out, options.part, figures, environment)
    print(f"  ({time.perf_counter() - start:.0f} s)", flush=True)
    return 0


def printed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_value(value)}" for name, value in values.items())


def _value(value: Any) -> str:
    if isinstance(value, dict):
        low, high = _value(value["low"]), _value(value["high"])
        return f"{_value(value['median'])} ({low} to {high}, n={value['n']})"
    if value is None:
        return "not measured"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def write_line(out: Path, part: str, figures: Any, environment: Mapping[str, Any]) -> None:
    line = {"part": part, "name": figures.name, "at": datetime.now(UTC).isoformat("T", "seconds")}
    line |= {**environment, "figures": dict(figures.values)}
    with out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    sys.exit(main())
