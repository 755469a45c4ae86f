import pytest
import torch

from opd.devices.lack_of_memory import lack_of_memory, memory_figures
from opd.errors import ErrorKind
from tests.support.devices.fake_gpus import FakeCuda

GPU = torch.device("cuda:0")
ERROR = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a total")


def test_a_gpu_s_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(free=0.3e9, total=80e9, peak=76e9, reserved=79e9).install(monkeypatch)
    error = lack_of_memory(ERROR, GPU, "student", 7)
    assert (error.kind, error.phase, error.where) == (ErrorKind.OUT_OF_MEMORY, "student", "")
    assert error.message == (
        "out of memory in the student's forward and backward pass of step 7 on cuda:0: the run's "
        "peak was 76.0 GB, 300.0 MB of 80.0 GB are free (OutOfMemoryError: CUDA out of memory. "
        "Tried to allocate 2.00 GiB. GPU 0 has a total)"
    )


def test_what_other_programs_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(free=0.3e9, total=80e9, peak=9e9, reserved=10e9).install(monkeypatch)
    assert memory_figures(GPU).endswith("other programs hold about 69.7 GB")


def test_a_gpu_that_answers_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(broken="CUDA error: unknown error").install(monkeypatch)
    assert "cannot be read (CUDA error: unknown error)" in memory_figures(GPU)


def test_a_processor_s_figures() -> None:
    assert memory_figures(torch.device("cpu")).startswith("the run holds ")
