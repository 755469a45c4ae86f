"""Samples of a run's machine: whole lines, few of them however long the run."""

from itertools import pairwise
from pathlib import Path

import pytest

from storage.data_dir import RunDir
from storage.system_usage import MOST_SAMPLES, SystemUsageWriter, read_samples, usage_columns

WEEK = 7 * 24 * 3600


def test_samples_come_back_as_columns(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run-1")
    assert read_samples(run) == [] and usage_columns(b"") == {"columns": {}}
    writer = SystemUsageWriter(run, every=2.0)
    writer.append(100.0, {"system/cpu": 0.5})
    writer.append(102.0, {"system/cpu": 0.25, "system/gpu": 1.0})
    assert usage_columns(run.system_usage.read_bytes())["columns"] == {
        "time": [100.0, 102.0],
        "every": [2.0, 2.0],
        "system/cpu": [0.5, 0.25],
        "system/gpu": [None, 1.0],
    }


def test_a_week_stays_small_and_evenly_spread(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    writer, now = SystemUsageWriter(run), 0.0
    while now < WEEK:
        values = {f"system/{name}": 1e9 + now for name in ("cpu", "memory", "gpu", "gpu_memory")}
        writer.append(now, values)
        now += writer.every
    samples = read_samples(run)
    assert MOST_SAMPLES / 2 <= len(samples) < MOST_SAMPLES
    assert run.system_usage.stat().st_size < 300_000
    gaps = {b["time"] - a["time"] for a, b in pairwise(samples)}
    assert gaps == {writer.every} == {s["every"] for s in samples}
    assert SystemUsageWriter(run).every == writer.every  # another attempt goes on at that pace


@pytest.mark.parametrize("broken", ['{"time": 3.0, "ev', "[1]", '{"other": 1}', "\x00\xff"])
def test_a_line_that_is_not_whole_is_left_out(tmp_path: Path, broken: str) -> None:
    run = RunDir(tmp_path)
    SystemUsageWriter(run).append(1.0, {"system/cpu": 0.5})
    with run.system_usage.open("a", encoding="utf-8") as file:
        file.write(broken + "\n")
    SystemUsageWriter(run).append(9.0, {"system/cpu": 0.75})
    assert usage_columns(run.system_usage.read_bytes())["columns"]["system/cpu"] == [0.5, 0.75]
