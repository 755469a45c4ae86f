"""Cancelling a job that may not listen: patience, then SIGTERM, then SIGKILL."""

import logging
import signal
import time

from sqlalchemy import Engine

from app.worker import process
from app.worker.owners.place import Place
from app.worker.recovery import Running, end_family, settle_cancel
from storage.data_dir import DataDir

log = logging.getLogger(__name__)
TERM_AFTER = 8.0  # seconds that a cancelled job gets to stop by itself
KILL_AFTER = 16.0


class Pressure:
    """What a cancelled job feels; `press` is called again and again until it is gone."""

    def __init__(self, engine: Engine, data_dir: DataDir) -> None:
        self._engine = engine
        self._data_dir = data_dir
        self._since: dict[tuple[str, int], float] = {}
        self._termed: set[tuple[str, int]] = set()

    def press(self, run: Running) -> None:
        """Uses the longer of what the database and our own clock say was waited."""
        now = time.monotonic()
        waited = max(now - self._since.setdefault(run.key, now), run.cancel_age or 0.0)
        if waited > KILL_AFTER:
            log.warning("%s ignored SIGTERM: killed", run.id)
            end_family(run, self._data_dir)
            settle_cancel(self._engine, self._data_dir, run)
        elif waited > TERM_AFTER and run.key not in self._termed:
            self._termed.add(run.key)
            log.warning("%s did not stop by itself: SIGTERM", run.id)
            process.send(run.family(Place.of(self._data_dir)), signal.SIGTERM)
