"""Sampling from the student, with its log-probabilities: a small KV-cache loop.

Departs from `generate` in three ways: the randomness of a rollout is decided by (seed, step,
prompt, sample) only and so does not depend on the batch; what is returned is the raw distribution
at the stated temperature; and finished rows leave the batch. Prompts that occur several times in a
batch are read once and their cache is repeated.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from opd.loss import divergences
from opd.models.load import Pair
from opd.sampling.decoding import decoder_for, equal_lengths
from opd.types import FinishReason, Floats, Ints

COMPACT_AT = 0.75  # finished rows leave the batch once at most this fraction of the rows continues
NEVER: Callable[[], bool] = lambda: False  # noqa: E731 (a named constant reads better as default)


@dataclass(frozen=True)
class Request:
    """One rollout to be written. `key` seeds it: (seed, step, prompt, sample)."""

    prompt_ids: Sequence[int]
    key: tuple[int, int, int, int]


@dataclass(frozen=True)
class Limits:
    max_new_tokens: int
    temperature: float  # 0: greedy, scored at temperature 1
    batch_size: int


@dataclass(frozen=True)
class Sample:
    """completion_ids (T,) with the EOS that ended it; sampler_logprobs (T,) in nats.

    None where nobody sampled it here.
    """

    completion_ids: Ints
    sampler_logprobs: Floats | None
    finish_reason: FinishReason


class Stopped(Exception):
    """Sampling was asked to stop before it was done."""


def uniforms(key: tuple[int, int, int, int], count: int) -> np.ndarray:
    """One random number in [0, 1) per token of the rollout: Philox keyed by the four numbers."""
    seeds = np.random.SeedSequence(list(key))
    return np.random.Generator(np.random.Philox(seeds)).random(count)


def log_probs_at(logits: Tensor, temperature: float) -> Tensor:
    """(B, V) in nats; at temperature 0, where the likeliest token is taken, those at 1."""
    return divergences.log_probs(logits.float(), temperature or 1.0)


def chosen(logp: Tensor, draws: Tensor, *, greedy: bool) -> Tensor:
    """Tokens (B,) by inverse distribution function of log-probabilities (B, V)."""
    if greedy:
        return logp.argmax(-1)
    cumulative = logp.double().exp().cumsum(-1)
    thresholds = (draws * cumulative[:, -1]).unsqueeze(1)
    tokens = torch.searchsorted(cumulative, thresholds, right=True).squeeze(1)
    return tokens.clamp(max=logp.shape[-1] - 1)


def sample(
    pair: Pair, requests: Sequence[Request], limits: Limits, stop: Callable[[], bool] = NEVER
) -> list[Sample]:
    """Writes every requested rollout with the student, in the order of the requests.

    Rows are decoded in batches of similar prompt length, of one length where the model's state must
    not see padding. Raises Stopped when `stop()` turns true.
    """
    lengths = [len(r.prompt_ids) for r in requests]
    results: dict[int, Sample] = {}
    for rows in _batches(lengths, limits.batch_size, equal_lengths(pair.student, pair.device)):
        batch = _Batch(pair, [requests[i] for i in rows], limits)
        results |= zip(rows, batch.run(stop), strict=True)
    return [results[i] for i in range(len(requests))]


def _batches(lengths: Sequence[int], size: int, equal: bool) -> Iterator[list[int]]:
    """Row numbers by length, at most `size` a batch; with `equal`, of one length each."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    groups = [list(g) for _, g in groupby(order, key=lambda i: lengths[i])] if equal else [order]
    for group in groups:
        yield from (group[first : first + size] for first in range(0, len(group), size))


class _Batch:
    """The rows decoded together. Row tensors shrink as rows end; `self.alive` names them."""

    def __init__(self, pair: Pair, requests: Sequence[Request], limits: Limits) -> None:
        self.pair, self.requests, self.limits = pair, requests, limits
        self.lengths = torch.tensor([len(r.prompt_ids) for r in requests])
        self.alive = torch.arange(len(requests))  # rows still in the batch, (B,)
        self.going = torch.ones(len(requests), dtype=torch.bool)  # of those: not yet ended, (B,)
        self.ids = np.zeros((len(requests), limits.max_new_tokens), dtype=np.int64)
        self.logprobs = np.zeros((len(requests), limits.max_new_tokens), dtype=np.float32)
        self.counts = np.full(len(requests), limits.max_new_tokens)
        self.stopped = np.zeros(len(requests), dtype=bool)
        draws = np.stack([uniforms(r.key, limits.max_new_tokens) for r in requests])
        self.draws = torch.from_numpy(draws).to(pair.device)
        self.eos = torch.tensor(pair.eos_ids, device=pair.device)

    @torch.inference_mode()
    def run(self, stop: Callable[[], bool]) -> list[Sample]:
        pair = self.pair
        decoder = decoder_for(
            pair.student, vocab=pair.vocab, pad_id=pair.pad_id, device=pair.device
        )
        prompts = [tuple(r.prompt_ids) for r in self.requests]
        distinct = {p: i for i, p in enumerate(dict.fromkeys(prompts))}
        rows = torch.tensor([distinct[p] for p in prompts], device=pair.device)
        logits = decoder.prefill(list(distinct), rows)
        longest = int(self.lengths.max())
        steps = self.limits.max_new_tokens
        slots = torch.arange(longest + steps) >= (longest - self.lengths).unsqueeze(1)
        seen = slots.to(pair.device)  # (B, longest + steps), False where padding stands
        padded = not bool(slots.all())
        for t in range(steps):
            if stop():
                raise Stopped
            logp = log_probs_at(logits, self.limits.temperature)
            tokens = chosen(logp, self.draws[:, t], greedy=self.limits.temperature == 0)
            logprobs = divergences.at(logp, tokens)
            going = self._keep(t, tokens, logprobs)
            if t + 1 == steps or not going.any():
                break
            if going.float().mean() <= COMPACT_AT:
                rows = torch.nonzero(going).squeeze(-1).to(self.pair.device)
                decoder.keep(rows)
                tokens, seen, self.draws = tokens[rows], seen[rows], self.draws[rows]
                self.alive = self.alive[going]
                self.going = self.going[going]
            positions = (self.lengths[self.alive] + t).to(self.pair.device)
            visible = seen[:, : longest + t + 1] if padded else None
            logits = decoder.step(tokens, positions, visible)
        return [self._result(i) for i in range(len(self.requests))]

    def _keep(self, t: int, tokens: Tensor, logprobs: Tensor) -> Tensor:
        """Notes token t of the rows still going; returns which go on, (B,) bool on the host."""
        rows = self.alive.numpy()
        self.ids[rows, t] = tokens.cpu().numpy()
        self.logprobs[rows, t] = logprobs.cpu().numpy()
        ended = torch.isin(tokens, self.eos).cpu() & self.going
        done = rows[ended.numpy()]
        self.counts[done] = t + 1
        self.stopped[done] = True
        self.going = self.going & ~ended
        return self.going

    def _result(self, row: int) -> Sample:
        n = self.counts[row]
        reason: FinishReason = "stop" if self.stopped[row] else "length"
        return Sample(self.ids[row, :n].copy(), self.logprobs[row, :n].copy(), reason)
