"""Samples that are written beside the training: by which weights, and what becomes of errors."""

import threading
from collections.abc import Sequence

import numpy as np
import pytest

from opd.errors import UserError
from opd.sampling.ahead import AheadSampler, Writing
from opd.sampling.sample import NEVER, Limits, Request, Sample, Stopped

LIMITS = Limits(max_new_tokens=4, temperature=1.0, batch_size=8)


def requests(step: int) -> list[Request]:
    return [Request([5, 6], (0, step, 7, g)) for g in range(2)]


class Versions:
    """A sampler whose completions are the version of the weights that wrote them."""

    def __init__(self) -> None:
        self.version, self.closed, self.stopped = 0, False, threading.Event()
        self.go, self.error = threading.Event(), ""
        self.going: list[tuple[int, str]] = []  # (version, "begun" or "written")
        self.go.set()

    def begun(self, requests: Sequence[Request], limits: Limits) -> Writing:
        version, count = self.version, len(requests)
        self.going.append((version, "begun"))

        def writing(stop: object) -> list[Sample]:
            while not self.go.wait(0.01):
                if stop():  # type: ignore[operator]
                    self.stopped.set()
                    raise Stopped
            if self.error:
                raise UserError(self.error, where="sampling.engine")
            self.going.append((version, "written"))
            return [Sample(np.array([version]), np.zeros(1, np.float32), "stop")] * count

        return writing

    def weights_changed(self) -> None:
        self.version += 1

    def close(self) -> None:
        self.closed = True


def versions(samples: list[Sample]) -> list[tuple[int, int]]:
    return [(int(s.completion_ids[0]), s.staleness) for s in samples]


def test_what_was_begun_is_of_the_weights_of_then():
    inner = Versions()
    sampler = AheadSampler(inner)
    assert versions(sampler.write(requests(1), LIMITS, NEVER)) == [(0, 0)] * 2
    assert sampler.took is None
    inner.go.clear()
    sampler.begin(requests(2), LIMITS)
    sampler.weights_changed()  # while they are being written
    inner.go.set()
    assert versions(sampler.write(requests(2), LIMITS, NEVER)) == [(0, 1)] * 2
    assert sampler.took is not None and sampler.took >= 0
    assert versions(sampler.write(requests(3), LIMITS, NEVER)) == [(1, 0)] * 2
    assert sampler.took is None


def test_what_is_asked_for_besides_waits_and_takes_nothing_away():
    """An evaluation between: by the new weights, once the old ones have written."""
    inner = Versions()
    sampler = AheadSampler(inner)
    inner.go.clear()
    sampler.begin(requests(2), LIMITS)
    sampler.weights_changed()
    threading.Timer(0.1, inner.go.set).start()
    assert versions(sampler.write(requests(99), LIMITS, NEVER)) == [(1, 0)] * 2
    assert inner.going == [(0, "begun"), (0, "written"), (1, "begun"), (1, "written")]
    assert versions(sampler.write(requests(2), LIMITS, NEVER)) == [(0, 1)] * 2


def test_an_error_is_raised_where_the_samples_are_waited_for():
    inner = Versions()
    sampler = AheadSampler(inner)
    inner.error = "the vLLM server: has gone"
    sampler.begin(requests(2), LIMITS)
    for step in (99, 2):
        with pytest.raises(UserError, match="has gone"):
            sampler.write(requests(step), LIMITS, NEVER)


def test_who_waits_may_stop_and_closing_ends_what_is_being_written():
    inner = Versions()
    sampler = AheadSampler(inner)
    inner.go.clear()
    sampler.begin(requests(2), LIMITS)
    with pytest.raises(Stopped):
        sampler.write(requests(2), LIMITS, lambda: True)
    assert not inner.stopped.is_set()
    sampler.close()
    assert inner.stopped.is_set() and inner.closed
    assert inner.going == [(0, "begun")]  # not waited for to its end
