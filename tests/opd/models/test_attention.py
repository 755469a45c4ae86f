"""Keys are repeated in float32 on a GPU, and nowhere else; what comes out is the same."""

from typing import Any

import pytest
import torch
from transformers import Qwen3ForCausalLM

from opd.models import attention
from tests.support import tiny_models
from tests.support.devices.operator_counts import (
    FAKE_CUDA,
    OperatorCounts,
    fake_cuda,
    on_fake_cuda,
)

attention.install()
IDS = [[3, 4, 5, 6, 7], [7, 6, 5, 4, 3]]


@torch.no_grad()
def test_shared_and_repeated_keys_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model: Any = Qwen3ForCausalLM(tiny_models.config("qwen3", 64)).eval()
    shared = model(torch.tensor(IDS)).logits
    monkeypatch.setattr(attention, "_without_kernel", lambda _: True)
    with OperatorCounts() as counts:
        repeated = model(torch.tensor(IDS)).logits
    assert counts.repeated_keys == model.config.num_hidden_layers
    torch.testing.assert_close(repeated, shared, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    ("dtype", "autocast", "repeats"),
    [(torch.float32, False, 2), (torch.float32, True, 0), (torch.bfloat16, False, 0)],
)
def test_on_a_gpu_keys_are_repeated_in_float32_only(
    dtype: torch.dtype, autocast: bool, repeats: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = Qwen3ForCausalLM(tiny_models.config("qwen3", 64)).eval().to(dtype)
    with fake_cuda(monkeypatch):
        on_fake_cuda(model)
        ids = torch.tensor(IDS).to(FAKE_CUDA)
        with OperatorCounts() as counts, torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            model.model(input_ids=ids, use_cache=False)
    assert (counts.attention, counts.masked_attention) == (2, 0)
    assert counts.repeated_keys == repeats
