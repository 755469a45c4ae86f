"""How long the phases of one step take."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass
class Clock:
    """Seconds by phase of one step; a phase within a phase is taken from the outer one."""

    seconds: dict[str, float] = field(default_factory=dict)
    failed: str = ""  # the phase in which an error was raised, the inner one of several
    _inner: list[float] = field(default_factory=list)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        self._inner.append(0.0)
        try:
            yield
        except Exception:
            self.failed = self.failed or name
            raise
        finally:
            spent = time.perf_counter() - start
            exclusive = spent - self._inner.pop()
            self.seconds[name] = self.seconds.get(name, 0.0) + exclusive
            if self._inner:
                self._inner[-1] += spent

    def each(self, name: str, items: Iterator[T]) -> Iterator[T]:
        """The items, the time that each takes to come counted under the name."""
        end = object()
        while True:
            with self.phase(name):
                item: Any = next(items, end)
            if item is end:
                return
            yield item
