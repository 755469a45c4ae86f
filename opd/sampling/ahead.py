"""The next step's completions, written by a sampler beside the trainer while this step trains.

They come from the weights of before this step's update: those that are trained on are one update
ahead. What looks at the student happens when the writing begins, and nothing trains then: weights
are sent and compared, and what has begun looks at them no more.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from opd.background import begun
from opd.sampling.sample import Limits, Request, Sample, Stopped

POLL_SECONDS = 0.05
CLOSING_SECONDS = 2.0  # that what is being written has to hear that nobody waits for it
Stop = Callable[[], bool]
Writing = Callable[[Stop], list[Sample]]  # raises Stopped when asked to stop
Written = tuple[list[Sample], float]  # and the seconds that they took


class DetachedSampler(Protocol):
    """A `Sampler` that needs nothing of the trainer while it writes."""

    def begun(self, requests: Sequence[Request], limits: Limits) -> Writing:
        """What writes them, by the student as it is now, on whatever thread: the student may change
        meanwhile."""

    def weights_changed(self) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class _Ahead:
    """Samples on their way: of which requests, by the student after how many updates."""

    keys: list[tuple[int, int, int, int]]
    updates: int
    result: Future[Written]


class AheadSampler:
    """A `Sampler` that begins when told what is asked for next. One thing is written at a time:
    what is asked for besides waits for it."""

    def __init__(self, sampler: DetachedSampler) -> None:
        self._sampler = sampler
        self._updates = 0
        self._ahead: _Ahead | None = None
        self._closing = threading.Event()
        self.took: float | None = None  # seconds, of what was last written ahead; None: was not

    def begin(self, requests: Sequence[Request], limits: Limits) -> None:
        """Begins to write what `write` is asked for next, by the student as it is now."""
        writing = self._sampler.begun(requests, limits)
        (result,) = begun([partial(self._written, writing)], name="rollouts-ahead")
        self._ahead = _Ahead([r.key for r in requests], self._updates, result)

    def write(self, requests: Sequence[Request], limits: Limits, stop: Stop) -> list[Sample]:
        ahead, self.took = self._ahead, None
        if ahead is not None:
            samples, took = _waited_for(ahead.result, stop)
            if ahead.keys == [r.key for r in requests]:
                self._ahead, self.took = None, took
                return [replace(s, staleness=self._updates - ahead.updates) for s in samples]
        return self._sampler.begun(requests, limits)(stop)

    def weights_changed(self) -> None:
        self._updates += 1
        self._sampler.weights_changed()

    def close(self) -> None:
        """What was written ahead is dropped."""
        self._closing.set()
        if self._ahead is not None:
            wait([self._ahead.result], CLOSING_SECONDS)
        self._sampler.close()

    def _written(self, writing: Writing) -> Written:
        start = time.perf_counter()
        return writing(self._closing.is_set), time.perf_counter() - start


def _waited_for(result: Future[Written], stop: Stop) -> Written:
    """Raises Stopped, and what kept the samples from being written."""
    while not result.done():
        if stop():
            raise Stopped
        wait([result], POLL_SECONDS)
    return result.result()
