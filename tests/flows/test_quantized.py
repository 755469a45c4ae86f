"""Teachers in 8 and 4 bits and the 8-bit optimizer, where bitsandbytes is installed."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from opd.config.run import parse
from opd.errors import UserError
from opd.models.folders.resolve import resolve
from opd.models.load import load_model
from opd.training.trainer import Training
from opd.types import StepEvent
from tests.opd.teachers.test_local import LORA, plain, settings, steps
from tests.opd.teachers.test_local import inputs as inputs
from tests.support.devices.tested import DEVICE, repeatable

pytestmark = pytest.mark.device

EXTRA = "bitsandbytes"


def test_without_the_extra_the_field_and_the_extra_are_named(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr("opd.models.folders.quantized.find_spec", lambda _: None)
    monkeypatch.setattr("opd.training.optimization.optimizers.find_spec", lambda _: None)
    teacher = {"model": str(inputs / "teacher"), "quantize": "int4"}
    for config, field in (
        (settings(inputs, teacher), "teacher.quantize"),
        (settings(inputs, optimizer={"name": "adamw_8bit"}), "optimizer.name"),
    ):
        with pytest.raises(UserError, match=r"opd-studio\[quantized\]") as caught:
            steps(config, tmp_path)
        assert (caught.value.where, caught.value.kind) == (field, "missing extra")


@pytest.mark.parametrize(("bits", "share", "tolerance"), [("int8", 0.5, 0.05), ("int4", 0.4, 0.2)])
def test_a_quantized_teacher_is_smaller_and_says_nearly_the_same(tmp_path, bits, share, tolerance):
    pytest.importorskip(EXTRA)
    folder = resolve("bundled/teacher", where="teacher.model")
    whole = load_model(folder, where="t")
    small = load_model(folder, where="t", quantize=bits)
    assert small.get_memory_footprint() < share * whole.get_memory_footprint()
    config = parse(
        {
            "teacher": {"model": "bundled/teacher", "quantize": bits},
            "prompts": {"count": 8},
            "steps": 1,
            "threads": 1,
            "device": str(DEVICE),
            "sampling": {"prompts_per_step": 8, "group_size": 1},
            "evaluation": {"prompts": 2, "keep": 1},
        }
    )
    (event,) = steps(config, tmp_path)
    gaps = []
    for r in event.rollouts:
        expected = plain(folder, r.prompt_ids, r.record.completion_ids)
        gaps.append(np.abs(np.exp(r.record.teacher_logprobs) - np.exp(expected)))
    gap = np.concatenate(gaps)
    assert 0 < gap.mean() < tolerance


@pytest.mark.parametrize("lora", [LORA, None])
def test_the_8_bit_optimizer_resumes_bit_for_bit(inputs, tmp_path, lora):
    pytest.importorskip(EXTRA)
    optimizer = {"name": "adamw_8bit", "learning_rate": 1e-2}
    config = settings(
        inputs, student={"lora": lora}, optimizer=optimizer, steps=4, checkpoints={"every": 2}
    )
    whole = steps(config, tmp_path / "whole")
    training = Training(config, tmp_path / "cut")
    for event in training.events():
        if isinstance(event, StepEvent) and event.step == 3:
            break
    resumed = Training(config, tmp_path / "cut", resume_from=tmp_path / "cut" / "step-000002")
    again = [e for e in resumed.events() if isinstance(e, StepEvent)]
    for a, b in zip(whole[2:], again, strict=True):
        assert repeatable(a.metrics) == repeatable(b.metrics)
    name = "adapter_model.safetensors" if lora else "model.safetensors"
    one, two = (load_file(tmp_path / d / "step-000004" / name) for d in ("whole", "cut"))
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_an_adapter_is_not_quantized(inputs, tmp_path):
    steps(settings(inputs, student={"lora": LORA}, steps=1), tmp_path / "run")
    teacher = {"model": str(tmp_path / "run" / "step-000001"), "quantize": "int8"}
    with pytest.raises(UserError, match="merged") as caught:
        steps(settings(inputs, teacher), tmp_path / "again")
    assert caught.value.where == "teacher.quantize"
