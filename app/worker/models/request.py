"""A question in the model process, and how whoever asks hears of it meanwhile. Free of torch."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine

from storage.data_dir import DataDir
from storage.queue.model_state import write_model_state

TELL_EVERY = 0.25  # seconds

Progress = Callable[
    [str, dict[str, Any]], bool
]  # (phase, answer so far) → whether anybody still asks


class Held:
    """The models that stay in memory between questions: one set, named by its key."""

    def __init__(self, data_dir: DataDir) -> None:
        self._data_dir = data_dir
        self._key: str | None = None
        self._models: Any = None

    def get(self, key: str, about: dict[str, Any], load: Callable[[], Any]) -> Any:
        """The models of that key; others are let go before these are loaded."""
        if self._key == key:
            return self._models
        self.release()
        self._tell("loading", about)
        try:
            self._models = load()
            self._key = key
        finally:
            self._tell("ready" if self._key else "awake", about if self._key else None)
        return self._models

    def release(self) -> None:
        """Lets go of what is in memory; the garbage collector gives it back."""
        models, self._models, self._key = self._models, None, None
        if models is not None:
            models.close()
        self._tell("awake", None)

    def _tell(self, state: str, about: dict[str, Any] | None) -> None:
        write_model_state(self._data_dir, state, about)


@dataclass(frozen=True)
class Asked:
    """A question, where runs are that it may name, and the models that stay between questions."""

    payload: dict[str, Any]
    engine: Engine
    data_dir: DataDir
    held: Held


@dataclass
class Telling:
    """Tells how far an answer is, at most four times a second within a phase."""

    progress: Progress
    partial: Callable[[], dict[str, Any]] = dict
    phase: str = "starting"
    asked: bool = True
    told: float = 0.0
    began: float = field(default_factory=time.monotonic)

    def say(self, phase: str) -> None:
        self.phase = phase
        self._tell()

    def stop(self) -> bool:
        """Whether nobody asks any more; told again where it is time."""
        if time.monotonic() - self.told > TELL_EVERY:
            self._tell()
        return not self.asked

    def _tell(self) -> None:
        self.told = time.monotonic()
        self.asked = self.asked and self.progress(self.phase, self.partial())
