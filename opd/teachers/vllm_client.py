"""A teacher behind a server: it scores given tokens and sends back log-probabilities.

The server speaks the OpenAI completions API with vLLM's `prompt_logprobs`: for each token of the
prompt, but the first, its log-probability, its rank and the k likeliest tokens. A rollout is sent
as the prompt, as token ids and not as text, so that teacher and student read the same tokens. One
token more is generated (servers refuse to generate none) and thrown away: the server's context
must be one token longer than the longest rollout. Free of torch.

Source: vLLM, vllm/entrypoints/openai/serving_completion.py and vllm/logprobs.py.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any

import httpx

from opd.config.models import RouteConfig
from opd.errors import ErrorKind, UserError
from opd.network import client, proxy_for
from opd.server_address import checked_url, key_from
from opd.teachers.vllm_answers import AnswerReader, RemoteOpinion, Server
from opd.types import Ints
from opd.vllm_protocol import parsed, problem_told

REQUESTS_AT_ONCE = 4
SEQUENCES_PER_REQUEST = 64
ENTRIES_PER_REQUEST = 200_000  # tokens · (k + 1); an entry is about 80 bytes of the answer
BYTES_PER_ENTRY, SPARE_BYTES = 512, 1_000_000  # beyond which no answer is read
FIRST_DELAY, LONGEST_DELAY = 1.0, 60.0  # seconds before a further try; doubles each time
LONGEST_RETRY_AFTER = 300.0
POLL_SECONDS = 0.2
# An older vLLM applies these to the logits of the prompt too, and takes what is not given from the
# model's generation_config.json. All are set to change nothing.
NEUTRAL = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}


class RemoteTeacher:
    """Reads rollouts through a server. Every failure is a UserError that says what to change.

    `where` is the field of the configuration that errors name; `sleep` waits between tries, by
    default until the caller of `read` is stopped.
    """

    def __init__(
        self,
        config: RouteConfig,
        *,
        where: str = "teacher",
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self._config = config
        kind = ErrorKind.TEACHER_SERVER
        example = "http://localhost:8000/v1"
        url = checked_url(config.url, where=f"{where}.url", example=example, kind=kind)
        key = key_from(config.key_variable, where=f"{where}.key_variable", kind=kind)
        self._server = Server(url, where, key, proxy_for(url))
        self._sleep = sleep
        self._client = client(
            url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=config.timeout,
            transport=transport,
        )

    def close(self) -> None:
        self._client.close()

    def check(self) -> None:
        """Is the server there, does it serve the model, and does it give k alternatives?"""
        going = threading.Event()
        served = _model_names(self._ask("/models", None, SPARE_BYTES, going))
        if self._config.model not in served:
            names = self._server.quote(", ".join(served)) or "nothing"
            raise self._server.error(
                f"{self._server.url}/models lists {names}, and not {self._config.model}", "model"
            )
        self._read_batch([([0], [0])], going)

    def served_model(self) -> str | None:
        """What the server says it serves under the model's name: its path or id, if it tells."""
        answer = self._ask("/models", None, SPARE_BYTES, threading.Event())
        entry = next((m for m in _models(answer) if m.get("id") == self._config.model), {})
        served = entry.get("root") or entry.get("id")
        return None if served is None else str(served)

    def read(
        self,
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Sequence[int] | Ints],
        pause_point: Callable[[], None] = lambda: None,
    ) -> list[RemoteOpinion]:
        """The teacher's opinions of the completions, in their order.

        `pause_point` is called in this thread several times a second. What it raises ends the
        reading: requests not yet sent are dropped, those under way are not waited for.
        """
        pairs = [
            ([int(token) for token in prompt], [int(token) for token in completion])
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
        for i, (prompt, completion) in enumerate(pairs):
            if not prompt or not completion:
                raise ValueError(f"sequence {i}: the prompt or the completion is empty")
        pause_point()
        abandoned = threading.Event()
        pool = ThreadPoolExecutor(REQUESTS_AT_ONCE, thread_name_prefix="remote-teacher")
        try:
            futures = [  # in the order of the sequences
                pool.submit(self._read_batch, [pairs[i] for i in rows], abandoned)
                for rows in batches([len(p) + len(c) for p, c in pairs], self._config.top_k)
            ]
            pending = set(futures)
            while pending:
                done, pending = wait(pending, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()  # raises here what the first to fail raised
                pause_point()
        finally:
            abandoned.set()
            pool.shutdown(wait=False, cancel_futures=True)
        return [opinion for future in futures for opinion in future.result()]

    def _read_batch(
        self, pairs: list[tuple[list[int], list[int]]], abandoned: threading.Event
    ) -> list[RemoteOpinion]:
        k, sequences = self._config.top_k, [prompt + completion for prompt, completion in pairs]
        body = NEUTRAL | {
            "model": self._config.model,
            "prompt": sequences,
            "max_tokens": 1,
            "prompt_logprobs": max(k, 1),  # some versions take 0 for "none at all"
            "stream": False,
        }
        entries = sum(map(len, sequences)) * (k + 2)
        most = SPARE_BYTES + entries * BYTES_PER_ENTRY
        reader = AnswerReader(self._server, k)
        answer = self._ask("/completions", body, most, abandoned)
        choices = reader.choices(answer, len(sequences))
        return [reader.opinion(*pair, c) for pair, c in zip(pairs, choices, strict=True)]

    def _ask(
        self, path: str, body: Mapping[str, Any] | None, max_bytes: int, abandoned: threading.Event
    ) -> Any:
        """The answer's JSON (None: it has none), after as many tries as are allowed."""
        server, tries = self._server, self._config.retries + 1
        problem = ""
        for attempt in range(tries):
            delay = min(FIRST_DELAY * 2**attempt, LONGEST_DELAY)
            try:
                response, content = self._send(path, body, max_bytes)
            except httpx.TimeoutException:
                problem = f"no answer within {self._config.timeout:g} s ({server.where}.timeout)"
            except httpx.RequestError as error:
                problem = server.quote(str(error)) or type(error).__name__
            else:
                if response.status_code == 200:
                    return parsed(content)
                problem = f"HTTP {response.status_code}: {server.quote(problem_told(content))}"
                if response.status_code != 429 and response.status_code < 500:
                    raise self._refused(path, response.status_code, problem)
                delay = _retry_after(response.headers.get("retry-after")) or delay
            if attempt + 1 < tries:
                (self._sleep or abandoned.wait)(delay)
            if abandoned.is_set():
                break  # nobody waits for this any more, nor hears what is raised
        times = "once" if tries == 1 else f"{tries} times"
        raise server.error(
            f"{server.url}{path} failed {times} ({server.where}.retries), at last with: "
            f"{problem}. Is the server up, and is this its address?"
        )

    def _send(
        self, path: str, body: Mapping[str, Any] | None, max_bytes: int
    ) -> tuple[httpx.Response, bytes]:
        """One try. `timeout` bounds the whole answer, not only the wait for its next bytes."""
        url, started = self._server.url + path, time.monotonic()
        content = bytearray()
        with self._client.stream("POST" if body else "GET", url, json=body) as response:
            for chunk in response.iter_bytes():
                content += chunk
                if len(content) > max_bytes:
                    raise self._server.error(f"{url} answered with more than {max_bytes} bytes")
                if time.monotonic() - started > self._config.timeout:
                    raise httpx.ReadTimeout("the answer took too long")
            return response, bytes(content)

    def _refused(self, path: str, status: int, problem: str) -> UserError:
        """The error for an answer that a further try would only meet again."""
        model, k = self._config.model, max(self._config.top_k, 1)
        setting, advice = "url", f"Does the API begin there, most often in /v1, and serve {model}?"
        if status in (401, 403):
            setting, advice = "key_variable", "It must name the variable of the server's key"
        elif status != 404 and "logprobs" in problem:
            setting, advice = "top_k", f"Lower it, or start the server with --max-logprobs {k}"
        elif status >= 400 and status != 404:
            advice = "Its context (--max-model-len) must hold prompt, completion and one token more"
        return self._server.error(f"{self._server.url}{path} answered {problem}. {advice}", setting)


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


def _model_names(answer: Any) -> list[str]:
    return [str(model.get("id")) for model in _models(answer)]


def _models(answer: Any) -> list[dict[str, Any]]:
    data = answer.get("data") if isinstance(answer, dict) else None
    return [m for m in data if isinstance(m, dict)] if isinstance(data, list) else []


def _retry_after(value: str | None) -> float | None:
    """Seconds from a Retry-After header; None where there is none, or a date."""
    try:
        seconds = float(value or 0)
    except ValueError:
        return None
    return min(seconds, LONGEST_RETRY_AFTER) if seconds > 0 else None
