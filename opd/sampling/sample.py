"""Sampling from the student, with its log-probabilities: a small KV-cache loop.

Departs from `generate` in three ways: the randomness of a rollout is decided by (seed, step,
prompt, sample) only and so does not depend on the batch; what is returned is the raw distribution
at the stated temperature; and finished rows leave the batch. Prompts that occur several times in a
batch are read once and their cache is repeated, and so is a long start that all prompts share.

Everything that a token needs stays on the device, where the host looks only every few tokens.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from opd.devices.choice import allocatable_memory, on_device
from opd.errors import ErrorKind, UserError
from opd.loss import divergences
from opd.models.architecture import from_config
from opd.models.forward import causal, route_of
from opd.models.load import Pair
from opd.sampling.decoder import Decoder, shared_start
from opd.sampling.decoding import decoder_for, equal_lengths, reads_on
from opd.sampling.fixed_decoder import FixedDecoder
from opd.sampling.replay import Replay, captures
from opd.types import FinishReason, Floats, Ints

COMPACT_AT = 0.75  # finished rows leave the batch once at most this fraction of the rows continues
WIDE = 8192  # ids from which on a vocabulary is met in blocks of BLOCK
BLOCK = 256
CHOOSING_BYTES = 32  # for each id of the vocabulary: logits twice, and the chances in float64
MEMORY_SHARE = 0.8  # of what is free, for the rows that are decoded together
_NOT_CAPTURED: "WeakSet[Any]" = WeakSet()  # models whose tokens cannot be
NEVER: Callable[[], bool] = lambda: False  # noqa: E731 (a named constant reads better as default)


@dataclass(frozen=True)
class Request:
    """One rollout to be written. `key` seeds it: (seed, step, prompt, sample)."""

    prompt_ids: Sequence[int]
    key: tuple[int, int, int, int]


@dataclass(frozen=True)
class Limits:
    """`fewest` rows are computed together, and a batch is as wide as the prompt `longest` makes it:
    of several processes that each write a share, so that a row's sums are rounded as in the whole.
    """

    max_new_tokens: int
    temperature: float  # 0: greedy, scored at temperature 1
    batch_size: int
    fewest: int = 1
    longest: tuple[int, ...] = ()


@dataclass(frozen=True)
class Sample:
    """completion_ids (T,) with the EOS that ended it; sampler_logprobs (T,) in nats.

    None where nobody sampled it here. `staleness`: updates of the student since it wrote this.
    """

    completion_ids: Ints
    sampler_logprobs: Floats | None
    finish_reason: FinishReason
    staleness: int = 0

    def first(self, tokens: int) -> "Sample":
        """As if cut off after so many tokens."""
        if len(self.completion_ids) <= tokens:
            return self
        given = self.sampler_logprobs
        return Sample(
            self.completion_ids[:tokens], None if given is None else given[:tokens], "length"
        )


class Stopped(Exception):
    """Sampling was asked to stop before it was done."""


def nan_error(*, where: str) -> UserError:
    """For a model whose log-probabilities are NaN while it writes."""
    return UserError(
        "its log-probabilities are NaN while it writes: its weights hold NaN or infinity, or its "
        "numbers overflow in this dtype (try float32)",
        where=where,
        kind=ErrorKind.NAN_LOSS,
    )


def uniforms(key: tuple[int, int, int, int], count: int) -> np.ndarray:
    """One random number in [0, 1) per token of the rollout: Philox keyed by the four numbers."""
    seeds = np.random.SeedSequence(list(key))
    return np.random.Generator(np.random.Philox(seeds)).random(count)


def log_probs_at(logits: Tensor, temperature: float) -> Tensor:
    """(B, V) in nats; at temperature 0, where the likeliest token is taken, those at 1."""
    return divergences.log_probs(logits.float(), temperature or 1.0)


def chosen(logp: Tensor, draws: Tensor, *, greedy: bool) -> Tensor:
    """Tokens (B,) by inverse distribution function of log-probabilities (B, V).

    A wide vocabulary is summed in blocks first: one running sum over all of it takes a GPU longer
    than many a layer.
    """
    if greedy:
        return logp.argmax(-1)
    if logp.shape[-1] < WIDE:
        cumulative = logp.to(draws.dtype).exp().cumsum(-1)
        return _first_above(cumulative, draws * cumulative[:, -1])
    padded = functional.pad(logp.exp(), (0, -logp.shape[-1] % BLOCK))
    blocks = padded.view(len(logp), -1, BLOCK)
    upto = blocks.sum(-1, dtype=draws.dtype).cumsum(-1)
    thresholds = draws * upto[:, -1]
    block = _first_above(upto, thresholds)
    index = block.unsqueeze(1)
    before = functional.pad(upto, (1, 0)).gather(1, index)
    chances = blocks.gather(1, index.unsqueeze(2).expand(-1, 1, BLOCK)).squeeze(1)
    within = before + chances.cumsum(-1, dtype=draws.dtype)
    return block * BLOCK + _first_above(within, thresholds)


def _first_above(cumulative: Tensor, thresholds: Tensor) -> Tensor:
    """(B,) the first place where a running sum (B, n) exceeds its threshold (B,); where none does,
    by rounding, the last place that adds anything. Of NaN the last place."""
    first = torch.searchsorted(cumulative, thresholds.unsqueeze(1), right=True)
    last = torch.searchsorted(cumulative, cumulative[:, -1:].contiguous())
    return torch.minimum(first, last).squeeze(1).clamp_(max=cumulative.shape[-1] - 1)


def look_every(device: torch.device) -> int:
    """Tokens between two looks of the host at which rows go on: each look waits for a GPU."""
    return 1 if device.type == "cpu" else 16


def sample(
    pair: Pair, requests: Sequence[Request], limits: Limits, stop: Callable[[], bool] = NEVER
) -> list[Sample]:
    """Writes every requested rollout with the student, in the order of the requests.

    Rows are decoded in batches of similar prompt length, of one length where the model's state must
    not see padding. Raises Stopped when `stop()` turns true.
    """
    lengths = [len(r.prompt_ids) for r in requests]
    results: dict[int, Sample] = {}
    size = _rows_at_once(pair, limits, max(lengths, default=0))
    equal = equal_lengths(pair.student, pair.device)
    limits = replace(limits, longest=()) if equal else limits
    for rows in _batches(lengths, size, equal):
        batch = _Batch(pair, [requests[i] for i in rows], limits)
        results |= zip(rows, batch.run(stop), strict=True)
    return [results[i] for i in range(len(requests))]


def _rows_at_once(pair: Pair, limits: Limits, longest: int) -> int:
    """At most `batch_size`, and on a GPU no more than its free memory holds to the last token."""
    free = allocatable_memory(pair.device)
    shape = from_config(causal(pair.student).config.to_dict())
    if free is None or shape is None:
        return limits.batch_size
    width = shape.cached * causal(pair.student).dtype.itemsize
    cache = width * (longest + limits.max_new_tokens)
    row = int(cache) + CHOOSING_BYTES * pair.vocab
    return max(1, min(limits.batch_size, int(free * MEMORY_SHARE) // row))


def _batches(lengths: Sequence[int], size: int, equal: bool) -> Iterator[list[int]]:
    """Row numbers by length, at most `size` a batch; with `equal`, of one length each."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    groups = [list(g) for _, g in groupby(order, key=lambda i: lengths[i])] if equal else [order]
    for group in groups:
        yield from (group[first : first + size] for first in range(0, len(group), size))


def _beside(requests: Sequence[Request], limits: Limits) -> list[Request]:
    """Rows that nobody asked for, which make the batch as large as its limits say."""
    longest = max(len(r.prompt_ids) for r in requests)
    widest = Request(limits.longest, requests[-1].key)
    beside = [widest] if len(limits.longest) > longest else []
    return beside + [requests[-1]] * (limits.fewest - len(requests) - len(beside))


def _kept(going: NDArray[np.bool_], fewest: int) -> NDArray[np.bool_]:
    """Which rows stay: those that go on, and the first of the others up to the fewest."""
    short = max(0, fewest - int(going.sum()))
    return going | (~going & (np.cumsum(~going) <= short)) if short else going


class _Batch:
    """The rows decoded together. Row tensors are on the device, and shrink as rows end."""

    def __init__(self, pair: Pair, requests: Sequence[Request], limits: Limits) -> None:
        self.pair, self.limits, self.count = pair, limits, len(requests)
        requests = [*requests, *_beside(requests, limits)]
        self.prompts = [tuple(r.prompt_ids) for r in requests]
        self.samples: dict[int, Sample] = {}
        lengths = np.array([len(p) for p in self.prompts])
        self.longest = int(lengths.max())
        rows, steps, device = len(requests), limits.max_new_tokens, pair.device
        slots = np.arange(self.longest + steps) >= (self.longest - lengths)[:, None]
        # False where padding stands
        self.seen = None if slots.all() else torch.from_numpy(slots).to(device)
        self.draws = on_device(np.stack([uniforms(r.key, steps) for r in requests]), device)
        self.eos = torch.tensor(pair.eos_ids, dtype=torch.long).to(device)
        self.alive = np.arange(rows)  # the numbers of the rows in the batch
        self.going = torch.arange(rows, device=device) < self.count  # not yet ended
        self.ids = torch.zeros((rows, steps), dtype=torch.long, device=device)
        self.logprobs = torch.zeros((rows, steps), device=device)
        self.tokens = torch.zeros(rows, dtype=torch.long, device=device)  # written last
        self.positions = torch.from_numpy(lengths).to(device)  # at which they stand
        self.column = torch.zeros(1, dtype=torch.long, device=device)  # to be written next

    def run(self, stop: Callable[[], bool]) -> list[Sample]:
        # What inference mode makes of a layer that was put together, a gradient could not meet.
        sharded = route_of(self.pair.student).sharded
        with torch.no_grad() if sharded else torch.inference_mode():
            return self._run(stop)

    def _run(self, stop: Callable[[], bool]) -> list[Sample]:
        pair, steps = self.pair, self.limits.max_new_tokens
        every = look_every(pair.device)
        decoder = decoder_for(
            pair.student, vocab=pair.vocab, pad_id=pair.pad_id, device=pair.device, room=steps
        )
        distinct = {p: i for i, p in enumerate(dict.fromkeys(self.prompts))}
        rows = [distinct[p] for p in self.prompts]
        if stop():
            raise Stopped
        self._choose(decoder.prefill(list(distinct), rows, self._shared(list(distinct))))
        captured = (
            isinstance(decoder, FixedDecoder)
            and captures(pair.device)
            and causal(pair.student) not in _NOT_CAPTURED
        )
        advance = Replay(lambda: self._advance(decoder), device=pair.device, captures=captured)
        for t in range(1, steps):
            if t % every == 0:
                if stop():
                    raise Stopped
                if not self._look(t, decoder, advance):
                    break
            if isinstance(decoder, FixedDecoder) and decoder.reach(self.longest + t):
                advance.forget()
            advance()
        if captured and not advance.captures:
            _NOT_CAPTURED.add(causal(pair.student))
        self._collect(np.arange(len(self.alive)), steps)
        return [self.samples[i] for i in range(self.count)]

    def _shared(self, prompts: list[tuple[int, ...]]) -> int:
        """Tokens at the start of all these prompts that are read once; none where several processes
        write shares of a batch, whose sums are to be rounded as in the whole."""
        apart = self.limits.fewest > 1 or self.limits.longest
        shared = 0 if apart else shared_start(prompts)
        return shared if shared and reads_on(self.pair.student, self.pair.device) else 0

    def _advance(self, decoder: Decoder) -> None:
        """Reads the tokens written last, and writes the next; nothing here waits for the device."""
        logits = decoder.step(self.tokens, self.positions, self.seen)
        self.positions += 1
        self._choose(logits)

    def _choose(self, logits: Tensor) -> None:
        """Writes the tokens that follow, of logits (B, V)."""
        logp = log_probs_at(logits, self.limits.temperature)
        draws = self.draws.index_select(1, self.column).squeeze(1)
        tokens = chosen(logp, draws, greedy=self.limits.temperature == 0)
        self.ids.index_copy_(1, self.column, tokens.unsqueeze(1))
        self.logprobs.index_copy_(1, self.column, divergences.at(logp, tokens).unsqueeze(1))
        self.going &= (tokens.unsqueeze(1) != self.eos).all(1)
        self.tokens.copy_(tokens)
        self.column += 1

    def _look(self, written: int, decoder: Decoder, advance: Replay) -> bool:
        """Whether any row goes on; the others leave the batch once they are enough."""
        going = self.going.cpu()
        if not bool(going.any()):
            return False
        stays = _kept(going.numpy(), self.limits.fewest)
        if stays.mean() <= COMPACT_AT:
            self._collect(np.flatnonzero(~stays), written)
            self.alive = self.alive[stays]
            rows = torch.from_numpy(np.flatnonzero(stays)).to(self.pair.device)
            decoder.keep(rows)
            self.going, self.tokens, self.positions = (
                held[rows] for held in (self.going, self.tokens, self.positions)
            )
            self.draws, self.ids, self.logprobs = (
                held[rows] for held in (self.draws, self.ids, self.logprobs)
            )
            self.seen = None if self.seen is None else self.seen[rows]
            advance.forget()
        return True

    def _collect(self, rows: NDArray[np.int64], written: int) -> None:
        """Notes what these rows of the batch have written: all up to the first end."""
        at = torch.from_numpy(rows).to(self.pair.device)
        ids, logprobs = (x[at, :written].cpu().numpy() for x in (self.ids, self.logprobs))
        ends = np.isin(ids, self.pair.eos_ids)
        for row, number in enumerate(self.alive[rows]):
            stopped = bool(ends[row].any())
            n = int(ends[row].argmax()) + 1 if stopped else written
            self.samples[int(number)] = Sample(
                ids[row, :n].copy(), logprobs[row, :n].copy(), "stop" if stopped else "length"
            )
