"""Processes that train one run together: each has a share of the rows, all have the same weights.

Whatever one of them must know of the others goes through here, and what fails on one of them fails
on all: nobody is left waiting for somebody who has gone. A run of one process is `ALONE`, which
exchanges nothing.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

from opd.errors import ErrorKind, UserError

if TYPE_CHECKING:
    from torch import Tensor

A = TypeVar("A")
B = TypeVar("B")


class LostProcessError(UserError):
    """Another process of the run has ended, or does not answer."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"another process of this run has ended or does not answer: {reason}",
            where="devices",
            kind=ErrorKind.ERROR,
        )


class Ranks:
    """A process's place among those of its run: the only one."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that stores and saves."""
        return self.rank == 0

    def together(self, work: Callable[[], A]) -> A:
        """What `work` gives here. Raises what it raises, on whichever process that is."""
        return work()

    def each(self, work: Callable[[], A]) -> list[A]:
        """What `work` gives on every process, in their order; raises as `together`."""
        return [self.together(work)]

    def shared(
        self,
        items: Sequence[A],
        work: Callable[[Sequence[A]], Sequence[B]],
        weights: Sequence[float] | None = None,
    ) -> list[B]:
        """`work` of all items, a contiguous share on each process, in their order on all."""
        spans = self.spans(weights or [1.0] * len(items))
        mine = items[spans[self.rank]]
        parts = self.each(lambda: list(work(mine)) if len(mine) else [])
        return [result for part in parts for result in part]

    def spans(self, weights: Sequence[float]) -> list[slice]:
        """Contiguous shares of about the same weight, one a process; some may be empty."""
        total, sums, borders = sum(weights), 0.0, [0]
        for i, weight in enumerate(weights):
            # An item belongs where its middle lies.
            while (sums + weight / 2) * self.size >= total * len(borders) < total * self.size:
                borders.append(i)
            sums += weight
        borders += [len(weights)] * (self.size + 1 - len(borders))
        return [slice(a, b) for a, b in pairwise(borders)]

    def first(self, value: A) -> A:
        """The first process's value, on all."""
        return value

    def check_same(self, name: str, value: Callable[[], object]) -> None:
        """Raises UserError where the processes have come to have different values."""

    def add_gradients(self, parameters: "Iterable[Tensor]") -> None:
        """Each parameter's gradient becomes the sum of those of all processes."""

    def stop(self, stop: Callable[[], bool]) -> Callable[[], bool]:
        """The first process's `stop`, as all of them may ask it."""
        return stop

    def halt(self) -> None:
        """The first process goes no further: the others are to stop as soon as they can."""

    def attend(self) -> None:
        """Takes part in what the first process still does in step, until it leaves."""

    def leave(self) -> None:
        """The end of what is done together; the others end too, where they have not yet."""


ALONE = Ranks()
