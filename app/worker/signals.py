"""Signals that reach the job even while its main thread is deep in a long computation."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # what may ask a job to end


@contextmanager
def listening(
    numbers: tuple[signal.Signals, ...], call: Callable[[signal.Signals], None]
) -> Iterator[None]:
    """Calls `call(number)` on a thread of its own for each signal, until the block ends.

    Python runs handlers on the main thread between two bytecodes; the wake-up file descriptor is
    written by the C handler at once. A hangup that `nohup` had ignored stays ignored. To be entered
    on the main thread.
    """
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        numbers = tuple(number for number in numbers if number != signal.SIGHUP)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    # In this order, and back in the other one: no signal falls between two handlers.
    old = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}

    def listen() -> None:
        while data := os.read(reader, 1):
            if (number := data[0]) in numbers:
                call(signal.Signals(number))

    thread = threading.Thread(target=listen, name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(old)
        os.close(writer)
        thread.join(timeout=1)
        os.close(reader)
