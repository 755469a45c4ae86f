import pytest
import torch

from opd.devices.usage import memory_metrics, start_of_step
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


def test_a_processor_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", pytest.fail)
    start_of_step(torch.device("cpu"))
    assert memory_metrics(torch.device("cpu")) == {}
