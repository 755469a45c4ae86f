"""Requests to the vLLM server of a run, over its Unix socket.

Source: vLLM 0.32.0, vllm/entrypoints/openai/completion, vllm/entrypoints/rl/online/api_router.py.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import httpx

from opd.errors import ErrorKind, UserError
from opd.network import listens, socket_client
from opd.sampling.sample import Stopped
from opd.sampling.vllm.python import WHERE
from opd.vllm_protocol import brief, problem_told

MODEL = "student"  # the name it is served under

REQUESTS_AT_ONCE = 64
POLL_SECONDS = 0.1
LOOK_EVERY = 5.0  # seconds between two looks at whether the server still answers
PATIENCE = 60.0  # seconds in which it has to say that it is there
CONTROL_PATIENCE = 600.0  # the same for taking new weights
Body = Mapping[str, Any]


class VllmClient:
    """What fails is a UserError that quotes the server; it is not tried again: a server that fails
    has lost its state."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._client = socket_client(socket, timeout=httpx.Timeout(None, connect=PATIENCE))

    def close(self) -> None:
        self._client.close()

    def healthy(self) -> bool:
        """Whether it answers now."""
        try:
            get = self._client.get
            return listens(self._socket) and get("/health", timeout=PATIENCE).status_code == 200
        except httpx.HTTPError:
            return False

    def ask(self, path: str, body: Body | None = None, *, method: str = "POST") -> Any:
        """The JSON of the answer to a request that takes no long time."""
        return self._answer(path, body, method, CONTROL_PATIENCE)

    def tell(self, path: str, body: Body) -> None:
        """Returns once it has done what is asked; it may answer with words."""
        self._response(path, body, "POST", CONTROL_PATIENCE)

    def ask_all(self, path: str, bodies: Sequence[Body], stop: Callable[[], bool]) -> list[Any]:
        """The answers to several requests in their order, however long they take.

        Raises Stopped when `stop()` turns true, and UserError when the server answers no more.
        """
        pool = ThreadPoolExecutor(REQUESTS_AT_ONCE, thread_name_prefix="vllm-sampler")
        try:
            futures = [pool.submit(self._answer, path, body, "POST", None) for body in bodies]
            self._wait(set(futures), stop)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
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

    def _answer(self, path: str, body: Body | None, method: str, timeout: float | None) -> Any:
        try:
            return self._response(path, body, method, timeout).json()
        except (ValueError, RecursionError):
            raise server_error(f"{path} did not answer with JSON") from None

    def _response(
        self, path: str, body: Body | None, method: str, timeout: float | None
    ) -> httpx.Response:
        limits = httpx.Timeout(timeout, connect=PATIENCE)
        if not listens(self._socket):
            raise server_error(f"{path}: nothing listens on its socket")
        try:
            response = self._client.request(method, path, json=body, timeout=limits)
        except httpx.TimeoutException:
            raise server_error(f"{path} did not answer in time") from None
        except httpx.HTTPError as error:
            raise server_error(f"{path}: {str(error) or type(error).__name__}") from None
        if response.status_code != 200:
            text = brief(problem_told(response.content))
            raise server_error(f"{path} answered HTTP {response.status_code}: {text}")
        return response


def server_error(message: str, kind: ErrorKind = ErrorKind.SAMPLING_SERVER) -> UserError:
    return UserError(f"the vLLM server: {message}", where=WHERE, kind=kind)
