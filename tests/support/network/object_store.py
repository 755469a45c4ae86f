"""An S3 server on the loopback, moto's, that can be told to fail: a process of its own.

`POST /-/fail {"method": "PUT", "after": 3, "status": 500, "times": 1, "seconds": 0}` makes the
requests of that method fail which come after the next three: answered with that status, or with
status 0 cut off; after so many seconds. `GET /-/count` says how many of each method were answered.
"""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
BUCKET = "studio"
BODIES = {
    403: b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>",
    507: b"<Error><Code>QuotaExceeded</Code><Message>over the quota</Message></Error>",
}


@dataclass(frozen=True)
class ObjectStore:
    """A running server; `environment` is what clients need to find it."""

    url: str

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def fail(self, method: str, after: int = 0, **how: int) -> None:
        """From the next request but `after` on; status=500, times=10**9, seconds=0."""
        self._ask("fail", {"method": method, "after": after, **how})

    def works(self) -> None:
        self._ask("fail", {})

    def count(self) -> dict[str, int]:
        counts: dict[str, int] = self._ask("count")
        return counts

    def empty(self) -> None:
        """A bucket with nothing in it."""
        self.works()
        self._ask("reset")

    def _ask(self, what: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(f"{self.url}/-/{what}", data=data, timeout=60) as answer:
            return json.load(answer)


@contextmanager
def serving() -> Iterator[ObjectStore]:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        bound.listen(64)
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__, str(bound.fileno())],
            cwd=ROOT,
            pass_fds=[bound.fileno()],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        store = ObjectStore(f"http://127.0.0.1:{bound.getsockname()[1]}")
    try:
        _wait(store, process)
        yield store
    finally:
        process.kill()
        process.wait()


def _wait(store: ObjectStore, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        try:
            store.empty()
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
        else:
            return
    raise RuntimeError("the S3 server did not start")


class _Faulty:
    """The application with its faults."""

    def __init__(self, application: Callable[..., Iterable[bytes]], reset: Callable[[], None]):
        self._application, self._reset = application, reset
        self._lock = threading.Lock()
        self._fault: dict[str, Any] = {}
        self._counts: Counter[str] = Counter()

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        if path.startswith("/-/"):
            start("200 OK", [("Content-Type", "application/json")])
            return [json.dumps(self._controlled(path[3:], environ)).encode()]
        fault = self._due(method)
        if fault is None:
            return self._application(environ, start)
        time.sleep(fault.get("seconds", 0))
        if fault.get("pass"):
            return self._application(environ, start)
        if not (status := fault.get("status", 500)):
            half = int(environ.get("CONTENT_LENGTH") or 0) // 2
            environ["wsgi.input"].read(half)
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            return []
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start(f"{status} Fault", [("Content-Type", "application/xml")])
        return [BODIES.get(status, b"<Error><Code>InternalError</Code></Error>")]

    def _due(self, method: str) -> dict[str, Any] | None:
        with self._lock:
            self._counts[method] += 1
            fault = self._fault
            if fault.get("method") != method:
                return None
            fault["after"] -= 1
            if fault["after"] >= 0 or fault["after"] < -fault.get("times", 10**9):
                return None
            return dict(fault)

    def _controlled(self, what: str, environ: dict[str, Any]) -> Any:
        if what == "fail":
            size = int(environ.get("CONTENT_LENGTH") or 0)
            with self._lock:
                self._fault = json.loads(environ["wsgi.input"].read(size) or "{}")
        if what == "reset":
            self._reset()
        return dict(self._counts)


def main(descriptor: int) -> None:
    os.environ.update(ObjectStore("").environment)
    os.environ.pop("AWS_ENDPOINT_URL")
    from moto.core import DEFAULT_ACCOUNT_ID  # noqa: PLC0415 - in this process only
    from moto.s3.models import s3_backends  # noqa: PLC0415
    from moto.server import DomainDispatcherApplication, create_backend_app  # noqa: PLC0415
    from werkzeug.serving import make_server  # noqa: PLC0415

    def reset() -> None:
        backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
        backend.reset()
        backend.create_bucket(BUCKET, "us-east-1")

    application = _Faulty(DomainDispatcherApplication(create_backend_app), reset)
    server = make_server("127.0.0.1", 0, application, threaded=True, fd=descriptor)
    server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]))
