"""Sampling beside a training: what there is, at next to no cost, and never at the run's expense."""

import os
import statistics
import time
from pathlib import Path

import psutil
import pytest

from app.worker.devices import system_usage
from app.worker.devices.system_usage import SystemUsageSampler
from opd.devices.gpus import DriverReport, Gpu
from storage.data_dir import RunDir
from storage.system_usage import EVERY, read_samples, usage_columns

PROCESSOR = {"system/cpu", "system/process_cpu", "system/process_memory", "system/memory"}
SHARE = 0.005  # of the processor's time, at most


def test_samples_of_a_processor_are_stored_while_the_block_lasts(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    with SystemUsageSampler(run, "cpu", every=0.02):
        until = time.monotonic() + 20
        while len(read_samples(run)) < 3:
            assert time.monotonic() < until
            sum(range(20_000))
    columns = usage_columns(run.system_usage.read_bytes())["columns"]
    assert set(columns) == {"time", "every", *PROCESSOR}  # and no GPU
    memory = psutil.virtual_memory()
    assert 0 < columns["system/process_memory"][-1] <= columns["system/memory"][-1] < memory.total
    assert all(0 <= share <= 1 for share in columns["system/cpu"])
    assert max(columns["system/process_cpu"]) <= (os.cpu_count() or 1) + 0.5


def test_a_gpu_is_asked_of_its_driver_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[int] = []

    def driver() -> DriverReport:
        requests.append(1)
        return DriverReport((Gpu(0, "H100", 80e9, 44e9, 97.0), Gpu(1, "H100", None, None, None)))

    monkeypatch.setattr(system_usage, "ask_driver", driver)
    sampler = SystemUsageSampler(RunDir(tmp_path), "cuda:0")
    first, second = sampler.sample(), sampler.sample()
    assert first["system/gpu"] == 0.97 and first["system/gpu_memory"] == 36e9
    assert set(second) == PROCESSOR and len(requests) == 1
    silent = SystemUsageSampler(RunDir(tmp_path), "cuda:1").sample()
    assert set(silent) == PROCESSOR  # the driver has no figures of this one


def test_a_sample_costs_next_to_nothing(tmp_path: Path) -> None:
    sampler = SystemUsageSampler(RunDir(tmp_path), "cpu")
    costs = []
    for number in range(50):
        start = time.thread_time()
        sampler._writer.append(float(number), sampler.sample())
        costs.append(time.thread_time() - start)
    assert statistics.median(costs) / EVERY < SHARE


def test_a_file_that_cannot_be_written_ends_the_samples_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "run").write_text("a file where the folder should be")
    with SystemUsageSampler(RunDir(tmp_path / "run"), "cpu", every=0.01) as sampler:
        sampler._thread.join(timeout=20)
        assert not sampler._thread.is_alive()
    assert "no longer recorded" in caplog.text
