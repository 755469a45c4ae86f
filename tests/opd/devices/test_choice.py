from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch

from opd.devices import choice
from opd.devices.choice import free_memory, give_back_memory, on_device, pick_device, unused_gpu
from opd.errors import ErrorKind, UserError
from tests.support.devices.fake_gpus import FakeCuda

GPU = torch.device("cuda")
GONE = "The NVIDIA driver on your system is too old (found version 11040)"


def test_the_first_gpu_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(count=2).install(monkeypatch)
    assert pick_device("auto") == pick_device("cuda") == GPU
    assert pick_device("cuda:1").index == 1
    assert pick_device("cpu").type == "cpu"


@pytest.mark.parametrize(("count", "there"), [(1, "1 CUDA device here; use cuda:0, auto or cpu")])
def test_a_gpu_that_is_not_there(count: int, there: str, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(count=count).install(monkeypatch)
    with pytest.raises(UserError) as caught:
        pick_device("cuda:3")
    assert caught.value.where == "device" and there in caught.value.message


def test_a_torch_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(count=0).install(monkeypatch)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    with pytest.raises(UserError, match=r"^device: cuda cannot be used: .*built without CUDA"):
        pick_device("cuda")


def test_a_driver_that_is_gone_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(count=0, broken=GONE).install(monkeypatch)
    monkeypatch.setattr(choice, "gpu_count", lambda: 1)
    said: list[str] = []
    assert pick_device("auto", said.append).type == "cpu"
    assert len(said) == 1 and GONE in said[0] and "processor" in said[0]
    with pytest.raises(UserError, match="too old"):
        pick_device("cuda:0")


def test_a_driver_that_raises_where_it_should_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(count=0, broken=GONE).install(monkeypatch)

    def fail() -> bool:
        raise RuntimeError(GONE)

    monkeypatch.setattr(torch.cuda, "is_available", fail)
    monkeypatch.setattr(choice, "gpu_count", lambda: 1)
    assert GONE in unused_gpu()


def test_a_machine_without_a_gpu_is_none_in_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "gpu_count", lambda: 0)
    FakeCuda(count=0).install(monkeypatch)
    said: list[str] = []
    assert pick_device("auto", said.append).type == "cpu"
    assert said == [] and unused_gpu() == ""


def test_apple_s_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(count=0).install(monkeypatch)
    with pytest.raises(UserError, match=r"^device: mps cannot be used: .*use auto or cpu"):
        pick_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device("mps").type == pick_device("auto").type == "mps"
    assert free_memory(torch.device("mps")) is None


def test_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(free=3e9, total=24e9).install(monkeypatch)
    assert free_memory(GPU) == (3e9, 24e9)
    assert free_memory(torch.device("cpu")) is None


def test_a_gpu_that_shares_the_machine_s_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(free=3e9, total=128e9, integrated=True).install(monkeypatch)
    available = SimpleNamespace(available=100_000_000_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: available)
    assert free_memory(GPU) == (100e9, 128e9)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("CUDA error: out of memory", ErrorKind.OUT_OF_MEMORY),
        ("CUDA-capable device(s) is/are busy or unavailable", ErrorKind.BAD_INPUT),
    ],
)
def test_a_gpu_without_room_for_a_start(
    text: str, kind: ErrorKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeCuda(broken=text).install(monkeypatch)
    with pytest.raises(UserError) as caught:
        free_memory(GPU)
    assert caught.value.kind == kind and text in caught.value.message


def test_an_array_keeps_its_type_where_the_device_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.array([0.1, 0.2])
    wide = on_device(values, torch.device("cpu"))
    assert wide.dtype == torch.float64 and wide.tolist() == values.tolist()
    monkeypatch.setattr(choice, "widest", lambda _: torch.float32)
    assert on_device(values, torch.device("cpu")).dtype == torch.float32
    assert on_device(np.arange(2), torch.device("cpu")).dtype == torch.int64


def test_giving_memory_back_starts_no_gpu() -> None:
    give_back_memory()
    assert not torch.cuda.is_initialized()
