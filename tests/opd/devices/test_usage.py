import pytest
import torch

from opd.devices.usage import memory_metrics, peak_from_here, start_of_step
from tests.support.devices.fake_gpus import FakeCuda


def test_a_gpu_s_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(peak=30.5e9, reserved=34e9).install(monkeypatch)
    reset: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset.append)
    start_of_step(torch.device("cuda:0"))
    assert reset == [torch.device("cuda:0")]
    assert memory_metrics(torch.device("cuda:0")) == {
        "memory_peak": 30.5e9,
        "memory_reserved": 34e9,
    }


def test_what_is_measured_within_a_step_hides_no_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda:0")
    FakeCuda(peak=9e9, reserved=10e9).install(monkeypatch)
    start_of_step(device)
    peak_from_here(device)
    FakeCuda(peak=2e9, reserved=12e9).install(monkeypatch)
    peak_from_here(device)
    FakeCuda(peak=3e9, reserved=11e9).install(monkeypatch)
    assert memory_metrics(device) == {"memory_peak": 9e9, "memory_reserved": 12e9}
    start_of_step(device)
    assert memory_metrics(device) == {"memory_peak": 3e9, "memory_reserved": 11e9}


def test_a_processor_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", pytest.fail)
    start_of_step(torch.device("cpu"))
    assert memory_metrics(torch.device("cpu")) == {}
