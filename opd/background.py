"""Calls on threads that keep no process alive.

Those of a ThreadPoolExecutor are waited for when a process ends, and a request to a server that is
stalled ends with its connection only.
"""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from threading import Thread
from typing import Any, TypeVar

T = TypeVar("T")
_Work = deque[tuple[Callable[[], Any], Future[Any]]]


def begun(calls: Sequence[Callable[[], T]], *, name: str, at_once: int = 1) -> list[Future[T]]:
    """What the calls will return or raise. One that is cancelled before it began is not made."""
    work: _Work = deque((call, Future()) for call in calls)
    futures = [future for _, future in work]
    for _ in range(min(at_once, len(work))):
        Thread(target=_make, args=(work,), name=name, daemon=True).start()
    return futures


def _make(work: _Work) -> None:
    """One call after another, until none is left."""
    while True:
        try:
            call, future = work.popleft()
        except IndexError:
            return
        if not future.set_running_or_notify_cancel():
            continue
        try:
            future.set_result(call())
        except Exception as error:  # noqa: BLE001 - raised where it is waited for
            future.set_exception(error)
