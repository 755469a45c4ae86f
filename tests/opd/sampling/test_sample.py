"""Sampling: log-probabilities, stopping, seeds, and what must not depend on the batch."""

import numpy as np
import pytest
import torch

from opd.models.batches import Sequences
from opd.models.load import load_pair
from opd.sampling import sample as sampling
from opd.sampling.decoder import ModelDecoder
from opd.sampling.decoding import decoder_for, equal_lengths
from opd.sampling.fast_decoder import FastDecoder
from opd.sampling.sample import Limits, Request, Stopped, sample, uniforms
from opd.training.scoring import Scoring, score
from tests.support import tiny_models
from tests.support.devices.tested import DEVICE

pytestmark = pytest.mark.device

PROMPTS = [[5], [6, 7, 8, 9, 10, 11, 12], [13, 14, 15], [6, 7, 8, 9, 10, 11, 12], [20] * 15]


@pytest.fixture(scope="module", params=tiny_models.KINDS)
def pair(request, tmp_path_factory):
    folder = tiny_models.save_model(tmp_path_factory.mktemp(request.param) / "m", request.param)
    return load_pair(folder, folder, device=DEVICE)


def requests(prompts=PROMPTS, seed=0):
    return [Request(p, (seed, 1, number, 0)) for number, p in enumerate(prompts)]


@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_sampler_log_probs_are_those_of_the_raw_distribution(pair, temperature):
    """Of the full distribution at the stated temperature, as teacher forcing finds it."""
    written = sample(pair, requests(), Limits(24, temperature, batch_size=5))
    whole = Sequences(PROMPTS, [w.completion_ids for w in written])
    for w, record in zip(written, score(pair, whole, Scoring(temperature)), strict=True):
        np.testing.assert_allclose(w.sampler_logprobs, record.student_logprobs, atol=1e-4)


def test_a_rollout_does_not_depend_on_its_batch(pair):
    limits = Limits(24, 1.0, batch_size=5)
    together = sample(pair, requests(), limits)
    alone = [sample(pair, [r], limits)[0] for r in requests()]
    turned = sample(pair, requests()[::-1], Limits(24, 1.0, batch_size=2))[::-1]
    for a, b, c in zip(together, alone, turned, strict=True):
        assert a.completion_ids.tolist() == b.completion_ids.tolist() == c.completion_ids.tolist()
        np.testing.assert_allclose(a.sampler_logprobs, b.sampler_logprobs, atol=1e-4)


def test_a_share_is_computed_as_large_and_as_wide_as_its_limits_say(pair, monkeypatch):
    """Rows that nobody asked for stand beside it, also when rows end; none of them is returned."""
    seen = []
    advance = sampling._Batch._advance

    def counted(self, decoder):
        seen.append((len(self.tokens), self.longest))
        return advance(self, decoder)

    monkeypatch.setattr(sampling._Batch, "_advance", counted)
    whole = sample(pair, requests(), Limits(24, 1.0, batch_size=5))
    seen.clear()
    limits = Limits(24, 1.0, batch_size=5, fewest=4, longest=tuple(PROMPTS[-1]))
    share = sample(pair, requests()[:2], limits)
    assert {rows for rows, _ in seen} == {4} and len(share) == 2
    if not equal_lengths(pair.student, pair.device):
        assert {width for _, width in seen} == {len(PROMPTS[-1])}
    for a, b in zip(whole, share, strict=False):
        assert a.completion_ids.tolist() == b.completion_ids.tolist()
        np.testing.assert_allclose(a.sampler_logprobs, b.sampler_logprobs, atol=1e-5)


def test_which_rows_stay():
    going = np.array([False, True, False, True, False])
    for fewest, stay in ((1, [1, 3]), (3, [0, 1, 3]), (9, [0, 1, 2, 3, 4])):
        assert np.flatnonzero(sampling._kept(going, fewest)).tolist() == stay


def test_seed_step_prompt_and_sample_each_decide(pair):
    keys = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)]
    draws = {tuple(uniforms(k, 4)) for k in keys}
    assert len(draws) == len(keys)
    first, again = (sample(pair, requests(), Limits(24, 1.0, 5)) for _ in range(2))
    other = sample(pair, requests(seed=1), Limits(24, 1.0, 5))
    assert [s.completion_ids.tolist() for s in first] == [s.completion_ids.tolist() for s in again]
    assert [s.completion_ids.tolist() for s in first] != [s.completion_ids.tolist() for s in other]


def test_greedy_equals_generate(pair):
    for prompt in PROMPTS:
        (ours,) = sample(pair, [Request(prompt, (0, 0, 0, 0))], Limits(16, 0.0, 1))
        ids = torch.tensor([prompt], device=DEVICE)
        theirs = pair.student.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=16,
            pad_token_id=tiny_models.PAD,
        )[0, len(prompt) :]
        assert ours.completion_ids.tolist() == theirs.tolist()


def test_frequencies_follow_the_distribution(pair):
    n = 4000
    many = [Request([5, 6], (0, 0, 0, i)) for i in range(n)]
    written = sample(pair, many, Limits(1, 1.0, batch_size=1000))
    counts = np.bincount([int(w.completion_ids[0]) for w in written], minlength=pair.vocab)
    with torch.no_grad():
        logits = pair.student(torch.tensor([[5, 6]], device=DEVICE)).logits[0, -1]
    p = torch.softmax(logits.double(), -1).cpu().numpy()
    expected = n * p
    common = expected > 20
    error = (counts[common] - expected[common]) / np.sqrt(expected[common] * (1 - p[common]) + 1e-9)
    assert np.abs(error).max() < 4.5


def test_stops_at_any_of_several_eos_ids_and_says_why(tmp_path):
    folder = tiny_models.save_model(
        tmp_path / "m", eos=[tiny_models.EOS, *range(100, 200)], scale=2.0
    )
    pair = load_pair(folder, folder, device=DEVICE)
    assert set(range(100, 200)) < set(pair.eos_ids)
    written = sample(pair, [Request([5], (0, 0, 0, i)) for i in range(64)], Limits(6, 1.0, 64))
    reasons = set()
    for w in written:
        reasons.add(w.finish_reason)
        inside, last = w.completion_ids[:-1], w.completion_ids[-1]
        assert not set(inside.tolist()) & set(pair.eos_ids)  # the first EOS ends it, and counts
        assert (int(last) in pair.eos_ids) == (w.finish_reason == "stop")
        assert w.finish_reason == "stop" or len(w.completion_ids) == 6
        assert len(w.sampler_logprobs) == len(w.completion_ids)
    assert reasons == {"stop", "length"}


@pytest.mark.parametrize("rows", [1, 3, 5])
def test_a_gpu_decodes_as_many_rows_as_its_free_memory_holds(pair, monkeypatch, rows):
    """32 B for each of 310 ids; 2 layers, keys and values, 2 or 4 heads of 8, 4 B, 40 tokens."""
    heads = getattr(pair.student.config, "num_key_value_heads", 4)
    row = 32 * 310 + 2 * 2 * heads * 8 * 4 * (16 + 24)

    def most(free: int | None) -> int:
        monkeypatch.setattr(sampling, "allocatable_memory", lambda _: free)
        return sampling._rows_at_once(pair, Limits(24, 1.0, batch_size=5), longest=16)

    assert most(int(row * rows / 0.8) + 1) == rows
    assert (most(1), most(10**12), most(None)) == (1, 5, 5)


def test_stops_when_asked(pair, monkeypatch):
    monkeypatch.setattr(sampling, "look_every", lambda _: 1)
    calls = iter([False, False, True])
    with pytest.raises(Stopped):
        sample(pair, requests(), Limits(24, 1.0, 5), stop=lambda: next(calls))


on_processors = pytest.mark.skipif(DEVICE.type != "cpu", reason="the lean decoder is not for GPUs")


def decoder(pair):
    return decoder_for(pair.student, vocab=pair.vocab, pad_id=pair.pad_id, device=DEVICE)


@on_processors
def test_the_lean_decoder_takes_what_it_knows_and_equals_the_models_own(pair):
    knows = pair.student.config.model_type in ("qwen3", "llama")
    assert isinstance(decoder(pair), FastDecoder if knows else ModelDecoder)
    by_model = ModelDecoder(pair.student, vocab=pair.vocab, pad_id=pair.pad_id, device=DEVICE)
    rows = [0, 1, 1]
    positions = torch.tensor([2, 7, 7], device=DEVICE)
    seen = torch.arange(8, device=DEVICE) >= (7 - positions).unsqueeze(1)
    with torch.inference_mode():
        for one in (a := decoder(pair), by_model):
            one.logits = one.prefill([[5, 6], [7, 8, 9, 10, 11, 12, 13]], rows)
        torch.testing.assert_close(a.logits, by_model.logits, atol=1e-4, rtol=1e-4)
        tokens = torch.tensor([20, 30, 40], device=DEVICE)
        torch.testing.assert_close(
            a.step(tokens, positions, seen),
            by_model.step(tokens, positions, seen),
            atol=1e-4,
            rtol=1e-4,
        )


@on_processors
def test_the_lean_decoder_stands_back_where_it_disagrees(tmp_path, caplog):
    folder = tiny_models.save_model(tmp_path / "m")
    pair = load_pair(folder, folder, device=DEVICE)
    with torch.inference_mode():
        assert isinstance(decoder(pair), FastDecoder)
        pair.student.model.layers[0].mlp.down_proj.register_forward_hook(lambda m, a, out: out * 2)
        assert isinstance(decoder(pair), ModelDecoder)
    assert "differs" in caplog.text


@pytest.mark.parametrize("width", [sampling.WIDE, 20_001])
def test_a_wide_vocabulary_is_chosen_from_as_one_running_sum_would(width):
    draw = torch.Generator().manual_seed(0)
    logits = 6 * torch.randn((64, width), generator=draw)
    logits[torch.rand(logits.shape, generator=draw) < 0.5] = -torch.inf
    logp = logits.log_softmax(-1)
    draws = torch.rand(64, generator=draw, dtype=torch.float64)
    tokens = sampling.chosen(logp, draws, greedy=False)
    cumulative = logp.double().exp().cumsum(-1)
    expected = torch.searchsorted(cumulative, (draws * cumulative[:, -1]).unsqueeze(1), right=True)
    assert torch.equal(tokens, expected.squeeze(1))


@pytest.mark.parametrize("width", [600, sampling.WIDE])
def test_no_draw_takes_an_id_without_a_chance(width):
    logp = torch.full((3, width), -torch.inf)
    logp[:, 300] = 0.0
    draws = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)  # 1 stands for what rounds up to it
    assert sampling.chosen(logp, draws, greedy=False).tolist() == [300] * 3
