"""The model process: answers what a page needs from a model outside a run.

    python -m app.worker.models.process --data-dir DIR [--idle SECONDS]

The supervisor starts it when a question is queued; at most one runs a data directory, and it ends
by itself when nothing was asked for a while. Between questions it keeps the models of the last one
in memory, and nothing else: killed, it leaves a question that the supervisor ends, and the next
question starts another.
"""

import argparse
import gc
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from app.worker.errors import describe
from app.worker.job import DATABASE_VARIABLE
from app.worker.logs import start_log
from app.worker.models.request import Asked, Held, Progress, Telling
from app.worker.process import this_process
from app.worker.references import resolved
from opd.errors import UserError
from storage import locks
from storage.data_dir import DataDir
from storage.engine import open_database
from storage.queue import requests

log = logging.getLogger(__name__)
IDLE = 120.0  # seconds without a question
LOOK_EVERY = 0.2
NICE = 5  # a run that trains on the processor goes first

Answer = Callable[[Asked, Progress], dict[str, Any]]


def examine_run(asked: Asked, progress: Progress) -> dict[str, Any]:
    """Of kind "doctor": {"config", "models"} → the doctor's report."""
    from opd.config.run import parse  # noqa: PLC0415 - as late as the models' libraries
    from opd.doctor.examine import examine, report  # noqa: PLC0415 - loads torch
    from opd.training.loading import Callbacks  # noqa: PLC0415

    asked.held.release()
    found: list[Any] = []
    telling = Telling(progress, lambda: {"findings": [f.as_dict() for f in found]})
    config = resolved(asked.engine, asked.data_dir, parse(asked.payload["config"]))
    callbacks = Callbacks(telling.say, telling.stop)
    for finding in examine(config, models=bool(asked.payload["models"]), callbacks=callbacks):
        found.append(finding)
        if telling.stop():
            break
    return report(config, found)


def go_on(asked: Asked, progress: Progress) -> dict[str, Any]:
    """Of kind "what-if"."""
    from app.worker.models.what_if import what_if  # noqa: PLC0415 - loads torch

    return what_if(asked, progress)


def chat(asked: Asked, progress: Progress) -> dict[str, Any]:
    """Of kind "chat"."""
    from app.worker.models import chat as models_chat  # noqa: PLC0415 - loads torch

    return models_chat.chat(asked, progress)


def keep(asked: Asked, progress: Progress) -> dict[str, Any]:
    """Of kind "keep": a reply of a chat becomes a rollout."""
    from app.worker.models import chat as models_chat  # noqa: PLC0415 - loads torch

    return models_chat.keep(asked, progress)


ANSWERS: Mapping[str, Answer] = {
    "doctor": examine_run,
    "what-if": go_on,
    "chat": chat,
    "keep": keep,
}


def serve(
    engine: Engine, data_dir: DataDir, idle: float, answers: Mapping[str, Answer] = ANSWERS
) -> None:
    """Answers questions until none came for `idle` seconds."""
    held = Held(data_dir)
    held.release()
    last = time.monotonic()
    while time.monotonic() - last < idle:
        found = requests.claim(engine, this_process())
        if found is None:
            time.sleep(LOOK_EVERY)
            continue
        log.info("%s: %s", found["id"], found["kind"])
        _answer(
            found["id"], answers[found["kind"]], Asked(found["payload"], engine, data_dir, held)
        )
        _let_go()
        last = time.monotonic()
    log.info("no requests for %.0f s: exiting", idle)


def _answer(name: str, answer: Answer, asked: Asked) -> None:
    """What goes wrong by input or for lack of memory is the answer; anything else ends us."""

    def progress(phase: str, found: dict[str, Any]) -> bool:
        return requests.progress(asked.engine, name, phase=phase, answer=found)

    try:
        found = answer(asked, progress)
    except (UserError, MemoryError) as error:
        if isinstance(error, MemoryError):
            asked.held.release()
        failure = describe(error)
        log.warning("%s: %s", name, failure.text)
        requests.fail(asked.engine, name, failure.text, kind=failure.kind, hint=failure.kind.hint)
        return
    requests.finish(asked.engine, name, found)


def _let_go() -> None:
    """Gives back the memory of models that nothing refers to any more."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def main(arguments: list[str] | None = None, answers: Mapping[str, Answer] = ANSWERS) -> int:
    parser = argparse.ArgumentParser(prog="app.worker.models.process")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--idle", type=float, default=IDLE)
    options = parser.parse_args(arguments)
    data_dir = DataDir(options.data_dir)
    start_log()
    lock_file = locks.take(data_dir.model_lock)  # held until this process ends
    if lock_file is None:
        log.info("another model process serves %s", data_dir)
        return 0
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # read when torch loads; see app.worker.job
    os.nice(NICE)
    engine = open_database(os.environ.get(DATABASE_VARIABLE) or data_dir.path)
    serve(engine, data_dir, options.idle, answers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
