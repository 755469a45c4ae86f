"""What an attempt's training reports, as it is stored: checkpoints once all hosts can have them."""

import logging
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from app.worker.attempts.training import TrainingLike, library_versions
from app.worker.run_files.choice import run_files
from opd.errors import UserError
from opd.types import (
    CheckpointEvent,
    EndEvent,
    EvaluationEvent,
    Event,
    ModelsEvent,
    PhaseEvent,
    PromptsEvent,
    StepEvent,
)
from storage.data_dir import DataDir
from storage.engine import patient
from storage.queue import jobs
from storage.read.runs import read_run
from storage.write.records import RunWriter

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Attempt:
    """Of a run, and where its things are."""

    engine: Engine
    data_dir: DataDir
    run_id: str
    attempt: int


@dataclass
class JobProgress:
    """`stepped` is the last step, `saved` that of the last checkpoint; -1: none."""

    at: Attempt
    training: TrainingLike
    writer: RunWriter
    stepped: int = -1
    saved: int = -1
    end_reason: str = ""
    _pending: "tuple[CheckpointEvent, Future[str]] | None" = None
    _unreachable: bool = False

    def begin(self, recorded: Sequence[Mapping[str, Any]], start: Path | None) -> None:
        """Sends the checkpoint that the attempt goes on from, where other hosts lack it."""
        row = next((c for c in recorded if c["step"] == self.saved), None)
        if row is None or start is None or run_files(self.at.data_dir).has(row):
            return
        keeps = [c["step"] for c in recorded if c["step"] < self.saved]
        self._send(CheckpointEvent(self.saved, str(start), row["manifest"], keeps))

    @patient  # everything that it writes takes the place of what an earlier try has written
    def store(self, event: Event) -> None:
        """Raises UserError, also of a checkpoint before that did not arrive."""
        self.settle()

        def vocabulary(ids: Collection[int]) -> dict[int, tuple[bytes, bool]]:
            return self.training.vocabulary(sorted(ids))

        match event:
            case PhaseEvent(text):
                jobs.set_phase(self.at.engine, self.at.run_id, self.at.attempt, text)
            case ModelsEvent():
                self.writer.models(event, library_versions())
            case PromptsEvent():
                self.writer.prompts(event)
            case StepEvent():
                self.writer.step(event, vocabulary)
                self.stepped = event.step
            case EvaluationEvent():
                self.writer.evaluation(event, vocabulary)
            case CheckpointEvent():
                self._keep(event)
            case EndEvent(reason):
                self.end_reason = reason

    def __enter__(self) -> "JobProgress":
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """What breaks the training off leaves the checkpoint before on record."""
        if error is not None and not isinstance(error, jobs.LeaseLost):
            with suppress(UserError, OSError):
                self.settle(wait=True)

    def save(self) -> None:
        """A checkpoint of the last step, where there is none; returns once it is on record."""
        if self.stepped > self.saved and (event := self.training.save_checkpoint()):
            self._keep(event)
        self.settle(wait=True)

    def settle(self, *, wait: bool = False) -> None:
        """Records the checkpoint that is on its way, once it has arrived. Raises UserError where it
        did not: then the one on this host is on record, from which the run can go on here."""
        if self._pending is None or not (wait or self._pending[1].done()):
            return
        event, kept = self._pending
        try:
            path = kept.result()
        except (UserError, OSError):
            self._unreachable = True
            self.record_as_it_is()
            raise
        self.writer.checkpoint(replace(event, path=path))
        self._pending = None
        if path != event.path:  # those that no longer count are there too
            recorded = read_run(self.at.engine, self.at.run_id)["checkpoints"]
            run_files(self.at.data_dir).prune(self.at.run_id, recorded, self.at.attempt)

    def record_as_it_is(self) -> None:
        """The checkpoint that is on its way, as one of this host alone."""
        if self._pending is not None:
            event = self._pending[0]
            log.warning(
                "the checkpoint of step %d is on this host only: %s", event.step, event.path
            )
            self.writer.checkpoint(event)
            self._pending = None

    def keep_aside(self) -> None:
        """The last step of a run that was taken over, where its new owner does not look."""
        folder = self.at.data_dir.run(self.at.run_id).aside(self.at.attempt)
        with suppress(OSError, UserError):  # it may be the disk that nobody heard from
            folder.parent.mkdir(exist_ok=True)
            if event := self.training.save_aside(folder):
                log.warning(
                    "the run was taken over while this attempt still ran; what it had reached is "
                    "kept in %s (step %d)",
                    event.path,
                    event.step,
                )

    def _keep(self, event: CheckpointEvent) -> None:
        self.settle(wait=True)
        if event.step == self.saved:  # the write is made again, and it was begun before
            return
        if self._unreachable:
            self.writer.checkpoint(event)
        else:
            self._send(event)
        self.saved = event.step
        self.settle()

    def _send(self, event: CheckpointEvent) -> None:
        at = self.at
        self._pending = (event, run_files(at.data_dir).keep(at.run_id, at.attempt, event))
