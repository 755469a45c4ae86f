"""A clock of simulated seconds: processes that wait for a time or for each other."""

import heapq
from collections.abc import Generator, Sequence
from itertools import count


class Signal:
    """Something that happens once; whoever waits for it goes on then."""

    def __init__(self) -> None:
        self.happened = False
        self.waiting: list[Process] = []


Process = Generator["float | Signal", None, None]  # yields seconds, or what it waits for


def every(signals: Sequence[Signal]) -> Process:
    """Waits for all of them."""
    left = list(signals)
    while left:
        yield left.pop()


class SimulatedClock:
    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Process]] = []
        self._started: list[Process] = []
        self._numbers = count()  # of two at one time the one that was told first

    def start(self, process: Process) -> Signal:
        """Begins now; the signal is given when it has ended."""
        ended = Signal()

        def whole() -> Process:
            yield from process
            self.give(ended)

        self._started.append(whole())
        self._at(self.now, self._started[-1])
        return ended

    def give(self, signal: Signal) -> None:
        signal.happened = True
        for process in signal.waiting:
            self._at(self.now, process)
        signal.waiting.clear()

    def run(self) -> float:
        """Until nothing is due; the time then. Raises ValueError for a wait of less than 0 s."""
        try:
            while self._due:
                self.now, _, process = heapq.heappop(self._due)
                self._go_on(process)
        finally:  # else the garbage collector closes them, inner before outer
            for process in self._started:
                process.close()
        return self.now

    def _go_on(self, process: Process) -> None:
        for event in process:
            if isinstance(event, Signal):
                if event.happened:
                    continue
                event.waiting.append(process)
            else:
                if event < 0:
                    raise ValueError(f"a process waits {event} seconds: time does not go back")
                self._at(self.now + event, process)
            return

    def _at(self, time: float, process: Process) -> None:
        heapq.heappush(self._due, (time, next(self._numbers), process))
