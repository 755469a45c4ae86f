"""A request to the model process, and how its progress is reported. Free of torch."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine

from app.worker.devices.holds import DeviceHold, give_back, hold_device
from opd.config.run import RunConfig
from storage.data_dir import DataDir
from storage.queue.model_state import write_model_state

REPORT_EVERY = 0.25  # seconds

Progress = Callable[
    [str, dict[str, Any]], bool
]  # (phase, answer so far) → whether the request still stands


class ModelCache:
    """The models that stay in memory between requests: one set, named by its key."""

    def __init__(self, data_dir: DataDir) -> None:
        self._data_dir = data_dir
        self._key: str | None = None
        self._models: Any = None
        self._held: DeviceHold | None = None

    def hold(self, take: Callable[[], DeviceHold]) -> DeviceHold:
        """Holds a device for the models that are to be loaded, in place of the one before.

        Longer than the models: what a GPU's libraries take of it is given back by an exit only."""
        self._let_go()
        held = take()
        self._held = held
        return held

    @property
    def holds(self) -> bool:
        return self._held is not None

    def gives_way(self, engine: Engine) -> bool:
        """Lets models and device go where a run waits for it; whether it did."""
        if self._held is None or not self._held.is_awaited(engine):
            return False
        self.release()
        self._let_go()
        return True

    def get(self, key: str, about: dict[str, Any], load: Callable[[], Any]) -> Any:
        """The models of that key; others are let go before these are loaded."""
        if self._key == key:
            return self._models
        self.release()
        self._report("loading", about)
        try:
            self._models = load()
            self._key = key
        finally:
            self._report("ready" if self._key else "awake", about if self._key else None)
        return self._models

    def forget_chats(self) -> bool:
        """Lets go of what the models have read of chats; whether that was any."""
        return self._models is not None and bool(self._models.forget_chats())

    def release(self) -> None:
        """Lets go of what is in memory."""
        models, self._models, self._key = self._models, None, None
        if models is not None:
            models.close()
            del models
            give_back()
        self._report("awake", None)

    def _let_go(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.close()

    def _report(self, state: str, about: dict[str, Any] | None) -> None:
        write_model_state(self._data_dir, state, about)


@dataclass(frozen=True)
class ModelRequest:
    """A request, where the runs are that it may name, and the models in memory."""

    payload: dict[str, Any]
    engine: Engine
    data_dir: DataDir
    cache: ModelCache

    def hold(self, config: RunConfig) -> DeviceHold:
        """A device for models of that configuration, kept with them. Raises UserError."""
        return self.cache.hold(lambda: hold_device(lambda: self.engine, self.data_dir, config))


@dataclass
class ProgressReporter:
    """Reports the progress of an answer, at most four times a second within a phase."""

    progress: Progress
    partial: Callable[[], dict[str, Any]] = dict
    phase: str = "starting"
    still_awaited: bool = True
    reported_at: float = 0.0
    began: float = field(default_factory=time.monotonic)

    def say(self, phase: str) -> None:
        self.phase = phase
        self._report()

    def stop(self) -> bool:
        """Whether the request was cancelled; reports progress when it is time."""
        if time.monotonic() - self.reported_at > REPORT_EVERY:
            self._report()
        return not self.still_awaited

    def _report(self) -> None:
        self.reported_at = time.monotonic()
        self.still_awaited = self.still_awaited and self.progress(self.phase, self.partial())
