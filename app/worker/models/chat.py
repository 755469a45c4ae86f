"""Answers of kind "chat" and "keep": replies that are scored as they come, and one that is kept."""

import time
from contextlib import ExitStack, closing
from typing import Any

import numpy as np

from app.worker.models.loaded import Subject, subject_of
from app.worker.models.request import Asked, Progress, Telling
from opd.data.prompts import Prompt, chat_text
from opd.errors import UserError
from opd.interactive.scored_chat import ReplySettings, ReplyWriter
from opd.interactive.what_if import AUTHORS, branches, writing_teacher
from opd.sampling.sample import Sample, Stopped
from opd.training.rollouts import Completion
from opd.types import Author, Rollout
from storage.text import text_entry
from storage.write.branches import reply_id, store_rollouts

GROUP = -1  # of a rollout whose prompt is not one of the run's


def chat(asked: Asked, progress: Progress) -> dict[str, Any]:
    """The payload is that of POST /api/v1/chat; every speaker has a conversation of its own.

    Returns {"replies": [columns a token, "prompt", "prompt_ids", "text"], "texts": {id: …},
    "chat": whether a chat template was used, "models", "seconds"}; while it runs, as much as there
    is. Raises UserError.
    """
    telling = Telling(progress)
    try:
        return _Chat(asked, telling).run()
    except Stopped:
        return {}


class _Chat:
    def __init__(self, asked: Asked, telling: Telling) -> None:
        self._payload, self._telling = asked.payload, telling
        self._subject = subject_of(asked, telling)
        if telling.stop():
            raise Stopped
        self._began = time.monotonic()
        self._tokenizer = self._subject.models.pair.tokenizer
        self._chat = getattr(self._tokenizer, "chat_template", None) is not None
        self._writers: list[tuple[ReplyWriter, str]] = []
        self._texts: dict[str, dict[str, Any]] = {}

    def run(self) -> dict[str, Any]:
        with ExitStack() as stack:
            for author in AUTHORS:
                messages = self._payload["conversations"].get(author)
                if messages:
                    writer, text = self._writer(author, messages)
                    self._writers.append((stack.enter_context(closing(writer)), text))
            self._telling.partial = self.found
            going = [writer for writer, _ in self._writers]
            while going:
                going = [writer for writer in going if writer.turn()]
                self._telling.phase = f"writing: {self._longest()} tokens"
                if self._telling.stop():
                    raise Stopped
        return self.found()

    def found(self) -> dict[str, Any]:
        replies = []
        for writer, text in self._writers:
            reply = writer.reply
            self._learn([*reply.ids, *(w[0] for w in reply.wanted if w)])
            written = self._tokenizer.decode(reply.ids, skip_special_tokens=True)
            more = {"prompt": text, "prompt_ids": reply.prompt_ids, "text": written}
            replies.append(reply.as_dict() | more)
        return {
            "replies": replies,
            "texts": self._texts,
            "chat": self._chat,
            "models": self._subject.about,
            "seconds": time.monotonic() - self._began,
            "most": self._payload["max_new_tokens"],
        }

    def _longest(self) -> int:
        return max(len(writer.reply.ids) for writer, _ in self._writers)

    def _writer(self, author: Author, messages: list[dict[str, str]]) -> tuple[ReplyWriter, str]:
        subject, payload = self._subject, self._payload
        if author == "teacher":
            writing_teacher(subject.models.router, None)
        if self._chat:
            text = chat_text(self._tokenizer, messages, subject.config.prompts)
        else:
            text = messages[-1]["content"]
        ids = tuple(self._tokenizer(text, add_special_tokens=not self._chat)["input_ids"])
        if not ids:
            raise UserError("the message has no tokens", where="conversations")
        vocab = subject.models.pair.vocab
        if max(ids) >= vocab:
            raise UserError(
                f"the message has id {max(ids)}, outside the models' {vocab} shared ids",
                where="conversations",
            )
        settings = ReplySettings(payload["temperature"], payload["max_new_tokens"], payload["seed"])
        return ReplyWriter(subject.models, author, ids, settings), text

    def _learn(self, ids: list[int]) -> None:
        """Notes the text of tokens, in the form in which pages read it."""
        new = {i for i in ids if str(i) not in self._texts}
        found = self._subject.vocabulary(new)
        self._texts |= {str(i): text_entry(stored) for i, stored in found.items()}


def keep(asked: Asked, progress: Progress) -> dict[str, Any]:
    """Stores a reply of a chat as a rollout of its run, with a whole record by both models.

    The payload is that of the chat with "reply", one of its answer's. Returns {"rollout": id}.
    """
    telling = Telling(progress)
    subject = subject_of(asked, telling)
    if subject.run_id is None:
        raise UserError("this chat belongs to no run", where="reply")
    telling.say("scoring with both models")
    rollout = _rollout(subject, asked.payload)
    question = {
        "prompt": [int(i) for i in rollout.prompt_ids],
        "ids": asked.payload["reply"]["ids"],
        "step": subject.step,
        "author": rollout.author,
        "temperature": rollout.temperature,
    }
    name = reply_id(subject.run_id, question)
    store_rollouts(
        asked.engine, subject.run_id, {name: rollout}, subject.tokenizer, subject.vocabulary
    )
    return {"rollout": name, "models": subject.about}


def _rollout(subject: Subject, payload: dict[str, Any]) -> Rollout:
    reply, temperature = payload["reply"], payload["temperature"]
    prompt = Prompt(GROUP, reply["prompt"], tuple(reply["prompt_ids"]), None)
    sample = Sample(np.asarray(reply["ids"], np.int64), None, reply["finish_reason"])
    completion = Completion(prompt, 0, sample, reply["text"], None, reply["author"])
    models = subject.models.unhinted()
    (rollout,) = branches(models, [completion], step=subject.step, temperature=temperature)
    return rollout
