"""Requests to the vLLM server of a run.

Source: vLLM 0.32.0, vllm/entrypoints/openai/completion, vllm/entrypoints/rl/online/api_router.py.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import httpx

from opd.background import begun
from opd.errors import UserError
from opd.sampling.sample import NEVER, Stopped
from opd.sampling.vllm.address import ServerAddress, server_error
from opd.vllm_protocol import brief, problem_told

MODEL = "student"  # the name it is served under

REQUESTS_AT_ONCE = 64
POLL_SECONDS = 0.1
LOOK_EVERY = 5.0  # seconds between two looks at whether the server still answers
PATIENCE = 60.0  # seconds in which it has to say that it is there
CONTROL_PATIENCE = 600.0  # the same for taking new weights
LEAVING_PATIENCE = 2.0
Body = Mapping[str, Any]


class VllmClient:
    """What fails is a UserError that quotes the server; it is not tried again: a server that fails
    has lost its state."""

    def __init__(self, address: ServerAddress) -> None:
        self._address = address
        self._client = address.client(timeout=httpx.Timeout(None, connect=PATIENCE))

    def close(self) -> None:
        self._client.close()

    @contextmanager
    def telling(self) -> Iterator[None]:
        """What fails inside names the address where it is the user's own server."""
        try:
            yield
        except UserError as error:
            addressed = self._address.with_address(error)
            if addressed is error:
                raise
            raise addressed from None

    def healthy(self) -> bool:
        """Whether it answers now."""
        try:
            get, there = self._client.get, self._address.listens()
            return there and get("/health", timeout=PATIENCE).status_code == 200
        except httpx.HTTPError:
            return False

    def ask(self, path: str, body: Body | None = None, *, method: str = "POST") -> Any:
        """The JSON of the answer to a request that takes no long time."""
        return _json(path, self._watched(path, body, method))

    def tell(self, path: str, body: Body) -> None:
        """Returns once it has done what is asked; it may answer with words."""
        self._watched(path, body, "POST")

    def ask_if_there(self, path: str, body: Body) -> Any:
        """The JSON of the answer; None where the server does not answer that."""
        response = self._sent(path, body, "POST", CONTROL_PATIENCE)
        return _json(path, response) if response.status_code == 200 else None

    def leave(self, path: str, body: Body) -> None:
        """Tells it what a run that ends has to say; whether it hears that ends no run."""
        with suppress(UserError):
            self._response(path, body, "POST", LEAVING_PATIENCE)

    def ask_all(self, path: str, bodies: Sequence[Body], stop: Callable[[], bool]) -> list[Any]:
        """The answers to several requests in their order, however long they take.

        Raises Stopped when `stop()` turns true, and UserError when the server answers no more.
        """

        def answer(body: Body) -> Any:
            return _json(path, self._response(path, body, "POST", None))

        return self._together([partial(answer, body) for body in bodies], stop)

    def _watched(self, path: str, body: Body | None, method: str) -> httpx.Response:
        """The answer, while a server that answers nothing else any more is not waited for."""
        call = partial(self._response, path, body, method, CONTROL_PATIENCE)
        response: httpx.Response = self._together([call], NEVER)[0]
        return response

    def _together(self, calls: Sequence[Callable[[], Any]], stop: Callable[[], bool]) -> list[Any]:
        """What the calls return."""
        futures = begun(calls, name="vllm-sampler", at_once=REQUESTS_AT_ONCE)
        try:
            self._wait(set(futures), stop)
        finally:
            for future in futures:
                future.cancel()
        return [future.result() for future in futures]

    def _wait(self, pending: set[Future[Any]], stop: Callable[[], bool]) -> None:
        looked = time.monotonic()
        while pending:
            if stop():
                raise Stopped
            done, pending = wait(pending, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()  # raises here what the first to fail raised
            if time.monotonic() - looked > LOOK_EVERY:
                if not self.healthy():
                    raise server_error(f"/health does not answer within {PATIENCE:g} s")
                looked = time.monotonic()

    def _response(
        self, path: str, body: Body | None, method: str, timeout: float | None
    ) -> httpx.Response:
        """Raises UserError for any answer that is no success."""
        response = self._sent(path, body, method, timeout)
        if response.status_code != 200:
            text = brief(problem_told(response.content), self._address.key)
            raise server_error(f"{path} answered HTTP {response.status_code}: {text}")
        return response

    def _sent(
        self, path: str, body: Body | None, method: str, timeout: float | None
    ) -> httpx.Response:
        limits = httpx.Timeout(timeout, connect=PATIENCE)
        if not self._address.listens():
            raise server_error(f"{path}: nothing listens on its socket")
        try:
            return self._client.request(method, path, json=body, timeout=limits)
        except httpx.TimeoutException:
            raise server_error(f"{path} did not answer in time") from None
        except httpx.HTTPError as error:
            raise server_error(f"{path}: {str(error) or type(error).__name__}") from None


def _json(path: str, response: httpx.Response) -> Any:
    try:
        return response.json()
    except (ValueError, RecursionError):
        raise server_error(f"{path} did not answer with JSON") from None
