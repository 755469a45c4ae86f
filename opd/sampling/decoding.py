"""Which decoder writes with which model: the fastest of those that give the model's own numbers."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from opd.errors import raise_lack_of_memory
from opd.models.forward import causal, route_of
from opd.models.routes import CANNOT, close, keeps_or_slides
from opd.sampling.decoder import (
    Decoder,
    ModelDecoder,
    OwnCacheDecoder,
    RereadingDecoder,
    Slots,
)
from opd.sampling.fast_decoder import FastDecoder, takes
from opd.sampling.fixed_decoder import FixedDecoder
from opd.sampling.fixed_decoder import takes as takes_fixed
from opd.sampling.fused_decoder import FusedDecoder, takes_fused

log = logging.getLogger(__name__)
TOY = [[3, 4, 5, 3], [5, 3]]  # prompts that the decoders are compared on
TOY_SHARED = [[3, 4, 5, 3], [3, 4, 4]]  # their first two tokens
TOY_EQUAL = [[3, 4, 5, 3], [5, 3, 4, 4]]
TOY_TOKENS = ([4, 3, 5], [3, 5, 4], [5, 4], [3, 5])  # of the rows, token by token
FIXED_ON = ("cuda",)  # kinds of device where launching a kernel costs more than running it


@dataclass(frozen=True)
class Decoding:
    """How a model writes; with `equal_lengths`, only prompts of one length share a batch."""

    make: Callable[..., Decoder]
    equal_lengths: bool


_DECODINGS: "WeakKeyDictionary[Any, Decoding]" = WeakKeyDictionary()
_READS_ON: "WeakKeyDictionary[Any, bool]" = WeakKeyDictionary()
_FIXED: "WeakKeyDictionary[Any, type[FixedDecoder] | None]" = WeakKeyDictionary()


def decoder_for(
    model: Any,
    *,
    vocab: int,
    pad_id: int,
    device: torch.device,
    room: int = 0,
    start: Sequence[Slots] = (),
) -> Decoder:
    """The fast decoder where it knows the model and agrees with it, else the model's own.

    `room` is the number of tokens that will be written, where it is known; `start`, what `start_of`
    an earlier decoder of this model gave of the only prompt.
    """
    fixed = fixed_decoder_of(model, device) if room and device.type in FIXED_ON else None
    if fixed is not None:
        return fixed(model, vocab=vocab, pad_id=pad_id, device=device, room=room)
    if takes(model, device):
        decoder = FastDecoder(model, vocab=vocab, pad_id=pad_id, start=start)
        if decoder.agrees():
            return decoder
        log.warning("decoding with the model's own forward pass: the fast one differs from it")
    make = partial(ModelDecoder, start=start) if start else decoding_of(model, device).make
    return make(model, vocab=vocab, pad_id=pad_id, device=device)


def start_of(
    decoder: Decoder, length: int, *, model: Any, device: torch.device
) -> list[Slots] | None:
    """Keys and values of the first `length` tokens that the decoder has read, for another one of
    this model; None where that would not give the model's own numbers."""
    if _may_stay(model) and (isinstance(decoder, FastDecoder) or _reads_on(model, device)):
        return decoder.first(length)
    return None


@torch.no_grad()
def fixed_decoder_of(model: Any, device: torch.device) -> type[FixedDecoder] | None:
    """The decoder whose tokens can be replayed, where one gives the model's own numbers."""
    whole = causal(model)
    if whole not in _FIXED:
        candidates: list[type[FixedDecoder]] = [FusedDecoder] if takes_fused(model) else []
        if takes_fixed(model):
            candidates.append(FixedDecoder)
        if route_of(model).switch is not None or route_of(model).sharded:
            candidates = []
        room = len(TOY_TOKENS)
        agreeing = (
            c for c in candidates if _agrees(model, Decoding(partial(c, room=room), False), device)
        )
        _FIXED[whole] = next(agreeing, None)
    return _FIXED[whole]


def equal_lengths(model: Any, device: torch.device) -> bool:
    """May only prompts of one length share a batch?"""
    if device.type in FIXED_ON and fixed_decoder_of(model, device) is not None:
        return False
    return not takes(model, device) and decoding_of(model, device).equal_lengths


def reads_on(model: Any, device: torch.device) -> bool:
    """May the start that prompts share be read once, before what follows it in each?"""
    return not takes(model, device) and _may_stay(model) and _reads_on(model, device)


def _may_stay(model: Any) -> bool:
    """Are keys and values those of longer rows too, and all in this process?"""
    route = route_of(model)
    return route.switch is None and not route.sharded


@torch.no_grad()
def _reads_on(model: Any, device: torch.device) -> bool:
    whole = causal(model)
    if whole not in _READS_ON:
        fixed = fixed_decoder_of(model, device) if device.type in FIXED_ON else None
        if fixed is not None:
            decoding = Decoding(partial(fixed, room=len(TOY_TOKENS)), False)
        else:
            decoding = decoding_of(model, device)
        _READS_ON[whole] = (fixed is not None or decoding.make is ModelDecoder) and _agrees(
            model, decoding, device, shared=2
        )
    return _READS_ON[whole]


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


def _agrees(model: Any, decoding: Decoding, device: torch.device, shared: int = 0) -> bool:
    prompts = TOY_SHARED if shared else TOY_EQUAL if decoding.equal_lengths else TOY
    expected = _logits(model, RereadingDecoder, prompts, device)
    try:
        actual = _logits(model, decoding.make, prompts, device, shared)
    except CANNOT as error:
        raise_lack_of_memory(error)
        return False
    return actual.shape == expected.shape and close(model, actual, expected)


def _logits(
    model: Any,
    make: Callable[..., Decoder],
    prompts: list[list[int]],
    device: torch.device,
    shared: int = 0,
) -> Tensor:
    """Logits (N, V) of two prompts, one of them twice, and of four tokens; a row leaves between."""
    vocab = causal(model).config.get_text_config().vocab_size
    decoder = make(model, vocab=vocab, pad_id=0, device=device)
    rows = [0, 1, 1]
    lengths = torch.tensor([len(prompts[i]) for i in rows], device=device)
    logits = [decoder.prefill(prompts, rows, shared)]
    longest = int(lengths.max())
    for step, tokens in enumerate(TOY_TOKENS):
        if step == 2:
            left = torch.tensor([2, 0], device=device)
            decoder.keep(left)
            lengths = lengths[left]
        slots = torch.arange(longest + len(TOY_TOKENS), device=device)
        seen = slots >= (longest - lengths).unsqueeze(1)
        logits.append(
            decoder.step(
                torch.tensor(tokens, device=device),
                lengths + step,
                None if bool(seen.all()) else seen,
            )
        )
    return torch.cat(logits).float()
