"""A small server of `prompt_logprobs` in vLLM's form, over one model, with faults on demand; and
what tests of the remote teacher share.

Each sequence is scored by a plain forward pass of its own in float64, without padding.
"""

import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from opd.errors import UserError
from opd.teachers.vllm_answers import RemoteOpinion
from opd.teachers.vllm_client import RemoteTeacher

Payload = dict[str, Any]


def sequences(n: int = 6) -> tuple[list[list[int]], list[Any]]:
    """Prompts, and completions as arrays."""
    rng = np.random.default_rng(0)
    ids = [[rng.integers(2, 300, rng.integers(1, 12)) for _ in range(n)] for _ in range(2)]
    return [prompt.tolist() for prompt in ids[0]], ids[1]


def same(left: list[RemoteOpinion], right: list[RemoteOpinion]) -> None:
    for a, b in zip(left, right, strict=True):
        for name in ("logprobs", "ranks", "top_ids", "top_logprobs"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def refused(reader: RemoteTeacher, *, where: str = "teacher.url") -> str:
    """The text of the UserError that reading one short rollout raises."""
    with pytest.raises(UserError) as caught:
        reader.read([[3, 4]], [[5, 6, 7]])
    assert caught.value.kind == "teacher server"
    assert caught.value.where == where
    return caught.value.message


def scripted(answer: httpx.Response | list[Payload | None]) -> httpx.MockTransport:
    """A transport that gives this answer, or these entries of one choice, to every request."""
    choices = {"choices": [{"index": 0, "prompt_logprobs": answer}]}

    def handle(_request: httpx.Request) -> httpx.Response:
        if isinstance(answer, httpx.Response):
            return httpx.Response(answer.status_code, content=answer.content)
        return httpx.Response(200, content=json.dumps(choices))

    return httpx.MockTransport(handle)


def entry(**values: tuple[Any, Any]) -> Payload:
    """`entry(t5=(-1.0, 1))`: an entry of token 5 with log-probability and rank."""
    return {k[1:]: {"logprob": v, "rank": rank} for k, (v, rank) in values.items()}


def edited(change: Callable[[list[Any]], list[Any]]) -> Callable[[Payload], Payload]:
    """An edit of the entries of each choice, for Faults."""

    def edit(answer: Payload) -> Payload:
        for choice in answer["choices"]:
            choice["prompt_logprobs"] = change(choice["prompt_logprobs"])
        return answer

    return edit


def last(value: Any) -> Callable[[Payload], Payload]:
    """An edit that puts this in place of the last token's entry."""
    return edited(lambda entries: [*entries[:-1], value])


@dataclass
class Faults:
    """What goes wrong. `fail_first` and `close_first` count down over all completion requests."""

    fail_first: int = 0
    status: int = 500
    retry_after: str | None = None
    close_first: int = 0  # connections closed without an answer
    delay: float = 0.0  # seconds before each answer
    at_once: threading.Barrier | None = None  # requests that must be under way together
    alternatives: int | None = None  # at most so many, whatever was asked for
    edit: Callable[[Payload], Any] = lambda answer: answer  # the last word on each answer


@dataclass
class Seen:
    """What was asked for."""

    bodies: list[Payload] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    most_at_once: int = 0


class LogprobsServer:
    """`with LogprobsServer(folder) as server:` answers at `server.url`."""

    def __init__(
        self,
        folder: str,
        *,
        name: str = "tiny",
        max_logprobs: int = 20,
        key: str | None = None,
        sglang: bool = False,
    ) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
        self.name, self.max_logprobs, self.key = name, max_logprobs, key
        self.sglang = sglang  # it answers in SGLang's form
        self.texts: Callable[[int], str | None] = lambda i: None  # of ids, as the server tells them
        self.faults, self.seen = Faults(), Seen()
        self.lock, self.under_way = threading.Lock(), 0
        self.http = _Http(("127.0.0.1", 0), _Handler)
        self.http.ours = self
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))

    def __enter__(self) -> "LogprobsServer":
        self.thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()  # waits for the requests under way

    def reset(self) -> None:
        self.faults, self.seen = Faults(), Seen()

    def answer(self, body: Payload) -> Payload:
        """One choice a sequence, as `POST /v1/completions` gives them."""
        prompts = body["prompt"] if isinstance(body["prompt"][0], list) else [body["prompt"]]
        with self.lock:
            scored = [self.prompt_logprobs(ids, body["prompt_logprobs"]) for ids in prompts]
        choices = [
            {"index": i, "text": "x", "finish_reason": "length", "prompt_logprobs": entries}
            for i, entries in enumerate(scored)
        ]
        return {"object": "text_completion", "model": self.name, "choices": choices}

    def generated(self, body: Payload) -> list[Payload]:
        """One object a sequence, as SGLang's `POST /generate` gives them."""
        with self.lock:
            self.seen.bodies.append(body)
            return [self.meta(ids, body["top_logprobs_num"]) for ids in body["input_ids"]]

    def meta(self, ids: list[int], k: int) -> Payload:
        tokens: list[Any] = [[None, ids[0], None]]
        tops: list[Any] = [None]
        for token, entry in zip(ids[1:], self.prompt_logprobs(ids, k)[1:], strict=True):
            assert entry is not None
            said = {int(i): (v["logprob"], v["rank"], v["decoded_token"]) for i, v in entry.items()}
            tokens.append([said[token][0], token, said[token][2]])
            likeliest = sorted((v[1], i) for i, v in said.items() if v[1] <= k)
            tops.append([[said[i][0], i, said[i][2]] for _, i in likeliest])
        info = {"prompt_tokens": len(ids), "input_token_logprobs": tokens}
        reason = {"finish_reason": {"type": "length", "length": 1}}
        return {
            "text": "x",
            "meta_info": info | reason | ({"input_top_logprobs": tops} if k else {}),
        }

    @torch.no_grad()
    def prompt_logprobs(self, ids: list[int], k: int) -> list[Payload | None]:
        """None for the first token; for each other its own entry, then the k likeliest."""
        logp = torch.log_softmax(self.model(torch.tensor([ids])).logits[0], -1)
        k = k if self.faults.alternatives is None else min(k, self.faults.alternatives)
        entries: list[Payload | None] = [None]
        for row, token in zip(logp[:-1], ids[1:], strict=True):
            rank = int((row >= row[token]).sum())
            entry = {str(token): self._value(row[token], rank, token)}
            values, top = row.topk(k)
            pairs = zip(top.tolist(), values, strict=True)
            entry |= {str(i): self._value(v, n, i) for n, (i, v) in enumerate(pairs, 1)}
            entries.append(entry)
        return entries

    def _value(self, logprob: torch.Tensor, rank: int, token: int) -> Payload:
        value = max(float(logprob), -9999.0)
        return {"logprob": value, "rank": rank, "decoded_token": self.texts(token)}

    def refusal(self, body: Payload) -> tuple[int, str] | None:
        """Status and message for what vLLM would refuse too."""
        if body["model"] != self.name:
            return 404, f"The model `{body['model']}` does not exist."
        if body["max_tokens"] < 1:
            return 400, f"max_tokens must be at least 1, got {body['max_tokens']}."
        if body["prompt_logprobs"] > self.max_logprobs:
            return 400, (
                f"Requested prompt logprobs of {body['prompt_logprobs']}, which is greater than "
                f"max allowed: {self.max_logprobs}"
            )
        return None


class _Http(ThreadingHTTPServer):
    ours: LogprobsServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that have gone are part of the tests; all else is shown."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _take(faults: Faults, name: str) -> bool:
    left: int = getattr(faults, name)
    setattr(faults, name, max(left - 1, 0))
    return left > 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 5
    server: _Http

    @property
    def ours(self) -> LogprobsServer:
        return self.server.ours

    def do_GET(self) -> None:
        if self._allowed():
            exists = self.path == "/v1/models"
            data = {"object": "list", "data": [{"id": self.ours.name, "object": "model"}]}
            self._send(200 if exists else 404, data if exists else {"detail": "Not Found"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._allowed():
            return
        if self.path == "/generate" and self.ours.sglang:
            return self._send(200, self.ours.faults.edit(self.ours.generated(body)))
        if self.path != "/v1/completions" or self.ours.sglang:
            return self._send(404, {"detail": "Not Found"})
        with self.ours.lock:
            self.ours.seen.bodies.append(body)
            self.ours.under_way += 1
            self.ours.seen.most_at_once = max(self.ours.seen.most_at_once, self.ours.under_way)
            close = _take(self.ours.faults, "close_first")
            fail = not close and _take(self.ours.faults, "fail_first")
        try:
            answer = None if close else self._answer(body, fail)
        finally:
            with self.ours.lock:
                self.ours.under_way -= 1
        if answer is None:
            self.close_connection = True
        else:
            self._send(*answer)

    def _answer(self, body: Payload, fail: bool) -> tuple[int, Any]:
        faults = self.ours.faults
        time.sleep(faults.delay)
        if faults.at_once is not None:
            faults.at_once.wait(timeout=10)
        if fail:
            return faults.status, _error(faults.status, "not now")
        if refusal := self.ours.refusal(body):
            return refusal[0], _error(*refusal)
        return 200, faults.edit(self.ours.answer(body))

    def _allowed(self) -> bool:
        given = self.headers.get("Authorization")
        self.ours.seen.keys.append(given)
        if self.ours.key is None or given == f"Bearer {self.ours.key}":
            return True
        self._send(401, {"error": f"Unauthorized: {given}"})
        return False

    def _send(self, status: int, data: Any) -> None:
        content = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if self.ours.faults.retry_after is not None:
            self.send_header("Retry-After", self.ours.faults.retry_after)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


def _error(status: int, message: str) -> Payload:
    return {"error": {"message": message, "type": "BadRequestError", "code": status}}
