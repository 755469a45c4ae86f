"""The copy that is sampled from: the trained model's numbers, in place, at the price it says."""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench.causal_models.checks import save
from opd.config.models import LoraConfig
from opd.config.run import parse
from opd.models.folders.adapters import with_adapter
from opd.models.load import load_model
from opd.sampling import sampling_copy
from opd.sampling.sample import Limits, Request
from opd.sampling.sampling_copy import SamplingCopy
from opd.training.loading import Callbacks, load
from opd.training.rollouts import sample_by
from tests.support import tiny_models

IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    def made(kind: str):
        folder = tmp_path_factory.getbasetemp() / "copied" / kind
        if not folder.exists():
            save(kind, folder, tiny_models.tokenizer())
        return folder

    return made


def trained(model) -> None:
    """As after a step: what is trained has changed."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)


@pytest.mark.parametrize(
    ("kind", "targets"),
    [
        ("qwen3", "all-linear"),
        ("gpt2", "all-linear"),  # whose matrices lie the other way
        ("llama", ["embed_tokens", "q_proj"]),
        ("qwen3_moe", ["q_proj", "gate_up_proj", "down_proj"]),  # fused experts
    ],
)
def test_an_adapter_is_merged_into_it_again_after_every_step(folder_of, kind, targets):
    model = load_model(folder_of(kind), where="student.model")
    student = with_adapter(model, LoraConfig(rank=4, alpha=8, targets=targets))
    copied = SamplingCopy(student, torch.float32)
    for _ in range(2):
        trained(student)
        merged = copied()
        assert type(merged) is type(model) and not any(
            "lora" in n for n, _ in merged.named_modules()
        )
        with torch.no_grad():
            torch.testing.assert_close(
                merged(IDS).logits, student(IDS).logits, atol=1e-4, rtol=1e-4
            )


def test_it_takes_memory_only_for_what_differs_and_only_once(folder_of):
    model = load_model(folder_of("qwen3"), where="student.model")
    student = with_adapter(model, LoraConfig(rank=4, alpha=8, targets=["q_proj"]))
    copied = SamplingCopy(student, torch.float32)
    merged = copied()
    places = {n: p.data_ptr() for n, p in merged.named_parameters()}
    theirs = {p.data_ptr() for p in student.parameters()}
    separate = {n: p for n, p in merged.named_parameters() if p.data_ptr() not in theirs}
    assert separate and all("q_proj" in name for name in separate)
    assert copied.bytes == sum(p.numel() * 4 for p in separate.values())
    trained(student)
    assert copied() is merged
    assert places == {n: p.data_ptr() for n, p in merged.named_parameters()}


def test_where_memory_is_short_the_student_itself_is_sampled_and_that_is_said(
    folder_of, monkeypatch
):
    said: list[str] = []
    student = load_model(folder_of("qwen3"), where="student.model")
    monkeypatch.setattr(sampling_copy, "free_bytes", lambda _: 10_000)
    copied = SamplingCopy(student, torch.bfloat16, said.append)
    assert copied() is None and copied() is None
    (line,) = said
    assert "bfloat16" in line and "GB are free" in line


class WeightCasts(TorchDispatchMode):
    """Counts casts of tensors that are as large as one of the model's matrices."""

    def __init__(self, model) -> None:
        super().__init__()
        self.count = 0
        self._shapes = {tuple(p.shape) for p in model.parameters() if p.ndim > 1}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and tuple(args[0].shape) in self._shapes:
            self.count += args[0].dtype != made.dtype
        return made


def config(folder, **student):
    return parse(
        {
            "student": {"model": str(folder), "dtype": "bfloat16", **student},
            "teacher": {"kind": "self"},
            "prompts": {"source": "bundled/eval"},
            "device": "cpu",
        }
    )


@pytest.mark.parametrize("student", [{}, {"lora": {"rank": 4, "alpha": 8}}], ids=["whole", "lora"])
def test_a_bfloat16_run_casts_no_weight_while_it_samples(folder_of, student):
    loaded = load(config(folder_of("qwen3"), **student), None, Callbacks())
    pair = loaded.pair
    requests = [Request([5, 6, 7, 8, 9, 11, 12], (0, 0, i, 0)) for i in range(3)]
    limits = Limits(9, 1.0, 3)
    never = lambda: False  # noqa: E731
    with WeightCasts(pair.student) as before:
        sample_by(None, replace(pair, sampling_copy=None), requests, limits, never)
    pair.sampling_copy()
    with WeightCasts(pair.student) as casts:
        written = sample_by(None, pair, requests, limits, never)
    assert before.count >= 9 and casts.count == 0
    assert all(len(s.completion_ids) for s in written)


def test_a_float32_run_of_all_weights_samples_from_them(folder_of):
    folder = folder_of("qwen3")
    plain = config(folder).model_copy(update={"student": config(folder, dtype="float32").student})
    assert load(plain, None, Callbacks()).pair.sampling_copy is None


def test_a_teacher_that_writes_does_so_with_its_own_weights(folder_of):
    loaded = load(config(folder_of("qwen3"), lora={"rank": 4, "alpha": 8}), None, Callbacks())
    writer = loaded.router.teacher().as_student(loaded.pair)
    assert loaded.pair.sampling_copy is not None and writer.sampling_copy is None
