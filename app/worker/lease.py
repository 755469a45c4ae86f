"""One attempt's hold on its run: the heartbeat, and what asks the job to stop."""

import logging
import threading
from collections.abc import Callable
from typing import Literal

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from opd.errors import UserError
from storage.queue import jobs

log = logging.getLogger(__name__)
Reason = Literal["save", "discard", "terminated", "hangup", "interrupt", "lost"]
# Seconds to come to an end by itself, below the supervisor's own patience.
# What was taken over has time to keep its last step aside: nobody here waits for it.
GRACE: dict[Reason, float] = {
    "save": 14,
    "discard": 14,
    "terminated": 5,
    "hangup": 5,
    "lost": 120,
}


class Lease:
    """Stamps the run every few seconds on a thread of its own and hears whether it is to stop.

    `overdue(reason)` is called, on a timer's thread, where the job has not left the block in time:
    after SIGTERM, in `patience` seconds where a launcher gives others than GRACE has.
    """

    def __init__(
        self,
        engine: Engine,
        run_id: str,
        attempt: int,
        overdue: Callable[[Reason], None],
        every: float = 2.0,
        *,
        patience: float | None = None,
    ) -> None:
        self.run_id = run_id
        self.attempt = attempt
        self.reason: Reason | None = None
        self._engine = engine
        self._overdue = overdue
        self._every = every
        self._grace = GRACE if patience is None else GRACE | {"terminated": patience}
        self._left = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> "Lease":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join(timeout=5)

    def stop(self) -> bool:
        """Whether the job is to end; polled deep within sampling."""
        return self.reason is not None

    def ask(self, reason: Reason) -> None:
        """The first reason counts, except that a lost lease overrules and a signal hurries."""
        with self._lock:
            first = self.reason is None
            if first or reason == "lost":
                self.reason = reason
        if (first or reason in ("lost", "terminated", "hangup")) and reason in self._grace:
            timer = threading.Thread(target=self._wait, args=(self._grace[reason],), daemon=True)
            timer.start()

    def _wait(self, seconds: float) -> None:
        if not self._left.wait(seconds) and self.reason is not None:
            self._overdue(self.reason)

    def _beat(self) -> None:
        while not self._left.wait(self._every):
            try:
                cancel_mode = jobs.heartbeat(self._engine, self.run_id, self.attempt)
            except jobs.LeaseLost:
                self.ask("lost")
                return
            except (UserError, SQLAlchemyError) as error:
                log.warning("heartbeat not stored: %s", error)
                continue
            if cancel_mode is not None:
                self.ask("discard" if cancel_mode == "discard" else "save")
