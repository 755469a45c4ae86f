"""The decoder for GPUs, on either: the same tokens and numbers as the model's own."""

import gc
import weakref
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from bench.causal_models.checks import save
from opd.models.load import Pair, load_pair
from opd.sampling import decoding, fixed_decoder
from opd.sampling import sample as sampling
from opd.sampling.decoding import decoder_for, fixed_decoder_of
from opd.sampling.fixed_decoder import FixedDecoder
from opd.sampling.fused_decoder import FusedDecoder
from opd.sampling.sample import Limits, Request, sample
from tests.support import tiny_models
from tests.support.devices.operator_counts import (
    FAKE_CUDA,
    OperatorCounts,
    fake_cuda,
    on_fake_cuda,
)
from tests.support.devices.tested import DEVICE

pytestmark = pytest.mark.device

PROMPTS = [[5], [6, 7, 8, 9, 10, 11, 12], [13, 14, 15], [6, 7, 8, 9, 10, 11, 12], [20] * 15]
NOT_ITS_KINDS = {"recurrent": "mamba", "hybrid": "qwen3_5_text", "ALiBi": "bloom"}


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    def made(kind: str) -> str:
        folder = tmp_path_factory.getbasetemp() / "fixed" / kind
        if not folder.exists():
            save(kind, folder, tiny_models.tokenizer())
        return str(folder)

    return made


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """The fixed decoder, with borders and looks that a short completion meets several times."""

    def take() -> None:
        monkeypatch.setattr(decoding, "FIXED_ON", (DEVICE.type,))
        monkeypatch.setattr(fixed_decoder, "BORDER", 8)
        monkeypatch.setattr(fixed_decoder, "PREFILL_TOKENS", 16)
        monkeypatch.setattr(sampling, "look_every", lambda _: 5)

    monkeypatch.setattr(decoding, "FIXED_ON", ())
    return take


def written(pair: Pair, temperature: float = 1.0):
    pair = replace(pair, eos_ids=tuple(range(25)))  # many ends, so that rows leave on the way
    requests = [Request(p, (0, 1, number, 0)) for number, p in enumerate(PROMPTS)]
    return sample(pair, requests, Limits(24, temperature, batch_size=5))


@pytest.mark.parametrize("kind", tiny_models.WITH_A_CACHE.values(), ids=tiny_models.WITH_A_CACHE)
@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_it_writes_what_the_models_own_decoder_writes(folder_of, as_on_a_gpu, kind, temperature):
    pair = load_pair(folder_of(kind), folder_of(kind), device=DEVICE)
    expected = written(pair, temperature)
    assert {s.finish_reason for s in expected} == {"stop", "length"} or temperature == 0
    as_on_a_gpu()
    made = decoder_for(pair.student, vocab=pair.vocab, pad_id=0, device=DEVICE, room=4)
    assert type(made) is FixedDecoder
    for a, b in zip(expected, written(pair, temperature), strict=True):
        assert a.completion_ids.tolist() == b.completion_ids.tolist()
        assert a.finish_reason == b.finish_reason
        np.testing.assert_allclose(a.sampler_logprobs, b.sampler_logprobs, atol=1e-4)


@pytest.mark.parametrize("kind", NOT_ITS_KINDS.values(), ids=NOT_ITS_KINDS)
def test_it_leaves_other_models_to_their_own_decoder(folder_of, kind):
    pair = load_pair(folder_of(kind), folder_of(kind), device=DEVICE)
    assert fixed_decoder_of(pair.student, DEVICE) is None


def test_a_window_narrower_than_the_completion_is_kept(folder_of, as_on_a_gpu):
    """What the toy prompts of the comparison are too short to show."""
    pair = load_pair(folder_of("gemma3_text"), folder_of("gemma3_text"), device=DEVICE)
    window = pair.student.config.get_text_config().sliding_window
    assert window < 15 < fixed_decoder.BORDER
    as_on_a_gpu()
    right = written(pair)[4]
    pair.student.config.get_text_config().sliding_window = 1000
    as_if_unlimited = written(pair)[4]
    assert not np.allclose(right.sampler_logprobs[0], 0)
    assert right.completion_ids.tolist() != as_if_unlimited.completion_ids.tolist()


def test_prompts_that_are_read_in_parts_are_the_same_prompts(folder_of, monkeypatch):
    pair = load_pair(folder_of("qwen3"), folder_of("qwen3"), device=DEVICE)
    prompts, rows = [[5], [13, 14, 15], [6, 7, 8, 9, 10]], [2, 0, 1, 2]

    def logits(tokens_at_once: int):
        monkeypatch.setattr(fixed_decoder, "PREFILL_TOKENS", tokens_at_once)
        decoder = FixedDecoder(pair.student, vocab=pair.vocab, pad_id=1, device=DEVICE, room=3)
        with torch.inference_mode():
            first = decoder.prefill(prompts, rows)
            positions = torch.tensor([5, 1, 3, 5], device=DEVICE)
            seen = torch.arange(8, device=DEVICE) >= (5 - positions).unsqueeze(1)
            tokens = torch.tensor([9, 8, 7, 6], device=DEVICE)
            return first, decoder.step(tokens, positions, seen)

    for whole, parts in zip(logits(1000), logits(4), strict=True):
        torch.testing.assert_close(whole, parts, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("of_kind", [FixedDecoder, FusedDecoder])
def test_a_decoder_that_is_let_go_of_gives_its_memory_back_at_once(folder_of, of_kind):
    pair = load_pair(folder_of("qwen3"), folder_of("qwen3"), device=DEVICE)
    gc.disable()
    try:
        decoder = of_kind(pair.student, vocab=pair.vocab, pad_id=1, device=DEVICE, room=3)
        with torch.inference_mode():
            decoder.prefill([[5, 6]], [0])
            decoder.step(torch.tensor([9], device=DEVICE), torch.tensor([2], device=DEVICE), None)
        (held, *_), *_ = (layer._buffers for layer in decoder._layers)
        watched = weakref.ref(held)
        del decoder, held
        assert watched() is None
    finally:
        gc.enable()


def test_a_token_on_a_gpu_casts_no_weight_repeats_no_keys_and_waits_for_nothing(monkeypatch):
    """Counted on tensors of a GPU that have no values; what is captured is exactly this."""
    shape = tiny_models.config("qwen3", 310)
    model = AutoModelForCausalLM.from_config(shape, dtype=torch.bfloat16).eval()
    with fake_cuda(monkeypatch), torch.inference_mode():
        on_fake_cuda(model)
        pair = SimpleNamespace(student=model, vocab=310, pad_id=1, eos_ids=(0, 7), device=FAKE_CUDA)
        monkeypatch.setattr(decoding, "fixed_decoder_of", lambda *_: FixedDecoder)
        requests = [Request(p, (0, 0, i, 0)) for i, p in enumerate(PROMPTS)]
        batch = sampling._Batch(cast(Pair, pair), requests, Limits(24, 1.0, batch_size=5))
        decoder = decoder_for(model, vocab=310, pad_id=1, device=FAKE_CUDA, room=24)
        assert isinstance(decoder, FixedDecoder)
        with OperatorCounts():
            batch._choose(decoder.prefill(batch.prompts, range(len(batch.prompts))))
        counts = OperatorCounts(model.parameters(), key_heads=shape.num_key_value_heads)
        with counts:
            batch._advance(decoder)
    assert not counts.casts and not counts.waits and counts.copies_to_device == 0
    assert counts.attention == shape.num_hidden_layers and counts.repeated_keys == 0
    assert sampling.look_every(FAKE_CUDA) == 16  # at most one wait each 16 tokens
