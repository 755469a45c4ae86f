"""Shares of the rows, and a run of one process."""

import random

import pytest

from opd.ranks.group import ALONE, Ranks


class RanksAt(Ranks):
    """One of several, for what needs no exchange."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [0, 1, 2, 5, 64])
def test_shares_are_contiguous_and_leave_nothing_out(size, count):
    draw = random.Random(f"{size}/{count}")
    weights = [draw.randint(1, 50) for _ in range(count)]
    spans = RanksAt(0, size).spans(weights)
    assert len(spans) == size
    assert [i for span in spans for i in range(count)[span]] == list(range(count))
    # No share is further from the even one than the longest row.
    even = sum(weights) / size
    assert all(abs(sum(weights[s]) - even) <= max(weights, default=0) for s in spans)


def test_equal_rows_are_shared_evenly():
    assert [len(range(8)[s]) for s in RanksAt(0, 4).spans([1.0] * 8)] == [2, 2, 2, 2]
    assert [len(range(9)[s]) for s in RanksAt(0, 2).spans([5.0] * 9)] in ([4, 5], [5, 4])


def test_rows_of_no_tokens_are_somebodys():
    assert sum(len(range(3)[s]) for s in RanksAt(0, 2).spans([0.0, 0.0, 0.0])) == 3


def test_alone_everything_is_done_here():
    assert ALONE.leads
    assert ALONE.each(lambda: 3) == [3]
    assert ALONE.shared([1, 2, 3], lambda part: [2 * n for n in part]) == [2, 4, 6]
    assert ALONE.shared([], lambda part: pytest.fail("nothing to do")) == []
    assert ALONE.first("x") == "x"
    ALONE.check_same("nothing", lambda: pytest.fail("is not looked at"))
    with pytest.raises(ZeroDivisionError):
        ALONE.together(lambda: 1 / 0)
