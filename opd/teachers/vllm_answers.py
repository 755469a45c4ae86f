"""What a server with vLLM's `prompt_logprobs` answers, as a teacher's opinions.

An answer that cannot be true is refused, with what to change. Free of torch.

Source: vLLM, vllm/entrypoints/openai/serving_completion.py and vllm/logprobs.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from opd.errors import ErrorKind, UserError
from opd.network import Proxy, through
from opd.types import Floats, Ints
from opd.vllm_protocol import LOWEST, NEUTRAL, ROUNDING, brief

LARGEST = 2**31  # of ranks
ID_DIGITS = 9  # of an id, at most
Rows = Sequence[tuple[list[int], list[int]]]  # ids of each prompt, and of its completion


@dataclass(frozen=True)
class RemoteOpinion:
    """What the teacher thinks of the T completion tokens of one rollout, at temperature 1.

    All log-probabilities are in nats and within [LOWEST, 0]: a token of probability 0 has LOWEST
    and not −inf, so that it does not turn a whole step's sums to NaN. Ids may lie beyond the
    student's vocabulary, where the teacher's is larger.
    """

    logprobs: Floats  # (T,) log q(x_t)
    ranks: Ints | None  # (T,) as the server counts ties; 0 = likeliest; None where it tells none
    top_ids: Ints | None  # (T, k), likeliest first; None where k = 0
    top_logprobs: Floats | None  # (T, k)


@dataclass(frozen=True)
class _GivenEntries:
    """What a server gave for T tokens: n entries, each of one token (row) and one id."""

    rows: Ints  # (n,) ascending
    ids: Ints  # (n,)
    logprobs: np.ndarray  # (n,) float64, in [LOWEST, 0]
    ranks: Ints  # (n,) from 0; LARGEST: the server gave none


@dataclass(frozen=True)
class Server:
    """Where the teacher is, and how errors speak of it."""

    url: str
    where: str
    key: str | None = field(repr=False)
    proxy: Proxy | None = None

    def error(
        self, message: str, setting: str = "url", kind: ErrorKind = ErrorKind.TEACHER_SERVER
    ) -> UserError:
        return UserError(message + through(self.proxy), where=f"{self.where}.{setting}", kind=kind)

    def quote(self, text: str) -> str:
        """The server's own words, short and without the key."""
        return brief(text, self.key)


@dataclass(frozen=True)
class AnswerReader:
    """Makes opinions of a server's answers and refuses what cannot be true."""

    path: ClassVar[str] = "/completions"
    models_path: ClassVar[str] = "/models"
    ranked: ClassVar[bool] = True  # whether each token comes with its rank

    server: Server
    k: int

    def body(
        self, model: str, sequences: Sequence[Sequence[int]], *, texts: bool = False
    ) -> dict[str, Any]:
        """What is asked, of `sequences` of ids; with the `texts` of ids, where that is a choice."""
        return NEUTRAL | {  # an older vLLM applies them to the prompt's logits too
            "model": model,
            "prompt": sequences,
            "max_tokens": 1,
            "temperature": 1.0,
            "prompt_logprobs": max(self.k, 1),  # some versions take 0 for "none at all"
            "stream": False,
        }

    def texts(self, choice: Mapping[str, Any]) -> dict[int, str]:
        """Of the ids in a choice whose opinion was formed, those whose text the server tells."""
        return {
            int(key): text
            for entry in choice["prompt_logprobs"]
            if isinstance(entry, dict)
            for key, value in entry.items()
            if isinstance(text := value.get("decoded_token"), str) and text
        }

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
        given = self._entries(entries, len(prompt))
        sent_ids = np.array(completion, np.int64)
        logprobs, ranks = self._sampled(given, sent_ids)
        if not self.k:
            return RemoteOpinion(logprobs, ranks, None, None)
        return RemoteOpinion(logprobs, ranks, *self._likeliest(given, sent_ids))

    def _entries(self, given: Sequence[Any], first: int) -> _GivenEntries:
        """Of the tokens from number `first` on, all at once: there are many."""
        read = given[first:]
        for position, entry in enumerate(read, first):
            if not isinstance(entry, dict) or not entry:
                raise self._error(
                    f"gave nothing for token {position} of a sequence; if it caches prefixes, "
                    "start it with --no-enable-prefix-caching"
                )
        keys = [key for entry in read for key in entry]
        values = [value for entry in read for value in entry.values()]
        numbers = np.array([v.get("logprob") if type(v) is dict else None for v in values])
        text = "".join(keys)
        plain = text.isascii() and text.isdigit() and min(map(len, keys)) > 0
        fits = plain and max(map(len, keys)) <= ID_DIGITS and numbers.dtype.kind in "if"
        if not fits or not (numbers <= ROUNDING).all():
            for key, value in zip(keys, values, strict=True):
                self._check(key, value)
            numbers = np.array([max(v["logprob"], LOWEST) for v in values])
        ids = np.array([int(key) for key in keys], np.int64)
        ranks = np.array([_rank(v.get("rank")) for v in values], np.int64)
        rows = np.repeat(np.arange(len(read)), [len(entry) for entry in read])
        return _GivenEntries(rows, ids, np.clip(numbers.astype(np.float64), LOWEST, 0), ranks)

    def _check(self, key: str, value: Any) -> None:
        """Raises UserError for an entry that says nothing, or what cannot be."""
        if not (key.isascii() and key.isdigit() and len(key) <= ID_DIGITS):
            raise self._error(f"named a token {self.server.quote(key)!r}, not by its id")
        logprob = value.get("logprob") if isinstance(value, dict) else None
        if not isinstance(logprob, float | int) or not logprob <= ROUNDING:
            shown = logprob if isinstance(logprob, float) else type(logprob).__name__
            raise self._error(
                f"gave {shown} as log-probability of token {key}; it must be a number of at "
                "most 0 (--logprobs-mode raw_logprobs)"
            )

    def _sampled(self, entries: _GivenEntries, sent: Ints) -> tuple[Floats, Ints | None]:
        """Log-probabilities and ranks (T,) of the tokens that were sent."""
        of_sent = np.flatnonzero(entries.ids == sent[entries.rows])
        at = np.full(len(sent), -1)
        at[entries.rows[of_sent]] = of_sent
        lacks = (at < 0) | (self.ranked & (entries.ranks[at] == LARGEST))
        if lacks.any():
            t = int(lacks.argmax())
            missing = "log-probability" if at[t] < 0 else "rank"
            raise self._error(f"gave no {missing} of token {sent[t]}, which it was sent")
        return entries.logprobs[at].astype(np.float32), entries.ranks[at] if self.ranked else None

    def _likeliest(self, entries: _GivenEntries, sent: Ints) -> tuple[Ints, Floats]:
        """The k likeliest (T, k); the sent token is there beside them where it is none of them."""
        counts = (entries.ids != sent[entries.rows]) | (entries.ranks < self.k)
        numbers = np.flatnonzero(counts)
        per_row = np.bincount(entries.rows[numbers], minlength=len(sent))
        if (fewest := int(per_row.min())) < self.k:
            raise self._error(
                f"gave {fewest} alternatives where {self.k} were asked for: set top_k to at "
                f"most {fewest}, or start the server with --max-logprobs {self.k}; only "
                "policy_gradient needs none (top_k 0)",
                "top_k",
            )
        rows, logprobs, ranks = (
            getattr(entries, n)[numbers] for n in ("rows", "logprobs", "ranks")
        )
        order = numbers[np.lexsort((ranks, -logprobs, rows))]
        starts = np.cumsum(per_row) - per_row
        chosen = order[starts[:, None] + np.arange(self.k)]
        return entries.ids[chosen], entries.logprobs[chosen].astype(np.float32)

    def _error(self, message: str, setting: str = "url") -> UserError:
        return self.server.error(f"{self.server.url}{self.path} {message}", setting)


def _rank(value: Any) -> int:
    """From 0; LARGEST where it is none."""
    return value - 1 if type(value) is int and 1 <= value <= LARGEST else LARGEST
