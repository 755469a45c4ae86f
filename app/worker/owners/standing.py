"""Whether the owner of a row lives: by its process where that is of this place, and by its
heartbeat alone anywhere else."""

import time
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal

from app.worker import process
from app.worker.owners.place import Place
from storage.data_dir import DataDir
from storage.queue.jobs import Owner

LOST_AFTER = 60.0  # seconds without a heartbeat
CONFIRMED_AFTER = 10.0  # seconds that one which looks old must stay the same while it is watched
Standing = Literal["living", "doubtful", "gone", "lost"]


@dataclass(frozen=True)
class Beat:
    """A stored heartbeat and its age in seconds by the database's clock; None: there is none."""

    at: float | None
    age: float | None


@dataclass
class _Watch:
    """Of one heartbeat: its value, since when it is the same, and whether it was another before."""

    at: float | None
    since: float
    moved: bool = False


class Judge:
    """Looks at owners again and again; silence is counted by a clock that no one sets.

    A heartbeat that looks old may come from a host whose clock is behind: until it has been seen to
    move, or to stand still for a while, its owner is "doubtful", and whoever needs to know looks
    again.
    """

    def __init__(self, data_dir: DataDir) -> None:
        self._data_dir = data_dir
        self._watched: dict[Hashable, _Watch] = {}

    @property
    def place(self) -> Place:
        return Place.of(self._data_dir)

    def standing(self, key: Hashable, owner: Owner, beat: Beat) -> Standing:
        """`key` names what is owned: a run's attempt, a request."""
        silence = self.silence(key, beat)
        if self.place.judges(owner):
            return "living" if process.alive(owner) else "gone"
        old = (beat.age is None or beat.age > LOST_AFTER) and not self._watched[key].moved
        if silence > LOST_AFTER or (old and silence > CONFIRMED_AFTER):
            return "lost"
        return "doubtful" if old else "living"

    def silence(self, key: Hashable, beat: Beat) -> float:
        """For how many seconds this heartbeat has been seen without a change."""
        now = time.monotonic()
        watch = self._watched.setdefault(key, _Watch(beat.at, now))
        if watch.at != beat.at:
            watch.at, watch.since, watch.moved = beat.at, now, True
        return now - watch.since

    def forget(self, key: Hashable = None) -> None:
        """Starts counting afresh, for one owner or for all."""
        if key is None:
            self._watched.clear()
        self._watched.pop(key, None)
