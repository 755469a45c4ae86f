"""Answers of kind "what-if": a rollout goes on from another choice, and the branches are kept."""

import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from app.worker.models.loaded import Subject, subject_of
from app.worker.models.request import Asked, Progress, Telling
from opd.data.prompts import Prompt
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
from opd.types import Rollout
from storage.read.rollouts import read_rollout
from storage.read.tokens import read_tokens
from storage.write.branches import branch_id, store_rollouts


@dataclass
class _Counting:
    """Counts the tokens that one author has written, by how often the sampler asks to stop."""

    telling: Telling
    author: str
    most: int
    done: int = -1  # the sampler asks before the first token too
    began: float = 0.0

    def stop(self) -> bool:
        self.done += 1
        self.began = self.began or time.monotonic()
        most = f"{self.done} of at most {self.most} tokens"
        self.telling.phase = f"{self.author} continues: {most}"
        return self.telling.stop()

    def as_dict(self) -> dict[str, Any]:
        elapsed = time.monotonic() - self.began
        left = elapsed / self.done * (self.most - self.done) if self.done > 0 else None
        return {"author": self.author, "done": max(self.done, 0), "most": self.most, "left": left}


def what_if(asked: Asked, progress: Progress) -> dict[str, Any]:
    """The payload is that of POST /api/v1/what-if with "run" and the checkpoint's step.

    Returns {"branches": ids of the kept rollouts, in the order of the authors, "models",
    "seconds"}. Raises UserError.
    """
    telling = Telling(progress)
    try:
        return _answer(asked, telling)
    except Stopped:
        return {}


def _answer(asked: Asked, telling: Telling) -> dict[str, Any]:
    payload = asked.payload
    telling.say("looking up the rollout")
    subject = subject_of(asked, telling)
    if telling.stop():
        raise Stopped
    began = time.monotonic()
    point = _branch_point(asked, subject)
    settings = ContinuationSettings(
        tuple(a for a in AUTHORS if a in payload["authors"]),
        payload["samples"],
        payload["temperature"],
        payload["max_new_tokens"],
        payload["seed"],
    )
    completions = []
    for author in settings.authors:
        counting = _Counting(telling, author, settings.max_new_tokens)
        telling.partial = lambda counting=counting: {"progress": counting.as_dict()}  # type: ignore[misc]
        completions += continuations(
            subject.models, point, replace(settings, authors=(author,)), counting.stop
        )
    telling.partial = dict
    telling.say("scoring with both models")
    made = branches(
        subject.models,
        completions,
        step=subject.step,
        temperature=settings.temperature,
        kept=len(point.kept),
    )
    names = _kept(asked, subject, point, made)
    return {
        "branches": names,
        "models": subject.about,
        "seconds": time.monotonic() - began,
    }


def _branch_point(asked: Asked, subject: Subject) -> BranchPoint:
    payload = asked.payload
    parent = read_rollout(asked.engine, payload["rollout"])
    view = read_tokens(asked.engine, payload["rollout"], ("completion_ids",))
    stored = Prompt(
        parent["group"],
        parent["prompt"],
        tuple(int(i) for i in view.prompt_ids),
        parent["answer"],
    )
    ids = view.columns["completion_ids"][: payload["position"]]
    return BranchPoint(
        prompt_of(subject.models, stored),
        tuple(int(i) for i in ids),
        chosen_ids(subject.models, payload["token"], payload["text"]),
    )


def _kept(asked: Asked, subject: Subject, point: BranchPoint, made: list[Rollout]) -> list[str]:
    """Stores the branches under ids that follow from the question; returns them."""
    payload = asked.payload
    same = ("temperature", "max_new_tokens", "seed")
    question = {name: payload[name] for name in same} | {
        "step": subject.step,
        "chosen": point.chosen,
    }
    name = partial(branch_id, payload["rollout"], payload["position"])
    rollouts = {name(r, question): r for r in made}
    assert subject.run_id is not None
    store_rollouts(asked.engine, subject.run_id, rollouts, subject.tokenizer, subject.vocabulary)
    return list(rollouts)
