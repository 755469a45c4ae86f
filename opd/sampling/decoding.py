"""Which decoder writes with which model: the fastest of those that give the model's own numbers."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from opd.errors import raise_lack_of_memory
from opd.models.forward import causal, route_of
from opd.models.routes import CANNOT, close, keeps_or_slides
from opd.sampling.decoder import Decoder, ModelDecoder, OwnCacheDecoder, RereadingDecoder
from opd.sampling.fast_decoder import FastDecoder, takes

log = logging.getLogger(__name__)
TOY = [[3, 4, 5, 3], [5, 3]]  # prompts that the decoders are compared on
TOY_EQUAL = [[3, 4, 5, 3], [5, 3, 4, 4]]


@dataclass(frozen=True)
class Decoding:
    """How a model writes; with `equal_lengths`, only prompts of one length share a batch."""

    make: Callable[..., Decoder]
    equal_lengths: bool


_DECODINGS: "WeakKeyDictionary[Any, Decoding]" = WeakKeyDictionary()


def decoder_for(model: Any, *, vocab: int, pad_id: int, device: torch.device) -> Decoder:
    """The fast decoder where it knows the model and agrees with it, else the model's own."""
    if takes(model, device):
        decoder = FastDecoder(model, vocab=vocab, pad_id=pad_id)
        if decoder.agrees():
            return decoder
        log.warning("decoding with the model's own forward pass: the fast one differs from it")
    return decoding_of(model, device).make(model, vocab=vocab, pad_id=pad_id, device=device)


def equal_lengths(model: Any, device: torch.device) -> bool:
    """May only prompts of one length share a batch?"""
    return not takes(model, device) and decoding_of(model, device).equal_lengths


@torch.no_grad()
def decoding_of(model: Any, device: torch.device) -> Decoding:
    """Tried on toy prompts the first time that the model writes."""
    whole = causal(model)
    if whole not in _DECODINGS:
        _DECODINGS[whole] = _decoding(model, device)
    return _DECODINGS[whole]


def _decoding(model: Any, device: torch.device) -> Decoding:
    route = route_of(model)
    apart = route.switch is not None  # the longest row decides for all
    candidates = [Decoding(OwnCacheDecoder, True)]
    if keeps_or_slides(causal(model).config.get_text_config()):
        candidates.insert(0, Decoding(ModelDecoder, apart))
    for candidate in candidates:
        if _agrees(model, candidate, device):
            return candidate
    log.warning("decoding without a cache, which is slow: the model's own differs from its logits")
    return Decoding(RereadingDecoder, False)


def _agrees(model: Any, decoding: Decoding, device: torch.device) -> bool:
    prompts = TOY_EQUAL if decoding.equal_lengths else TOY
    expected = _logits(model, RereadingDecoder, prompts, device)
    try:
        actual = _logits(model, decoding.make, prompts, device)
    except CANNOT as error:
        raise_lack_of_memory(error)
        return False
    return actual.shape == expected.shape and close(model, actual, expected)


def _logits(
    model: Any, make: Callable[..., Decoder], prompts: list[list[int]], device: torch.device
) -> Tensor:
    """Logits (N, V) of two prompts, one of them twice, and of four tokens; a row leaves between."""
    vocab = causal(model).config.get_text_config().vocab_size
    decoder = make(model, vocab=vocab, pad_id=0, device=device)
    rows = torch.tensor([0, 1, 1], device=device)
    lengths = torch.tensor([len(prompts[i]) for i in rows.tolist()], device=device)
    logits = [decoder.prefill(prompts, rows)]
    longest = int(lengths.max())
    for step, tokens in enumerate(([4, 3, 5], [3, 5, 4], [5, 4], [3, 5])):
        if step == 2:
            left = torch.tensor([2, 0], device=device)
            decoder.keep(left)
            lengths = lengths[left]
        slots = torch.arange(longest + step + 1, device=device)
        seen = slots >= (longest - lengths).unsqueeze(1)
        logits.append(
            decoder.step(
                torch.tensor(tokens, device=device),
                lengths + step,
                None if bool(seen.all()) else seen,
            )
        )
    return torch.cat(logits).float()
