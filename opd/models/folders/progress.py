"""Long waits in words: what is fetched, how much of it, said at most twice a second."""

import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import ModuleType
from typing import Any

from tqdm.std import tqdm

Say = Callable[[str], None]
Clock = Callable[[], float]

SECONDS = 0.5  # between two messages
MEGABYTE = 1_000_000
RECEIVED = "Downloading bytes"  # the hub's bar of the same bytes as they come in from the network


def throttled(say: Say, *, clock: Clock = time.monotonic, seconds: float = SECONDS) -> Say:
    """`say`, called at most once in `seconds`; what comes sooner is dropped. For many threads."""
    lock = threading.Lock()
    last: float | None = None

    def tell(text: str) -> None:
        nonlocal last
        with lock:
            now = clock()
            if last is not None and now - last < seconds:
                return
            last = now
        say(text)

    return tell


def amount(done: float, total: float | None) -> str:
    """ "12 of 40 MB"; without the total where it is not known."""
    size = f"{max(total, done) / MEGABYTE:.{_digits(total)}f}" if total else None
    return f"{done / MEGABYTE:.{_digits(total or done)}f}" + (f" of {size} MB" if size else " MB")


@contextmanager
def without_bars(*modules: ModuleType) -> Iterator[None]:
    """Inside, these modules' tqdm bars draw nothing; for libraries that have no switch for it."""
    with ExitStack() as stack:
        for names in map(vars, modules):
            if (bar := names.get("tqdm")) is not None:
                stack.callback(names.update, tqdm=bar)
                names["tqdm"] = partial(_disabled, bar)
        yield


def _disabled(bar: type[Any], *args: Any, **options: Any) -> Any:
    return bar(*args, **options | {"disable": True})


def download_bar(label: str, say: Say, *, clock: Clock = time.monotonic) -> type[Any]:
    """A tqdm class for `huggingface_hub` that says "LABEL: 12 of 40 MB" and draws nothing.

    Bars of one download share the limit on how often something is said.
    """
    tell = throttled(say, clock=clock)

    class SpokenBar(tqdm):  # type: ignore[misc]
        monitor_interval = 0  # no thread of its own

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)
            self.spoken = kwargs.get("unit") == "B" and kwargs.get("desc") != RECEIVED
            kwargs |= {"disable": False, "leave": False, "file": io.StringIO(), "mininterval": 0}
            super().__init__(*args, **kwargs)

        def display(self, msg: str | None = None, pos: int | None = None) -> bool:
            if self.spoken and self.n:
                tell(f"{label}: {amount(self.n, self.total)}")
            return True

    SpokenBar.set_lock(threading.RLock())
    return SpokenBar


def _digits(size: float) -> int:
    return 0 if size >= 10 * MEGABYTE else 1
