"""The fixed decoder of few kernels: the same tokens and numbers, with a third of the operators."""

import json
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from bench.causal_models.checks import save
from opd.config.models import LoraConfig
from opd.models.folders.adapters import with_adapter
from opd.models.load import Pair, load_model, load_pair
from opd.sampling import decoding, fixed_decoder
from opd.sampling import sample as sampling
from opd.sampling.decoding import fixed_decoder_of
from opd.sampling.fixed_decoder import FixedDecoder
from opd.sampling.fused_decoder import FusedDecoder, side_by_side
from opd.sampling.sample import Limits, Request, sample
from opd.sampling.sampling_copy import SamplingCopy
from tests.support import tiny_models
from tests.support.devices.operator_counts import (
    FAKE_CUDA,
    OperatorCounts,
    fake_cuda,
    on_fake_cuda,
)
from tests.support.devices.tested import DEVICE

pytestmark = pytest.mark.device

VIEWS = {"slice", "view", "reshape", "unsqueeze", "squeeze", "transpose", "select", "expand"}
VIEWS |= {"numpy_T", "flatten", "chunk", "new_empty"}  # the last stands for attention's result
PROMPTS = [[5], [6, 7, 8, 9, 10, 11, 12], [13, 14, 15], [6, 7, 8, 9, 10, 11, 12], [20] * 15]
REQUESTS = [Request(p, (0, 1, number, 0)) for number, p in enumerate(PROMPTS)]


@pytest.mark.parametrize("kind", ["qwen3", "llama", "qwen2", "mistral"])
def test_it_writes_what_the_models_own_decoder_writes(tmp_path, monkeypatch, kind):
    config = save(kind, tmp_path, tiny_models.tokenizer())
    unlimited = json.dumps(config | {"sliding_window": None})  # as Mistral is since its version 0.2
    (tmp_path / "config.json").write_text(unlimited, encoding="utf-8")
    pair = load_pair(str(tmp_path), str(tmp_path), device=DEVICE)
    monkeypatch.setattr(decoding, "FIXED_ON", ())
    expected = sample(pair, REQUESTS, Limits(24, 1.0, 5))
    monkeypatch.setattr(decoding, "FIXED_ON", (DEVICE.type,))
    monkeypatch.setattr(fixed_decoder, "BORDER", 8)
    assert fixed_decoder_of(pair.student, DEVICE) is FusedDecoder
    for a, b in zip(expected, sample(pair, REQUESTS, Limits(24, 1.0, 5)), strict=True):
        assert a.completion_ids.tolist() == b.completion_ids.tolist()
        np.testing.assert_allclose(a.sampler_logprobs, b.sampler_logprobs, atol=1e-4)


@pytest.mark.parametrize("kind", ["gemma2", "gpt2", "granite", "mixtral"])
def test_it_leaves_other_shapes_alone(tmp_path, kind):
    save(kind, tmp_path, tiny_models.tokenizer())
    model = load_model(tmp_path, where="student.model", device=DEVICE)
    assert fixed_decoder_of(model, DEVICE) is FixedDecoder


def test_it_stands_back_where_it_disagrees(tmp_path):
    save("qwen3", tmp_path, tiny_models.tokenizer())
    model = load_model(tmp_path, where="student.model", device=DEVICE)
    model.model.layers[0].mlp.down_proj.register_forward_hook(lambda m, a, out: out * 2)
    assert fixed_decoder_of(model, DEVICE) is FixedDecoder


def test_a_copys_weights_of_one_input_lie_side_by_side(tmp_path):
    save("qwen3", tmp_path, tiny_models.tokenizer())
    model = load_model(tmp_path, where="student.model")
    student = with_adapter(model, LoraConfig(rank=4, alpha=8))
    copied = SamplingCopy(student, torch.float32)()
    attention = copied.model.layers[1].self_attn
    weights = [attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]
    whole = side_by_side(weights)
    assert whole is not None and torch.equal(whole, torch.cat(weights))
    assert side_by_side(weights[::-1]) is None
    base = model.model.layers[1].self_attn
    apart = [getattr(base, n).get_base_layer().weight for n in ("q_proj", "k_proj", "v_proj")]
    assert side_by_side(apart) is None


def operators_a_layer(kind: type[FixedDecoder], monkeypatch) -> float:
    """Of a token of a bfloat16 copy, views left out, on tensors of a GPU that have no values."""
    counted = []
    for layers in (2, 4):
        shape = tiny_models.config("qwen3", 310)
        shape.num_hidden_layers, shape.layer_types = layers, ["full_attention"] * layers
        model = SamplingCopy(AutoModelForCausalLM.from_config(shape).eval(), torch.bfloat16)()
        with fake_cuda(monkeypatch), torch.inference_mode():
            on_fake_cuda(model)
            pair = SimpleNamespace(pad_id=1, eos_ids=(0, 7), device=FAKE_CUDA)
            batch = sampling._Batch(cast(Pair, pair), REQUESTS, Limits(24, 1.0, 5))
            with OperatorCounts():
                decoder = kind(model, vocab=310, pad_id=1, device=FAKE_CUDA, room=24)
                batch._choose(decoder.prefill(batch.prompts, range(len(PROMPTS))))
            counts = OperatorCounts(model.parameters(), key_heads=shape.num_key_value_heads)
            with counts:
                batch._advance(decoder)
        assert not counts.casts and not counts.waits and counts.repeated_keys == 0
        counted.append(sum(n for name, n in counts.operators.items() if name not in VIEWS))
    return (counted[1] - counted[0]) / 2


def test_a_layer_takes_less_than_half_of_the_operators(monkeypatch):
    """Here without weights side by side, which fake tensors do not keep: four operators more."""
    assert operators_a_layer(FusedDecoder, monkeypatch) <= 22
    assert operators_a_layer(FixedDecoder, monkeypatch) >= 50
