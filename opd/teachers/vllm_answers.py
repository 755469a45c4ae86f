"""What a server with vLLM's `prompt_logprobs` answers, as a teacher's opinions.

An answer that cannot be true is refused, with what to change. Free of torch.

Source: vLLM, vllm/entrypoints/openai/serving_completion.py and vllm/logprobs.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from opd.errors import ErrorKind, UserError
from opd.network import Proxy, through
from opd.types import Floats, Ints
from opd.vllm_protocol import LOWEST, ROUNDING, brief

LARGEST = 2**31  # of ids and ranks


@dataclass(frozen=True)
class RemoteOpinion:
    """What the teacher thinks of the T completion tokens of one rollout, at temperature 1.

    All log-probabilities are in nats and within [LOWEST, 0]: a token of probability 0 has LOWEST
    and not −inf, so that it does not turn a whole step's sums to NaN. Ids may lie beyond the
    student's vocabulary, where the teacher's is larger.
    """

    logprobs: Floats  # (T,) log q(x_t)
    ranks: Ints  # (T,) as the server counts ties; 0 = likeliest
    top_ids: Ints | None  # (T, k), likeliest first; None where k = 0
    top_logprobs: Floats | None  # (T, k)


# Log-probability and rank from 0 (LARGEST: the server gave none) by token id, at one position
_Entry = dict[int, tuple[float, int]]


@dataclass(frozen=True)
class Server:
    """Where the teacher is, and how errors speak of it."""

    url: str
    where: str
    key: str | None = field(repr=False)
    proxy: Proxy | None = None

    def error(self, message: str, setting: str = "url") -> UserError:
        message += through(self.proxy)
        return UserError(message, where=f"{self.where}.{setting}", kind=ErrorKind.TEACHER_SERVER)

    def quote(self, text: str) -> str:
        """The server's own words, short and without the key."""
        if self.key:
            text = text.replace(self.key, "…")
        return brief(text)


@dataclass(frozen=True)
class AnswerReader:
    """Makes opinions of a server's answers and refuses what cannot be true."""

    server: Server
    k: int

    def choices(self, answer: Any, count: int) -> list[Mapping[str, Any]]:
        """The answer's choices in the order of the request's sequences."""
        choices = answer.get("choices") if isinstance(answer, dict) else None
        if not isinstance(choices, list) or not all(isinstance(c, dict) for c in choices):
            raise self._error("did not answer with choices; is it an OpenAI-compatible server?")
        if len(choices) != count:
            raise self._error(f"answered with {len(choices)} choices for {count} sequences")
        numbers = [choice.get("index", i) for i, choice in enumerate(choices)]
        if any(type(n) is not int for n in numbers) or sorted(numbers) != list(range(count)):
            raise self._error(f"did not number its choices 0 to {count - 1}")
        return [choices[numbers.index(i)] for i in range(count)]

    def opinion(
        self, prompt: list[int], completion: list[int], choice: Mapping[str, Any]
    ) -> RemoteOpinion:
        """Of the completion's tokens, by the scores of the whole sequence."""
        entries, sent = choice.get("prompt_logprobs"), len(prompt) + len(completion)
        if not isinstance(entries, list):
            raise self._error(
                "gave no prompt_logprobs; a remote teacher must be vLLM, or return them as it does"
            )
        if len(entries) != sent:
            raise self._error(
                f"scored {len(entries)} tokens and was sent {sent}; it must score every one"
            )
        positions = [self._entry(entries[i], i) for i in range(len(prompt), sent)]
        sampled = [self._sampled(*pair) for pair in zip(positions, completion, strict=True)]
        logprobs = np.array([logprob for logprob, _ in sampled], np.float32)
        ranks = np.array([rank for _, rank in sampled], np.int64)
        if not self.k:
            return RemoteOpinion(logprobs, ranks, None, None)
        top = [self._likeliest(*pair) for pair in zip(positions, completion, strict=True)]
        ids, values = ([[pair[j] for pair in row] for row in top] for j in (0, 1))
        return RemoteOpinion(logprobs, ranks, np.array(ids, np.int64), np.array(values, np.float32))

    def _entry(self, entry: Any, position: int) -> _Entry:
        if not isinstance(entry, dict) or not entry:
            raise self._error(
                f"gave nothing for token {position} of a sequence; if it caches prefixes, start it "
                "with --no-enable-prefix-caching"
            )
        entries: _Entry = {}
        for key, value in entry.items():
            if not (key.isascii() and key.isdigit() and len(key) <= 10 and int(key) < LARGEST):
                raise self._error(f"named a token {self.server.quote(key)!r}, not by its id")
            logprob = value.get("logprob") if isinstance(value, dict) else None
            if not isinstance(logprob, float | int) or not logprob <= ROUNDING:
                shown = logprob if isinstance(logprob, float) else type(logprob).__name__
                raise self._error(
                    f"gave {shown} as log-probability of token {key}; it must be a number of at "
                    "most 0 (--logprobs-mode raw_logprobs)"
                )
            rank = value.get("rank")
            has_rank = isinstance(rank, int) and 1 <= rank <= LARGEST
            entries[int(key)] = (min(max(logprob, LOWEST), 0.0), rank - 1 if has_rank else LARGEST)
        return entries

    def _sampled(self, entry: _Entry, token: int) -> tuple[float, int]:
        """Log-probability and rank of the token that was sent."""
        logprob, rank = entry.get(token, (0.0, LARGEST))
        if rank == LARGEST:
            missing = "rank" if token in entry else "log-probability"
            raise self._error(f"gave no {missing} of token {token}, which it was sent")
        return logprob, rank

    def _likeliest(self, entry: _Entry, token: int) -> list[tuple[int, float]]:
        """The k likeliest; the sent token is there beside them where it is none of them."""
        ids = [i for i in entry if i != token or entry[i][1] < self.k]
        if len(ids) < self.k:
            raise self._error(
                f"gave {len(ids)} alternatives where {self.k} were asked for: set top_k to at "
                f"most {len(ids)}, or start the server with --max-logprobs {self.k}; only "
                "policy_gradient needs none (top_k 0)",
                "top_k",
            )
        ids.sort(key=lambda i: (-entry[i][0], entry[i][1]))
        return [(i, entry[i][0]) for i in ids[: self.k]]

    def _error(self, message: str, setting: str = "url") -> UserError:
        return self.server.error(f"{self.server.url}/completions {message}", setting)
