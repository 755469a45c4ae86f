"""The model process: answers what a page needs from a model outside a run.

    python -m opd.worker.answerer --data-dir DIR [--idle SECONDS]

The supervisor starts it when a question is queued; at most one runs a data directory, and it ends
by itself when nothing was asked for a while. It remembers nothing: killed, it leaves a question
that the supervisor ends, and the next question starts another.
"""

import argparse
import fcntl
import gc
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from sqlalchemy import Engine

from opd.types import UserError
from opd.worker.errors import describe
from opd.worker.job import DATABASE_VARIABLE
from opd.worker.logs import start_log
from opd.worker.process import this_process
from opd.worker.references import resolved
from storage import questions
from storage.engine import open_database

log = logging.getLogger(__name__)
IDLE = 120.0  # seconds without a question
LOOK_EVERY = 0.2
SAVE_EVERY = 0.5
LOCK, LOG = "answerer.lock", "answerer.log"

Progress = Callable[
    [str, dict[str, Any]], bool
]  # (phase, answer so far) → whether anybody still asks


@dataclass(frozen=True)
class Asked:
    """A question, and where runs are that it may name."""

    payload: dict[str, Any]
    engine: Engine
    data_dir: Path


Answer = Callable[[Asked, Progress], dict[str, Any]]


@dataclass
class Telling:
    """Tells whoever asked how far the doctor is, at most twice a second between two phases."""

    progress: Progress
    found: list[Any] = field(default_factory=list)
    phase: str = "starting"
    asked: bool = True
    told: float = 0.0

    def say(self, phase: str) -> None:
        self.phase = phase
        self._tell()

    def stop(self) -> bool:
        if time.monotonic() - self.told > SAVE_EVERY:
            self._tell()
        return not self.asked

    def _tell(self) -> None:
        self.told = time.monotonic()
        partial = {"findings": [f.as_dict() for f in self.found]}
        self.asked = self.progress(self.phase, partial)


def examine_run(asked: Asked, progress: Progress) -> dict[str, Any]:
    """Of kind "doctor": {"config", "models"} → the doctor's report."""
    from opd.config import parse  # noqa: PLC0415 - as late as the models' libraries
    from opd.doctor.examine import examine, report  # noqa: PLC0415 - loads torch
    from opd.loading import Outside  # noqa: PLC0415

    config, telling = parse(asked.payload["config"]), Telling(progress)
    config = resolved(asked.engine, asked.data_dir, config)
    outside = Outside(telling.say, telling.stop)
    for finding in examine(config, models=bool(asked.payload["models"]), outside=outside):
        telling.found.append(finding)
        if telling.stop():
            break
    return report(config, telling.found)


ANSWERS: Mapping[str, Answer] = {"doctor": examine_run}


def serve(
    engine: Engine, data_dir: Path, idle: float, answers: Mapping[str, Answer] = ANSWERS
) -> None:
    """Answers questions until none came for `idle` seconds."""
    last = time.monotonic()
    while time.monotonic() - last < idle:
        found = questions.claim(engine, this_process())
        if found is None:
            time.sleep(LOOK_EVERY)
            continue
        log.info("%s: %s", found["id"], found["kind"])
        _answer(found["id"], answers[found["kind"]], Asked(found["payload"], engine, data_dir))
        _let_go()
        last = time.monotonic()
    log.info("nothing was asked for %.0f s", idle)


def _answer(name: str, answer: Answer, asked: Asked) -> None:
    """What goes wrong by input or for lack of memory is the answer; anything else ends us."""

    def progress(phase: str, found: dict[str, Any]) -> bool:
        return questions.progress(asked.engine, name, phase=phase, answer=found)

    try:
        found = answer(asked, progress)
    except (UserError, MemoryError) as error:
        failure = describe(error)
        log.warning("%s: %s", name, failure.text)
        questions.fail(asked.engine, name, failure.text, kind=failure.kind, hint=failure.hint)
        return
    questions.answer(asked.engine, name, found)


def _let_go() -> None:
    """Gives back the memory of models that nothing refers to any more."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def lock(data_dir: Path) -> IO[bytes] | None:
    """Held by the one model process of a data directory; None where there is one already."""
    file = (data_dir / LOCK).open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def main(arguments: list[str] | None = None, answers: Mapping[str, Answer] = ANSWERS) -> int:
    parser = argparse.ArgumentParser(prog="opd.worker.answerer")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--idle", type=float, default=IDLE)
    options = parser.parse_args(arguments)
    start_log()
    held = lock(options.data_dir)
    if held is None:
        log.info("another model process serves %s", options.data_dir)
        return 0
    os.environ.setdefault("TQDM_DISABLE", "1")
    engine = open_database(os.environ.get(DATABASE_VARIABLE) or options.data_dir)
    serve(engine, options.data_dir, options.idle, answers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
