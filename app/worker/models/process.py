"""The model process: answers what a page needs from a model outside a run.

    python -m app.worker.models.process --data-dir DIR [--idle SECONDS]

The supervisor starts it when a request is queued; at most one runs per data directory, and it
exits when no request came for a while. Between requests it keeps the models of the last one in
memory, and nothing else: killed, it leaves a request that the supervisor ends, and the next request
starts another.
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from sqlalchemy import Engine

from app.worker.devices.holds import give_back
from app.worker.errors import describe
from app.worker.models.request import ModelCache, ModelRequest, Progress, ProgressReporter
from app.worker.models.request_process import RequestProcess, refuse
from app.worker.process import this_process
from app.worker.references import names_runs, needs_conversion, resolved
from opd.errors import ErrorKind, UserError
from storage.data_dir import DataDir
from storage.queue import requests

log = logging.getLogger(__name__)
LOOK_EVERY = 0.2
PROCESS = RequestProcess(
    "model process",
    "app.worker.models.process",
    lambda data_dir: data_dir.model_lock,
    idle=120.0,
    nice=5,
)

Answer = Callable[[ModelRequest, Progress], dict[str, Any]]


def examine_run(request: ModelRequest, progress: Progress) -> dict[str, Any]:
    """Of kind "doctor": {"config", "models"} → the doctor's report."""
    from app.worker.devices.examination import examine_on_device  # noqa: PLC0415 - loads torch
    from opd.config.run import parse  # noqa: PLC0415 - as late as the models' libraries
    from opd.doctor.examine import examine, report  # noqa: PLC0415 - loads torch
    from opd.training.loading import Callbacks  # noqa: PLC0415

    request.cache.release()
    findings: list[Any] = []
    reporter = ProgressReporter(progress, lambda: {"findings": [f.as_dict() for f in findings]})
    config = parse(request.payload["config"])
    if names_runs(config) or (request.payload["models"] and needs_conversion(config)):
        config = resolved(request.engine, request.data_dir, config, say=reporter.say)
    callbacks = Callbacks(reporter.say, reporter.stop)
    if request.payload["models"]:
        examination = examine_on_device(config, request.hold, callbacks)
    else:
        examination = examine(config, models=False, callbacks=callbacks)
    for finding in examination:
        findings.append(finding)
        if reporter.stop():
            break
    return report(config, findings)


def preview_prompts(request: ModelRequest, progress: Progress) -> dict[str, Any]:
    """Of kind "prompts": {"config", "prompts": a set's name, "count"} → its preview."""
    from opd.config.run import parse  # noqa: PLC0415 - as late as the models' libraries
    from opd.interactive import prompt_preview  # noqa: PLC0415 - loads torch
    from opd.sampling.sample import Stopped  # noqa: PLC0415

    reporter = ProgressReporter(progress)
    config = parse(request.payload["config"])
    if names_runs(config):
        config = resolved(request.engine, request.data_dir, config, say=reporter.say)
    name, count = request.payload["prompts"], request.payload["count"]
    try:
        seen = prompt_preview.preview_prompts(
            config, name, count=count, say=reporter.say, stop=reporter.stop
        )
    except Stopped:
        return {}
    return seen.as_dict()


def continue_rollout(request: ModelRequest, progress: Progress) -> dict[str, Any]:
    """Of kind "what-if"."""
    from app.worker.models.what_if import what_if  # noqa: PLC0415 - loads torch

    return what_if(request, progress)


def chat(request: ModelRequest, progress: Progress) -> dict[str, Any]:
    """Of kind "chat"."""
    from app.worker.models import chat as models_chat  # noqa: PLC0415 - loads torch

    return models_chat.chat(request, progress)


def keep(request: ModelRequest, progress: Progress) -> dict[str, Any]:
    """Of kind "keep": a reply of a chat becomes a rollout."""
    from app.worker.models import chat as models_chat  # noqa: PLC0415 - loads torch

    return models_chat.keep(request, progress)


ANSWERS: Mapping[str, Answer] = {
    "doctor": examine_run,
    "prompts": preview_prompts,
    "what-if": continue_rollout,
    "chat": chat,
    "keep": keep,
}


def serve(
    engine: Engine, data_dir: DataDir, idle: float, answers: Mapping[str, Answer] = ANSWERS
) -> None:
    """Answers requests until none came for `idle` seconds."""
    cache = ModelCache(data_dir)
    cache.release()
    last = time.monotonic()
    while time.monotonic() - last < idle:
        if cache.gives_way(engine) or (not cache.holds and _on_a_gpu()):
            log.info("a run takes the GPU: exiting")
            return
        claimed = requests.claim(engine, this_process(data_dir))
        if claimed is None:
            time.sleep(LOOK_EVERY)
            continue
        log.info("%s: %s", claimed["id"], claimed["kind"])
        _answer(
            claimed["id"],
            answers[claimed["kind"]],
            ModelRequest(claimed["payload"], engine, data_dir, cache),
        )
        give_back()
        last = time.monotonic()
    log.info("no requests for %.0f s: exiting", idle)


def _answer(name: str, answer: Answer, request: ModelRequest) -> None:
    """What goes wrong by input or for lack of memory is the answer; anything else ends us. Where
    what models have read of chats took memory, that goes, and the answer is tried again."""
    if _try(name, answer, request):
        give_back()
        _try(name, answer, request)


def _try(name: str, answer: Answer, request: ModelRequest) -> bool:
    """Whether memory lacked and there is more of it now."""

    def progress(phase: str, partial: dict[str, Any]) -> bool:
        return requests.progress(request.engine, name, phase=phase, answer=partial)

    try:
        result = answer(request, progress)
    except (UserError, MemoryError, RuntimeError) as error:
        if describe(error).kind == ErrorKind.OUT_OF_MEMORY and request.cache.forget_chats():
            log.info("%s: what was kept of chats gives way", name)
            return True
        if refuse(request.engine, name, error).kind == ErrorKind.OUT_OF_MEMORY:
            request.cache.release()
        return False
    requests.finish(request.engine, name, result)
    return False


def _on_a_gpu() -> bool:
    """Whether this process has memory of a GPU, which only its exit gives back."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())


def main(arguments: list[str] | None = None, answers: Mapping[str, Answer] = ANSWERS) -> int:
    # Read when torch loads; see app.worker.attempts.training
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    return PROCESS.main(arguments, partial(serve, answers=answers))


if __name__ == "__main__":
    sys.exit(main())
