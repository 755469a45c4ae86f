"""A teacher behind one or several servers: it scores given tokens and sends back log-probabilities.

The servers speak the OpenAI completions API with vLLM's `prompt_logprobs`: for each token of the
prompt, but the first, its log-probability, its rank and the k likeliest tokens. A rollout is sent
as the prompt, as token ids and not as text, so that teacher and student read the same tokens. One
token more is generated (servers refuse to generate none) and thrown away: the server's context
must be one token longer than the longest rollout. Free of torch.

Several addresses share the requests, each taking what it is quick enough for. One that fails leaves
its requests to the others, and proves that it is still the same model before it takes more.

Source: vLLM, vllm/entrypoints/openai/serving_completion.py and vllm/logprobs.py.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import httpx
import numpy as np

from opd.background import begun
from opd.config.models import RouteConfig
from opd.errors import ErrorKind, UserError
from opd.teachers.endpoint import Endpoint, EndpointPool, UnansweredError
from opd.teachers.sglang_answers import SglangReader
from opd.teachers.vllm_answers import AnswerReader, RemoteOpinion, Rows
from opd.types import Floats, Ints
from opd.vllm_protocol import models_listed

REQUESTS_AT_ONCE = 8  # by address
SEQUENCES_PER_REQUEST = 16
ENTRIES_PER_REQUEST = 100_000  # tokens · (k + 1); an entry is about 80 bytes of the answer
BYTES_PER_ENTRY, SPARE_BYTES = 512, 1_000_000  # beyond which no answer is read
FIRST_DELAY, LONGEST_DELAY = 1.0, 60.0  # seconds before a further try; doubles each time
POLL_SECONDS = 0.2
KNOWN_TOKENS = 33
SAME_MODEL = 0.25  # nats by which two servers of one model may differ, in the mean of known tokens
OTHER_TEXTS = 0.25  # share of ids whose texts may differ by how a server writes them
T = TypeVar("T")
# Texts of ids by the student's tokenizer
Texts = Callable[[Sequence[int]], Sequence[str]]


@dataclass(frozen=True)
class KnownScores:
    """Scores of some tokens, by which a server is known again."""

    url: str
    ids: Sequence[int]
    scores: Floats


class RemoteTeacher:
    """Reads rollouts through its servers. Every failure is a UserError that says what to change.

    `where` is the field of the configuration that errors name; `socket` is
    that of a server on this machine; `sleep` waits between tries, by default until the caller of
    `read` is stopped; `say` is told whose requests others take.
    """

    def __init__(
        self,
        config: RouteConfig,
        *,
        where: str = "teacher",
        transport: httpx.BaseTransport | None = None,
        socket: Path | None = None,
        sleep: Callable[[float], object] | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._config, self._where = config, where
        self._reader = SglangReader if config.server == "sglang" else AnswerReader
        self._endpoints = EndpointPool(
            [Endpoint(url, config, where, transport, socket) for url in self._urls()]
        )
        self._sleep, self._say = sleep, say
        self._news: SimpleQueue[str] = SimpleQueue()
        self._first: KnownScores | None = None

    def _urls(self) -> list[str]:
        """Below which the paths are: SGLang's own is beside /v1."""
        if self._config.server == "sglang":
            return [url.rstrip("/").removesuffix("/v1") for url in self._config.urls]
        return self._config.urls

    def close(self) -> None:
        for endpoint in self._endpoints.all:
            endpoint.close()

    def check(self, ids: Sequence[int] = (0, 0), texts: Texts | None = None) -> None:
        """Is each server there, does it serve the model, and does it give k alternatives? All must
        score the tokens `ids` alike, and what texts of ids they tell must be the student's."""
        for endpoint in self._endpoints.all:
            self._with_tries(self._reader.models_path, self._check_name, EndpointPool([endpoint]))
            scores = self._with_tries(
                self._reader.path, lambda e: self._scores(e, ids, texts), EndpointPool([endpoint])
            )
            if self._first is None:
                self._first = KnownScores(endpoint.server.url, ids, scores)
            self._compare(endpoint, scores, self._first)

    def served_model(self) -> str | None:
        """What the server says it serves under the model's name: its path or id, if it tells."""
        first, path = EndpointPool(self._endpoints.all[:1]), self._reader.models_path
        answer = self._with_tries(path, lambda e: e.once(path, None, SPARE_BYTES), first)
        entry = next((m for m in models_listed(answer) if m.get("id") == self._config.model), {})
        served = entry.get("root") or entry.get("id")
        return None if served is None else str(served)

    def read(
        self,
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Sequence[int] | Ints],
        pause_point: Callable[[], None] = lambda: None,
    ) -> list[RemoteOpinion]:
        """The teacher's opinions of the completions, in their order."""
        return list(self.stream(prompts, completions, pause_point))

    def stream(
        self,
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Sequence[int] | Ints],
        pause_point: Callable[[], None] = lambda: None,
    ) -> Iterator[RemoteOpinion]:
        """All are asked for at once; each comes as soon as it and those before it are there.

        `pause_point` is called in this thread several times a second. What it raises ends the
        reading: requests not yet sent are dropped, those under way are not waited for.
        """
        rows = [
            ([int(token) for token in prompt], [int(token) for token in completion])
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
        for i, (prompt, completion) in enumerate(rows):
            if not prompt or not completion:
                raise ValueError(f"sequence {i}: the prompt or the completion is empty")
        pause_point()
        abandoned = threading.Event()
        at_once = REQUESTS_AT_ONCE * len(self._endpoints.all)
        calls = [  # in the order of the sequences
            partial(self._read_rows, [rows[i] for i in numbers], abandoned)
            for numbers in batches([len(p) + len(c) for p, c in rows], self._config.top_k)
        ]
        futures = begun(calls, name="remote-teacher", at_once=at_once)
        try:
            for number, future in enumerate(futures):
                self._wait(futures[number:], pause_point)
                yield from future.result()
        finally:
            abandoned.set()
            for future in futures:
                future.cancel()

    def _wait(
        self, futures: Sequence[Future[list[RemoteOpinion]]], pause_point: Callable[[], None]
    ) -> None:
        """For the first of them. Raises what the first to fail raised."""
        pending = set(futures)
        while not futures[0].done():
            done, pending = wait(pending, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
            while not self._news.empty():
                self._say(self._news.get())
            pause_point()

    def _read_rows(self, rows: Rows, abandoned: threading.Event) -> list[RemoteOpinion]:
        def by(endpoint: Endpoint) -> list[RemoteOpinion]:
            if endpoint.doubted and self._first is not None:
                scores = self._scores(endpoint, self._first.ids)
                self._compare(endpoint, scores, self._first)
            endpoint.doubted = False
            return self._opinions(endpoint, rows)

        return self._with_tries(self._reader.path, by, self._endpoints, abandoned)

    def _with_tries(
        self,
        path: str,
        answer: Callable[[Endpoint], T],
        endpoints: EndpointPool,
        abandoned: threading.Event | None = None,
    ) -> T:
        """By whichever address answers, after as many tries at all of them as are allowed."""
        tries, gone = self._config.retries + 1, abandoned or threading.Event()
        problems: dict[Endpoint, str] = {}
        for attempt in range(tries):
            tried: set[Endpoint] = set()
            delay = min(FIRST_DELAY * 2**attempt, LONGEST_DELAY)
            while not gone.is_set() and (endpoint := endpoints.next(tried)) is not None:
                tried.add(endpoint)
                try:
                    with endpoints.at_work(endpoint):
                        return answer(endpoint)
                except UnansweredError as error:
                    problems[endpoint] = str(error)
                    delay = error.delay or delay
                    if endpoints.failed(endpoint) and len(endpoints.all) > 1:
                        self._news.put(
                            f"{endpoint.server.url} failed ({error}); the other addresses of "
                            f"{self._where}.url take its requests"
                        )
            if attempt + 1 < tries and not gone.is_set():
                (self._sleep or gone.wait)(delay)
        if gone.is_set():  # and nobody hears what is raised
            raise CancelledError
        raise _unanswered(path, problems, tries)

    def _check_name(self, endpoint: Endpoint) -> None:
        server, model, path = endpoint.server, self._config.model, self._reader.models_path
        served = [str(m.get("id")) for m in models_listed(endpoint.once(path, None, SPARE_BYTES))]
        if model not in served:
            names = server.quote(", ".join(served)) or "nothing"
            raise server.error(f"{server.url}{path} lists {names}, and not {model}", "model")

    def _scores(self, endpoint: Endpoint, ids: Sequence[int], texts: Texts | None = None) -> Floats:
        """Of all the ids but the first."""
        reader = self._reader(endpoint.server, self._config.top_k)
        rows = [([int(ids[0])], [int(i) for i in ids[1:]])]
        (choice,) = self._choices(endpoint, reader, rows, texts=texts is not None)
        if texts is not None:
            self._check_texts(endpoint, reader.texts(choice), texts)
        return reader.opinion(*rows[0], choice).logprobs

    def _check_texts(self, endpoint: Endpoint, theirs: Mapping[int, str], texts: Texts) -> None:
        """Raises UserError where ids stand for other texts than the student's tokenizer has."""
        ours = dict(zip(theirs, texts(list(theirs)), strict=True))
        different = [i for i, text in theirs.items() if _plain(text) != _plain(ours[i])]
        if len(different) > OTHER_TEXTS * len(theirs):
            quote, i = endpoint.server.quote, different[0]
            raise endpoint.server.error(
                f"{endpoint.server.url} serves a model of another tokenizer: {len(different)} of "
                f"{len(theirs)} ids stand for other text, such as {i}: {quote(theirs[i])!r} there, "
                f"{quote(ours[i])!r} to the student",
                "model",
                ErrorKind.TOKENIZER_MISMATCH,
            )

    def _compare(self, endpoint: Endpoint, scores: Floats, first: KnownScores) -> None:
        """Raises UserError where a server scores the same ids otherwise."""
        apart = float(np.abs(scores - first.scores).mean())
        if apart > SAME_MODEL:
            url, other = endpoint.server.url, first.url
            of = other if other != url else "at the start"
            raise endpoint.server.error(
                f"{url} scores the same tokens otherwise than {of}: {apart:.3g} nats per token "
                f"apart (at most {SAME_MODEL:g}); is it another model?"
            )

    def _opinions(self, endpoint: Endpoint, rows: Rows) -> list[RemoteOpinion]:
        reader = self._reader(endpoint.server, self._config.top_k)
        choices = self._choices(endpoint, reader, rows)
        return [reader.opinion(*row, c) for row, c in zip(rows, choices, strict=True)]

    def _choices(
        self, endpoint: Endpoint, reader: AnswerReader, rows: Rows, *, texts: bool = False
    ) -> list[Mapping[str, Any]]:
        sequences = [prompt + completion for prompt, completion in rows]
        entries = sum(map(len, sequences)) * (reader.k + 2)
        body = reader.body(self._config.model, sequences, texts=texts)
        answer = endpoint.once(reader.path, body, SPARE_BYTES + entries * BYTES_PER_ENTRY)
        return reader.choices(answer, len(sequences))


def _unanswered(path: str, problems: Mapping[Endpoint, str], tries: int) -> UserError:
    """The error that names every address with what it failed with at last."""
    times = "once" if tries == 1 else f"{tries} times"
    server = next(iter(problems)).server
    texts = [
        f"{e.server.url}{path} failed {times} ({server.where}.retries), at last with: {problem}."
        for e, problem in problems.items()
    ]
    one = len(problems) == 1
    asks = "Is the server up, and is this its address?" if one else "Is none of them up?"
    return server.error(" ".join([*texts, asks]))


def _plain(text: str) -> str:
    """Without what servers write in various ways; "" where it is more than ASCII."""
    text = text.replace("\u2581", " ").replace("\u0120", " ").replace("\u010a", "\n").strip()
    return text if text.isascii() else ""


def known_ids(vocab: int) -> list[int]:
    """Ids from everywhere in a vocabulary, by whose scores a model is known again."""
    return [i * vocab // KNOWN_TOKENS for i in range(KNOWN_TOKENS)]


def batches(lengths: Sequence[int], k: int) -> Iterator[list[int]]:
    """Row numbers in order, cut into requests of bounded answers (one row may be larger)."""
    rows: list[int] = []
    entries = 0
    for row, length in enumerate(lengths):
        more = length * (k + 1)
        if rows and (entries + more > ENTRIES_PER_REQUEST or len(rows) == SEQUENCES_PER_REQUEST):
            yield rows
            rows, entries = [], 0
        rows.append(row)
        entries += more
    if rows:
        yield rows
