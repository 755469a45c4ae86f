"""The newest answers about a database, kept in memory while what they are about stays as it was."""

import threading
from collections.abc import Callable, Hashable
from typing import Any
from weakref import WeakKeyDictionary

from cachetools import LRUCache
from sqlalchemy import Engine

MAX_ANSWERS = 128  # of one database; those not asked for the longest go first
Answers = LRUCache[Hashable, dict[str, Any]]
_answers: WeakKeyDictionary[Engine, Answers] = WeakKeyDictionary()
_lock = threading.Lock()


def cached(engine: Engine, key: Hashable, answer: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `answer` gives, asked once for each key: an insight's or a diagnosis's name, what it is
    of, and the version of the run (lookups.version_of). Nobody may change it."""
    with _lock:
        answers = _answers.setdefault(engine, Answers(MAX_ANSWERS))
        if key in answers:
            return answers[key]
    value = answer()
    with _lock:
        answers[key] = value
    return value
