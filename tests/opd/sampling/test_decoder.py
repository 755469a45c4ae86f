"""What all prompts of a batch begin with is read once, and nothing written is another for it."""

from dataclasses import replace

import numpy as np
import pytest

from bench.causal_models.checks import save
from opd.models.load import load_pair
from opd.sampling import decoder, decoding, fixed_decoder
from opd.sampling.decoder import shared_start
from opd.sampling.sample import Limits, Request, sample
from tests.support import tiny_models
from tests.support.devices.tested import DEVICE

pytestmark = pytest.mark.device

START = (*range(5, 25), 7)  # longer than the models' windows
ENDS = ((30,), (31, 32, 33, 34, 35, 36), (37, 38), (31, 32, 33, 34, 35, 36), (40,) * 9)
PROMPTS = [START + end for end in ENDS]
READ_WHOLE = {
    "recurrent": "mamba",
    "hybrid": "qwen3_5_text",
    "keys of other layers": "gemma3n_text",
    "decoded by FastDecoder": "qwen3",
}


@pytest.fixture(scope="module")
def pair_of(tmp_path_factory):
    def made(kind: str):
        folder = tmp_path_factory.getbasetemp() / "shared" / kind
        if not folder.exists():
            save(kind, folder, tiny_models.tokenizer())
        pair = load_pair(str(folder), str(folder), device=DEVICE)
        return replace(pair, eos_ids=tuple(range(25)))  # many ends, so that rows leave on the way

    return made


@pytest.fixture
def read(monkeypatch):
    """The shapes of what models are given to read, toy prompts left out."""
    shapes = []

    def noted(model, cache, ids, start=0):
        if ids.shape[1] * len(ids) > 20 or start > 2:
            shapes.append((*ids.shape, start))
        return forward(model, cache, ids, start)

    forward = decoder._read
    monkeypatch.setattr(decoder, "_read", noted)
    return shapes


def write(pair, prompts=PROMPTS, **limits):
    requests = [Request(p, (0, 1, number, 0)) for number, p in enumerate(prompts)]
    return sample(pair, requests, Limits(24, 1.0, **({"batch_size": 5} | limits)))


def assert_same(written, expected):
    for a, b in zip(written, expected, strict=True):
        assert a.completion_ids.tolist() == b.completion_ids.tolist()
        np.testing.assert_allclose(a.sampler_logprobs, b.sampler_logprobs, atol=1e-4)


@pytest.mark.parametrize("fixed", [False, True], ids=["own decoder", "fixed decoder"])
@pytest.mark.parametrize("kind", tiny_models.WITH_A_CACHE.values(), ids=tiny_models.WITH_A_CACHE)
def test_it_is_read_once_and_the_completions_are_the_same(pair_of, read, monkeypatch, kind, fixed):
    pair = pair_of(kind)
    monkeypatch.setattr(decoding, "FIXED_ON", (DEVICE.type,) if fixed else ())
    monkeypatch.setattr(fixed_decoder, "BORDER", 8)
    whole = write(pair)
    assert read == [(4, 30, 0)]
    read.clear()
    monkeypatch.setattr(decoder, "WORTH_A_PASS", 60)
    assert_same(write(pair), whole)
    assert read == [(1, 21, 0), (4, 9, 21)]


@pytest.mark.parametrize("kind", READ_WHOLE.values(), ids=READ_WHOLE)
def test_other_models_read_their_prompts_whole(pair_of, read, monkeypatch, kind):
    pair = pair_of(kind)
    whole = write(pair)
    monkeypatch.setattr(decoder, "WORTH_A_PASS", 60)
    assert_same(write(pair), whole)
    assert all(start == 0 for *_, start in read)


def test_parts_of_many_prompts_read_it_once_each(pair_of, read, monkeypatch):
    pair = pair_of("granite")
    monkeypatch.setattr(decoding, "FIXED_ON", (DEVICE.type,))
    whole = write(pair)
    monkeypatch.setattr(fixed_decoder, "PREFILL_TOKENS", 50)
    monkeypatch.setattr(decoder, "WORTH_A_PASS", 60)
    read.clear()
    assert_same(write(pair), whole)
    assert [start for *_, start in read] == [0, 21] * 3


def test_a_share_of_a_batch_is_read_whole(pair_of, read, monkeypatch):
    """Its sums are rounded as those of the batch that several processes write."""
    monkeypatch.setattr(decoder, "WORTH_A_PASS", 1)
    write(pair_of("granite"), batch_size=9, fewest=8, longest=PROMPTS[-1])
    write(pair_of("granite"), batch_size=9, fewest=8)
    assert all(start == 0 for *_, start in read) and len(read) == 2


def test_a_model_that_does_not_read_on_reads_whole(pair_of, read, monkeypatch):
    pair = pair_of("granite")
    whole = write(pair)
    monkeypatch.setattr(decoder, "WORTH_A_PASS", 60)
    forward = decoder._read

    def forgetful(model, cache, ids, start=0):
        return forward(model, cache, ids, 0)  # at positions that are not its own

    monkeypatch.setattr(decoder, "_read", forgetful)
    read.clear()
    assert_same(write(pair), whole)


def test_how_much_prompts_share(monkeypatch):
    one, other = (*START, 30), (*START, 31, 32)
    assert shared_start([one, other]) == 0  # too little to be worth a pass
    monkeypatch.setattr(decoder, "WORTH_A_PASS", 1)
    assert shared_start([one, other]) == len(START)
    assert shared_start([START, other]) == len(START) - 1  # one token is left of each
    for nothing in ([START], [(1, 2), (3, 4)], [(1,), (1, 2)]):
        assert shared_start(nothing) == 0
    assert shared_start([(1, 2, 3, 4), (1, 2, 9), (1, 2, 3, 5)]) == 2
