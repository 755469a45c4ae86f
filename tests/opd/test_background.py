"""Calls on threads of their own: how many at once, and what becomes of errors and of the rest."""

import threading
from functools import partial

import pytest

from opd.background import begun


def test_each_call_gives_what_it_returns_or_raises():
    futures = begun([partial(divmod, 7, n) for n in (2, 0, 3)], name="divided", at_once=2)
    assert futures[0].result(5) == (3, 1) and futures[2].result(5) == (2, 1)
    with pytest.raises(ZeroDivisionError):
        futures[1].result(5)


def test_so_many_are_made_at_once_and_none_that_was_cancelled():
    go, names = threading.Event(), list[str]()

    def call() -> bool:
        thread = threading.current_thread()
        names.append(f"{thread.name} {thread.daemon}")
        return go.wait(5)

    meeting = threading.Barrier(3)
    first = begun([partial(meeting.wait, 5)] * 2, name="met", at_once=2)
    meeting.wait(5)  # both are under way
    assert all(future.result(5) is not None for future in first)
    futures = begun([call, call, call], name="waited")
    assert futures[1].cancel()
    go.set()
    assert futures[0].result(5) and futures[2].result(5)
    assert names == ["waited True"] * 2
