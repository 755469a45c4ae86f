"""Answers of kind "what-if": a rollout goes on from another choice, and the branches are kept."""

import logging
import time
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from app.worker.models.loaded import RequestedModels, requested_models
from app.worker.models.request import ModelRequest, Progress, ProgressReporter
from opd.data.prompts import Prompt
from opd.errors import ErrorKind, UserError
from opd.interactive.what_if import (
    AUTHORS,
    BranchPoint,
    ContinuationSettings,
    branches,
    chosen_ids,
    continuations,
    prompt_of,
)
from opd.sampling.sample import Stopped
from opd.sampling.vllm.own_server import join_sampler
from opd.sampling.vllm.serving import Surroundings
from opd.training.rollouts import Completion
from opd.types import Rollout
from storage.read.rollouts import read_rollout
from storage.read.tokens import read_tokens
from storage.write.branches import branch_id, store_rollouts

log = logging.getLogger(__name__)
SERVER_KINDS = (ErrorKind.SAMPLING_SERVER, ErrorKind.TOKENIZER_MISMATCH)


@dataclass
class _Counting:
    """Counts the tokens that one author has written, by how often the sampler asks to stop."""

    reporter: ProgressReporter
    author: str
    most: int
    done: int = -1  # the sampler asks before the first token too
    began: float = 0.0

    def stop(self) -> bool:
        self.done += 1
        self.began = self.began or time.monotonic()
        most = f"{self.done} of at most {self.most} tokens"
        self.reporter.phase = f"{self.author} continues: {most}"
        return self.reporter.stop()

    def as_dict(self) -> dict[str, Any]:
        elapsed = time.monotonic() - self.began
        left = elapsed / self.done * (self.most - self.done) if self.done > 0 else None
        return {"author": self.author, "done": max(self.done, 0), "most": self.most, "left": left}


def what_if(request: ModelRequest, progress: Progress) -> dict[str, Any]:
    """The payload is that of POST /api/v1/what-if with "run" and the checkpoint's step.

    Returns {"branches": ids of the kept rollouts, in the order of the authors, "models",
    "seconds"}. Raises UserError.
    """
    reporter = ProgressReporter(progress)
    try:
        return _answer(request, reporter)
    except Stopped:
        return {}


def _answer(request: ModelRequest, reporter: ProgressReporter) -> dict[str, Any]:
    payload = request.payload
    reporter.say("looking up the rollout")
    requested = requested_models(request, reporter)
    if reporter.stop():
        raise Stopped
    began = time.monotonic()
    point = _branch_point(request, requested)
    settings = ContinuationSettings(
        tuple(a for a in AUTHORS if a in payload["authors"]),
        payload["samples"],
        payload["temperature"],
        payload["max_new_tokens"],
        payload["seed"],
    )
    completions = []
    for author in settings.authors:
        alone = replace(settings, authors=(author,))
        written = None
        if author == "student" and requested.config.sampling.url is not None:
            written = _by_server(request, requested, point, alone, reporter)
        if written is None:
            counting = _Counting(reporter, author, settings.max_new_tokens)
            reporter.partial = lambda counting=counting: {"progress": counting.as_dict()}  # type: ignore[misc]
            written = continuations(requested.models, point, alone, counting.stop)
        completions += written
    reporter.partial = dict
    reporter.say("scoring with both models")
    made = branches(
        requested.models,
        completions,
        step=requested.step,
        temperature=settings.temperature,
        kept=len(point.kept),
    )
    names = _kept(request, requested, point, made)
    return {
        "branches": names,
        "models": requested.about,
        "seconds": time.monotonic() - began,
    }


def _by_server(
    request: ModelRequest,
    requested: RequestedModels,
    point: BranchPoint,
    settings: ContinuationSettings,
    reporter: ProgressReporter,
) -> list[Completion] | None:
    """The student's continuations by the run's own vLLM server; None where it does not write them,
    such as one that has the weights of a run that has not ended."""
    assert requested.run_id is not None
    folder = request.data_dir.run(requested.run_id).path / "what-if"
    sampling = requested.config.sampling.model_copy(
        update={
            "max_new_tokens": settings.max_new_tokens,
            "temperature": settings.temperature or 1.0,
        }
    )
    config = requested.config.model_copy(update={"sampling": sampling})
    prompts = [(*point.prompt.ids, *point.prefix)]
    reporter.say("the student continues, by its vLLM server")
    try:
        sampler = join_sampler(
            *(requested.models.pair, config, prompts, Surroundings(folder=folder)), as_guest=True
        )
        with closing(sampler):
            return continuations(requested.models, point, settings, reporter.stop, sampler)
    except UserError as error:
        if error.kind not in SERVER_KINDS:
            raise
        log.warning("what-if without the run's server: %s", error)
        return None


def _branch_point(request: ModelRequest, requested: RequestedModels) -> BranchPoint:
    payload = request.payload
    parent = read_rollout(request.engine, payload["rollout"])
    view = read_tokens(request.engine, payload["rollout"], ("completion_ids",))
    stored = Prompt(
        parent["group"],
        parent["prompt"],
        tuple(int(i) for i in view.prompt_ids),
        parent["answer"],
    )
    kept = tuple(int(i) for i in view.columns["completion_ids"][: payload["position"]])
    before = (*stored.ids, *kept)
    return BranchPoint(
        prompt_of(requested.models, stored),
        kept,
        chosen_ids(requested.models, before, payload["token"], payload["text"]),
    )


def _kept(
    request: ModelRequest, requested: RequestedModels, point: BranchPoint, made: list[Rollout]
) -> list[str]:
    """Stores the branches under ids that follow from the question; returns them."""
    payload = request.payload
    same = ("temperature", "max_new_tokens", "seed")
    question = {name: payload[name] for name in same} | {
        "step": requested.step,
        "chosen": point.chosen,
    }
    name = partial(branch_id, payload["rollout"], payload["position"])
    rollouts = {name(r, question): r for r in made}
    assert requested.run_id is not None
    store_rollouts(
        request.engine, requested.run_id, rollouts, requested.tokenizer, requested.vocabulary
    )
    return list(rollouts)
