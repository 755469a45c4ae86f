"""Sampling from the student, with its log-probabilities: a lean KV-cache loop.

Departs from `generate` in three ways: the randomness of a rollout is decided by (seed, step,
prompt, sample) alone and so does not depend on the batch; what is returned is the raw distribution
at the stated temperature; and finished rows leave the batch. Prompts that occur several times in a
batch are read once and their cache is repeated.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from opd import divergences
from opd.align import head_sees_only
from opd.models import Pair
from opd.types import FinishReason, Floats, Ints

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
    """completion_ids (T,) with the EOS that ended it; sampler_logprobs (T,) in nats."""

    completion_ids: Ints
    sampler_logprobs: Floats
    finish_reason: FinishReason


class Stopped(Exception):
    """Sampling was asked to stop before it was done."""


def uniforms(key: tuple[int, int, int, int], count: int) -> np.ndarray:
    """The rollout's own random numbers in [0, 1), one a token: Philox keyed by the four numbers."""
    seeds = np.random.SeedSequence(list(key))
    return np.random.Generator(np.random.Philox(seeds)).random(count)


def sample(
    pair: Pair, requests: Sequence[Request], limits: Limits, stop: Callable[[], bool] = NEVER
) -> list[Sample]:
    """Writes every requested rollout with the student, in the order of the requests.

    Rows are decoded in batches of similar prompt length. Raises Stopped when `stop()` turns true.
    """
    order = sorted(range(len(requests)), key=lambda i: len(requests[i].prompt_ids))
    results: dict[int, Sample] = {}
    for first in range(0, len(order), limits.batch_size):
        rows = order[first : first + limits.batch_size]
        batch = _Batch(pair, [requests[i] for i in rows], limits)
        results |= zip(rows, batch.run(stop), strict=True)
    return [results[i] for i in range(len(requests))]


class _Batch:
    """The rows decoded together. Row tensors shrink as rows finish; `self.alive` names them."""

    def __init__(self, pair: Pair, requests: Sequence[Request], limits: Limits) -> None:
        self.pair, self.requests, self.limits = pair, requests, limits
        self.lengths = torch.tensor([len(r.prompt_ids) for r in requests])
        self.alive = torch.arange(len(requests))
        self.ids = np.zeros((len(requests), limits.max_new_tokens), dtype=np.int64)
        self.logprobs = np.zeros((len(requests), limits.max_new_tokens), dtype=np.float32)
        self.counts = np.full(len(requests), limits.max_new_tokens)
        self.stopped = np.zeros(len(requests), dtype=bool)
        draws = np.stack([uniforms(r.key, limits.max_new_tokens) for r in requests])
        self.draws = torch.from_numpy(draws).to(pair.device)
        self.eos = torch.tensor(pair.eos_ids, device=pair.device)

    @torch.inference_mode()
    def run(self, stop: Callable[[], bool]) -> list[Sample]:
        cache, logits = self._prefill()
        longest = int(self.lengths.max())
        steps = self.limits.max_new_tokens
        slots = torch.arange(longest + steps) >= (longest - self.lengths).unsqueeze(1)
        seen = slots.to(self.pair.device)  # (B, longest + steps), False where padding stands
        padded = not bool(slots.all())
        for t in range(steps):
            if stop():
                raise Stopped
            tokens, logprobs = self._choose(logits, self.draws[:, t])
            going = self._keep(t, tokens, logprobs)
            if t + 1 == steps or not going.any():
                break
            if not going.all():
                rows = torch.nonzero(going).squeeze(-1).to(self.pair.device)
                cache.batch_select_indices(rows)
                tokens, seen, self.draws = tokens[rows], seen[rows], self.draws[rows]
                self.alive = self.alive[going]
            positions = (self.lengths[self.alive] + t).to(self.pair.device)
            logits = self.pair.student(
                input_ids=tokens.unsqueeze(1),
                position_ids=positions.unsqueeze(1),
                attention_mask=seen[:, : longest + t + 1].long() if padded else None,
                past_key_values=cache,
                use_cache=True,
            ).logits[:, -1, : self.pair.vocab]
        return [self._result(i) for i in range(len(self.requests))]

    def _prefill(self) -> tuple[DynamicCache, Tensor]:
        """Reads each distinct prompt once; returns the cache, prompts at its right end, and logits.

        Prompts are padded on the right, where nothing sees the padding, and then moved: with left
        padding some attention kernels meet rows that see nothing, which gives NaN.
        """
        prompts = [tuple(r.prompt_ids) for r in self.requests]
        distinct = list(dict.fromkeys(prompts))
        longest = max(map(len, distinct))
        ids = torch.full((len(distinct), longest), self.pair.pad_id, dtype=torch.long)
        for row, prompt in enumerate(distinct):
            ids[row, : len(prompt)] = torch.tensor(prompt)
        lengths = torch.tensor([len(p) for p in distinct], device=self.pair.device)
        cache = DynamicCache()  # without a config: full length in every layer, sliding ones too
        ends = lengths.unsqueeze(1) - 1
        hidden_at = ends + longest * torch.arange(len(distinct), device=ids.device).unsqueeze(1)
        with head_sees_only(self.pair.student, hidden_at.flatten()):
            output = self.pair.student(
                input_ids=ids.to(self.pair.device),
                past_key_values=cache,
                use_cache=True,
                position_ids=torch.arange(longest, device=self.pair.device).expand(len(ids), -1),
            )
        shift = torch.arange(longest, device=ids.device) - (longest - lengths).unsqueeze(1)
        source = shift.clamp(min=0)  # (distinct, longest): slot j takes what stood at j − padding
        row_of = {p: i for i, p in enumerate(distinct)}
        rows = torch.tensor([row_of[p] for p in prompts], device=self.pair.device)
        for layer in cache.layers:
            index = source[:, None, :, None].expand_as(layer.keys)
            layer.keys = layer.keys.gather(2, index)[rows]
            layer.values = layer.values.gather(2, index)[rows]
        return cache, output.logits[0, rows, : self.pair.vocab]

    def _choose(self, logits: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B,) by inverse distribution function, and their log-probabilities (B,)."""
        greedy = self.limits.temperature == 0
        logp = divergences.log_probs(logits.float(), 1.0 if greedy else self.limits.temperature)
        if greedy:
            tokens = logp.argmax(-1)
        else:
            cumulative = logp.double().exp().cumsum(-1)
            thresholds = (draws * cumulative[:, -1]).unsqueeze(1)
            tokens = torch.searchsorted(cumulative, thresholds, right=True).squeeze(1)
            tokens = tokens.clamp(max=logits.shape[-1] - 1)
        return tokens, divergences.at(logp, tokens)

    def _keep(self, t: int, tokens: Tensor, logprobs: Tensor) -> Tensor:
        """Notes token t of the rows still going; returns which go on, (B,) bool on the host."""
        rows = self.alive.numpy()
        self.ids[rows, t] = tokens.cpu().numpy()
        self.logprobs[rows, t] = logprobs.cpu().numpy()
        ended = torch.isin(tokens, self.eos).cpu()
        done = rows[ended.numpy()]
        self.counts[done] = t + 1
        self.stopped[done] = True
        return ~ended

    def _result(self, row: int) -> Sample:
        n = self.counts[row]
        reason: FinishReason = "stop" if self.stopped[row] else "length"
        return Sample(self.ids[row, :n].copy(), self.logprobs[row, :n].copy(), reason)
