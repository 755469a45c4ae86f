from typing import Any

import pytest
import torch

from opd.config.run import parse
from opd.devices.support import run_device
from opd.errors import ConfigError, UserError
from tests.support.devices.fake_gpus import FakeCuda

IN_BFLOAT16 = [
    ({"student": {"dtype": "bfloat16"}}, "student.dtype"),
    ({"teacher": {"dtype": "bfloat16"}}, "teacher.dtype"),
    (
        {"teacher": {"route_by": "topic", "routes": {"a": {"dtype": "bfloat16"}}}},
        "teacher.routes.a.dtype",
    ),
]
NOT_ON_MPS = [
    ({"teacher": {"quantize": "int8"}}, "teacher.quantize"),
    ({"student": {"quantize": "int4", "lora": {}}}, "student.quantize"),
    ({"optimizer": {"name": "adamw_8bit"}}, "optimizer.name"),
]


@pytest.mark.parametrize(("changes", "field"), IN_BFLOAT16)
def test_bfloat16_on_a_gpu_that_has_none(
    changes: dict[str, Any], field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeCuda(bfloat16=False).install(monkeypatch)
    with pytest.raises(UserError, match=r"Tesla T4 \(compute capability 7\.5, below 8\.0\)") as got:
        run_device(parse(changes))
    assert got.value.where == field
    assert run_device(parse({})).type == "cuda"
    FakeCuda().install(monkeypatch)
    assert run_device(parse(changes)).type == "cuda"


def test_a_processor_computes_in_bfloat16() -> None:
    assert run_device(parse({"device": "cpu", "student": {"dtype": "bfloat16"}})).type == "cpu"


@pytest.mark.parametrize(("changes", "field"), NOT_ON_MPS)
def test_what_apple_s_gpu_cannot_do_is_refused_by_name(
    changes: dict[str, Any], field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="not supported on mps") as refused:
        parse({**changes, "device": "mps"})
    assert [p["field"] for p in refused.value.problems] == [field]
    FakeCuda(count=0).install(monkeypatch)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(UserError, match="not supported on mps") as raised:
        run_device(parse(changes))
    assert raised.value.where == field


@pytest.mark.parametrize(("newer", "taken"), [(True, True), (False, False)])
def test_bfloat16_on_apple_s_gpu(newer: bool, taken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(count=0).install(monkeypatch)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda *_: newer)
    config = parse({"device": "mps", "student": {"dtype": "bfloat16"}})
    if taken:
        assert run_device(config).type == "mps"
    else:
        with pytest.raises(UserError, match="macOS"):
            run_device(config)
