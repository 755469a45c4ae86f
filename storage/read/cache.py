"""The newest answers about a database, kept in memory while what they are about stays as it was."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Engine

MAX_ANSWERS = 128  # of one database; those not asked for the longest go first


def remembered(
    engine: Engine, key: Hashable, answer: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """What `answer` gives, asked once for each key: an insight's or a diagnosis's name, what it is
    of, and the version of the run (lookups.version_of). Nobody may change it."""
    answers = _answers.setdefault(engine, _Answers())
    found = answers.find(key)
    if found is None:
        found = answer()
        answers.keep(key, found)
    return found


class _Answers:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, dict[str, Any]] = OrderedDict()

    def find(self, key: Hashable) -> dict[str, Any] | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def keep(self, key: Hashable, found: dict[str, Any]) -> None:
        with self._lock:
            self._kept[key] = found
            while len(self._kept) > MAX_ANSWERS:
                self._kept.popitem(last=False)


_answers: WeakKeyDictionary[Engine, _Answers] = WeakKeyDictionary()
