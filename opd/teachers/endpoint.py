"""One address of a teacher's server: a request's single try, and how busy and how well it is.

Free of torch.
"""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from opd.config.models import RouteConfig
from opd.errors import ErrorKind, UserError
from opd.network import client, listens, proxy_for, socket_transport
from opd.server_address import checked_url, key_from
from opd.teachers.vllm_answers import Server
from opd.vllm_protocol import parsed, problem_told

LONGEST_RETRY_AFTER = 300.0
FIRST_REST, LONGEST_REST = 10.0, 600.0  # seconds
KIND = ErrorKind.TEACHER_SERVER


class UnansweredError(Exception):
    """A try that failed and that another one may not; `delay` is what the server asks for."""

    def __init__(self, problem: str, delay: float | None = None) -> None:
        super().__init__(problem)
        self.delay = delay


class Endpoint:
    """`socket` is asked in place of `url`, where it is given; `transport` is for tests."""

    def __init__(
        self,
        url: str,
        config: RouteConfig,
        where: str,
        transport: httpx.BaseTransport | None = None,
        socket: Path | None = None,
    ) -> None:
        self._config, self._socket = config, socket
        example = "http://localhost:8000/v1"
        url = checked_url(url, where=f"{where}.url", example=example, kind=KIND)
        key = key_from(config.key_variable, where=f"{where}.key_variable", kind=KIND)
        self.server = Server(url, where, key, proxy_for(url))
        self.busy = 0  # requests under way
        self.failures = 0  # one after the other
        self.rests_until = 0.0  # and meanwhile others are asked first
        self.doubted = False  # it has failed, and may be another when it comes back
        self._client = client(
            url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=config.timeout,
            limits=httpx.Limits(max_connections=None),
            transport=socket_transport(socket) if socket else transport,
        )

    def close(self) -> None:
        self._client.close()

    def once(self, path: str, body: Mapping[str, Any] | None, max_bytes: int) -> Any:
        """The answer's JSON (None: it has none). Raises UnansweredError, and UserError for what
        another try would only meet again."""
        server = self.server
        if self._socket is not None and not listens(self._socket):
            raise UnansweredError("nothing listens on its socket")
        try:
            response, content = self._send(path, body, max_bytes)
        except httpx.TimeoutException:
            text = f"no answer within {self._config.timeout:g} s ({server.where}.timeout)"
            raise UnansweredError(text) from None
        except httpx.RequestError as error:
            raise UnansweredError(server.quote(str(error)) or type(error).__name__) from None
        if response.status_code == 200:
            return parsed(content)
        problem = f"HTTP {response.status_code}: {server.quote(problem_told(content))}"
        if response.status_code != 429 and response.status_code < 500:
            raise self._refused(path, response.status_code, problem)
        raise UnansweredError(problem, _retry_after(response.headers.get("retry-after")))

    def _send(
        self, path: str, body: Mapping[str, Any] | None, max_bytes: int
    ) -> tuple[httpx.Response, bytes]:
        """`timeout` bounds the whole answer, not only the wait for its next bytes."""
        url, started = self.server.url + path, time.monotonic()
        content = bytearray()
        with self._client.stream("POST" if body else "GET", url, json=body) as response:
            for chunk in response.iter_bytes():
                content += chunk
                if len(content) > max_bytes:
                    raise self.server.error(f"{url} answered with more than {max_bytes} bytes")
                if time.monotonic() - started > self._config.timeout:
                    raise httpx.ReadTimeout("the answer took too long")
            return response, bytes(content)

    def _refused(self, path: str, status: int, problem: str) -> UserError:
        model, k = self._config.model, max(self._config.top_k, 1)
        setting, advice = "url", f"Does the API begin there, most often in /v1, and serve {model}?"
        if status in (401, 403):
            setting, advice = "key_variable", "It must name the variable of the server's key"
        elif status != 404 and "logprobs" in problem:
            setting, advice = "top_k", f"Lower it, or start the server with --max-logprobs {k}"
        elif status >= 400 and status != 404:
            advice = "Its context (--max-model-len) must hold prompt, completion and one token more"
        return self.server.error(f"{self.server.url}{path} answered {problem}. {advice}", setting)


class EndpointPool:
    """The addresses that share a teacher's requests."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self.all = tuple(endpoints)
        self._lock = threading.Lock()

    def next(self, tried: set[Endpoint]) -> Endpoint | None:
        """The least busy of those not tried yet; those that have failed last."""
        now = time.monotonic()
        left = [e for e in self.all if e not in tried]
        return min(left, key=lambda e: (e.rests_until > now, e.busy), default=None)

    @contextmanager
    def at_work(self, endpoint: Endpoint) -> Iterator[None]:
        """A request is under way inside; leaving without an error, it was answered."""
        with self._lock:
            endpoint.busy += 1
        try:
            yield
            endpoint.failures, endpoint.rests_until = 0, 0.0
        finally:
            with self._lock:
                endpoint.busy -= 1

    def failed(self, endpoint: Endpoint) -> bool:
        """Notes it; whether it is news."""
        with self._lock:
            now = time.monotonic()
            if endpoint.rests_until > now:  # of requests that were under way together
                return False
            rest = min(FIRST_REST * 2**endpoint.failures, LONGEST_REST)
            endpoint.failures += 1
            endpoint.rests_until, endpoint.doubted = now + rest, True
            return endpoint.failures == 1


def _retry_after(value: str | None) -> float | None:
    """Seconds from a Retry-After header; None where there is none, or a date."""
    try:
        seconds = float(value or 0)
    except ValueError:
        return None
    return min(seconds, LONGEST_RETRY_AFTER) if seconds > 0 else None
