from typing import Any

import pytest

from opd.config.run import parse
from opd.devices import choice
from opd.doctor.examine import examine, static
from opd.doctor.machine import device
from opd.doctor.machine.device import before_loading, check_device
from opd.doctor.machine.fit import check_memory
from opd.doctor.memory import estimate
from opd.errors import ErrorKind, UserError
from opd.training.loading import Callbacks
from tests.support.devices.fake_gpus import FakeCuda, fake_driver


def findings(**changes: Any) -> dict[str, Any]:
    return {f.code: f for f in static(parse(changes), lambda _: None)}


def test_a_device_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(count=1).install(monkeypatch)
    refused = findings(device="cuda:3")["device-refused"]
    assert refused.severity == "error" and "1 CUDA device here" in refused.text
    assert "device-refused" not in findings(device="cuda:0")


def test_more_processes_than_gpus_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(count=2).install(monkeypatch)
    refused = findings(device="cuda", devices=3)["device-refused"]
    assert refused.severity == "error"
    assert "3 asked for, but PyTorch finds 2 CUDA devices here; lower devices" in refused.text
    assert "device-refused" not in findings(device="cuda", devices=2)
    assert "device-refused" not in findings(device="cpu", devices=3)


def test_every_process_needs_the_host_s_memory() -> None:
    one, three = (findings(device="cpu", devices=n)["memory"] for n in (1, 3))
    assert three.evidence["wanted"] == pytest.approx(3 * one.evidence["wanted"], rel=1e-6)
    assert "in each of 3 processes" in three.title


def test_a_gpu_that_auto_cannot_take_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(count=0, broken="no driver").install(monkeypatch)
    monkeypatch.setattr(choice, "gpu_count", lambda: 1)
    (finding,) = check_device(parse({}))
    assert (finding.code, finding.severity) == ("gpu-unused", "warning")
    assert "no driver" in finding.text
    assert list(check_device(parse({"device": "cpu"}))) == []


@pytest.mark.parametrize(
    ("free_mib", "severity", "advice"),
    [(80000, "ok", ""), (8, "error", "nvidia-smi"), (100, "warning", "nvidia-smi")],
)
def test_the_driver_s_free_memory_is_compared_before_anything_is_loaded(
    free_mib: int, severity: str, advice: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeCuda(broken="must not be asked").install(monkeypatch)
    fake_driver(tmp_path, monkeypatch, f"0, GPU-a, H100, 81559, {free_mib}, 3")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    finding = findings(device="cuda")["memory-device"]
    assert finding.severity == severity and advice in finding.advice
    assert finding.evidence["free"] == free_mib * 2**20


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_only_what_cannot_fit_is_refused(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo's pair takes 18 MB of weights, gradients and moments and more for its tokens."""
    config = parse({"student": {"dtype": dtype}})
    said: list[str] = []
    FakeCuda(free=79e9).install(monkeypatch)
    before_loading(config, said.append)
    assert said == []
    FakeCuda(free=400e6).install(monkeypatch)
    before_loading(config, said.append)
    assert len(said) == 1 and "400.0 MB free" in said[0]
    FakeCuda(free=8e6).install(monkeypatch)
    monkeypatch.setattr(device, "PATIENCE", 0.0)
    with pytest.raises(UserError, match=r"8\.0 MB free.*moments are") as caught:
        before_loading(config, said.append)
    assert caught.value.kind == ErrorKind.OUT_OF_MEMORY and len(said) == 1


def test_a_gpu_that_is_being_left_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(free=8e6).install(monkeypatch)
    looks: list[float] = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        FakeCuda(free=79e9).install(monkeypatch)

    monkeypatch.setattr(device.time, "sleep", sleep)
    before_loading(parse({}), pytest.fail)
    assert len(looks) == 1


def test_a_processor_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(free=0).install(monkeypatch)
    before_loading(parse({"device": "cpu"}), pytest.fail)


def test_a_model_that_cannot_be_read_is_left_to_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda().install(monkeypatch)
    before_loading(parse({"teacher": "/no/such/folder"}), pytest.fail)


def test_models_that_fit_gpus_together_are_advised_to_be_cut(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The 8B trained whole takes more than 100 GB: as a whole it does not fit either GPU."""
    FakeCuda(count=8, broken="must not be asked").install(monkeypatch)
    rows = "\n".join(f"{i}, GPU-{i}, H100, 81559, {free}, 3" for i, free in enumerate([80000] * 8))
    fake_driver(tmp_path, monkeypatch, rows)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    student = {"model": "Qwen/Qwen3-8B", "dtype": "bfloat16", "gradient_checkpointing": True}
    settings = {"student": student, "teacher": "Qwen/Qwen3-8B", "device": "cuda"}

    def memory_finding(**more: Any) -> Any:
        (finding,) = [
            f
            for f in check_memory(
                parse({**settings, **more}), estimate(parse({**settings, **more})), "cuda"
            )
            if f.code == "memory-device"
        ]
        return finding

    for devices in (1, 8):
        refused = memory_finding(devices=devices)
        assert refused.severity == "error"
        assert refused.advice.startswith("sharding: full fits: with devices: 8 it takes about ")
    assert memory_finding(devices=8, sharding="full").severity == "ok"
    assert "sharding" not in memory_finding(devices=2).advice  # two are too few
    assert "sharding" not in memory_finding(devices=8, optimizer={"name": "adamw_8bit"}).advice


def test_models_that_are_cut_are_not_loaded_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    config = parse({"devices": 2, "sharding": "full", "device": "cpu"})
    codes = [f.code for f in examine(config, models=True, callbacks=Callbacks())]
    assert codes[-1] == "models-cut"
