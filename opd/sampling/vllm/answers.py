"""What a vLLM server answers, as samples and as scores; what cannot be true is refused.

Source: vLLM 0.32.0, vllm/entrypoints/openai/completion/serving.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from opd.sampling.sample import Sample
from opd.sampling.vllm.address import server_error
from opd.vllm_protocol import LOWEST, ROUNDING, brief


@dataclass(frozen=True)
class SampleReader:
    """`vocab` ids are shared with the teacher, `stop_ids` end a completion of at most `limit`."""

    vocab: int
    stop_ids: tuple[int, ...]
    limit: int
    greedy: bool

    def samples(self, answer: Any, count: int) -> list[Sample]:
        """The completions of one prompt, in the order of their seeds."""
        return [self._sample(choice) for choice in choices_of(answer, count)]

    def _sample(self, choice: Mapping[str, Any]) -> Sample:
        ids = choice.get("token_ids")
        if not isinstance(ids, list) or not all(type(i) is int for i in ids):
            raise server_error("gave no token_ids; it does not know return_token_ids")
        if not 1 <= len(ids) <= self.limit:
            raise server_error(f"wrote {len(ids)} tokens where 1 to {self.limit} were asked for")
        for i in ids:
            if not 0 <= i < self.vocab:
                raise server_error(f"wrote id {i}, outside the models' {self.vocab} shared ids")
        values = choice.get("logprobs")
        values = values.get("token_logprobs") if isinstance(values, dict) else None
        if not isinstance(values, list) or len(values) != len(ids):
            there = len(values) if isinstance(values, list) else "no"
            raise server_error(f"gave {there} log-probabilities for {len(ids)} tokens")
        logprobs = np.array([checked_logprob(v) for v in values], np.float32)
        ended = self._ended(ids, choice.get("finish_reason"))
        return Sample(
            np.array(ids, np.int64),
            None if self.greedy else logprobs,
            "stop" if ended else "length",
        )

    def _ended(self, ids: Sequence[int], reason: Any) -> bool:
        """Whether a stop id ends it; it must be the only one, and the server must say the same."""
        ends = [t for t, i in enumerate(ids) if i in self.stop_ids]
        ended = ends == [len(ids) - 1]
        if (ends and not ended) or (not ended and len(ids) < self.limit):
            at = (
                f"at token {ends[0] + 1} of {len(ids)}" if ends else f"nowhere in {len(ids)} tokens"
            )
            raise server_error(
                f"ended a completion for {reason!r} with a stop id {at} (at most {self.limit})"
            )
        return ended


def likeliest(answer: Any, count: int, vocab: int) -> list[dict[int, float]]:
    """Log-probabilities by id of the tokens that may follow each of `count` texts."""
    logprobs = []
    for choice in choices_of(answer, count):
        values = choice.get("logprobs")
        entries = values.get("top_logprobs") if isinstance(values, dict) else None
        if not isinstance(entries, list) or len(entries) != 1 or not isinstance(entries[0], dict):
            raise server_error("gave no top_logprobs of the token that it was asked for")
        logprobs.append({_id_of(k, vocab): checked_logprob(v) for k, v in entries[0].items()})
        if not logprobs[-1]:
            raise server_error("named no token in top_logprobs")
    return logprobs


def _id_of(key: str, vocab: int) -> int:
    number = key.removeprefix("token_id:")
    if not (number.isascii() and number.isdigit() and int(number[:10]) < vocab):
        raise server_error(
            f"named a token {brief(key)!r}, not by one of the models' {vocab} shared ids; it does "
            "not know return_tokens_as_token_ids"
        )
    return int(number[:10])


def choices_of(answer: Any, count: int) -> list[Mapping[str, Any]]:
    """The answer's choices, by their index."""
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or not all(isinstance(c, dict) for c in choices):
        raise server_error("did not answer with choices")
    numbers = [c.get("index") for c in choices]
    if any(type(n) is not int for n in numbers) or sorted(numbers) != list(range(count)):
        raise server_error(f"answered with choices {numbers[:8]} where {count} were asked for")
    return sorted(choices, key=lambda c: c["index"])


def checked_logprob(value: Any) -> float:
    """A log-probability of a token that was written, or stands in a text: above −∞, at most 0."""
    if type(value) not in (float, int) or not LOWEST < value <= ROUNDING:
        shown = value if isinstance(value, float | int) else type(value).__name__
        raise server_error(
            f"gave {shown} as a log-probability, which must be a number of at most 0"
        )
    return min(float(value), 0.0)
