"""Answers of kind "chat" and "keep": replies that are scored as they come, and one that is kept."""

import time
from contextlib import ExitStack, closing
from typing import Any

import numpy as np

from app.worker.models.loaded import RequestedModels, requested_models
from app.worker.models.request import ModelRequest, Progress, ProgressReporter
from opd.data.prompts import Prompt, chat_text
from opd.errors import UserError
from opd.interactive.scored_chat import ReplySettings, ReplyWriter
from opd.interactive.what_if import AUTHORS, branches, writing_teacher
from opd.models.encoding import prompt_ids
from opd.sampling.sample import Sample, Stopped
from opd.training.rollouts import Completion
from opd.types import Author, Rollout
from storage.text import text_entry
from storage.write.branches import reply_id, store_rollouts

GROUP = -1  # of a rollout whose prompt is not one of the run's


def chat(request: ModelRequest, progress: Progress) -> dict[str, Any]:
    """The payload is that of POST /api/v1/chat; every speaker has a conversation of its own.

    Returns {"replies": [columns a token, "prompt", "prompt_ids", "text"], "texts": {id: …},
    "chat": whether a chat template was used, "models", "seconds"}; while it runs, as much as there
    is. Raises UserError.
    """
    reporter = ProgressReporter(progress)
    try:
        return _Conversation(request, reporter).run()
    except Stopped:
        return {}


class _Conversation:
    def __init__(self, request: ModelRequest, reporter: ProgressReporter) -> None:
        self._payload, self._reporter = request.payload, reporter
        self._requested = requested_models(request, reporter)
        if reporter.stop():
            raise Stopped
        self._began = time.monotonic()
        self._tokenizer = self._requested.models.pair.tokenizer
        self._chat = getattr(self._tokenizer, "chat_template", None) is not None
        self._writers: list[tuple[ReplyWriter, str]] = []
        self._texts: dict[str, dict[str, Any]] = {}

    def run(self) -> dict[str, Any]:
        with ExitStack() as stack:
            stack.callback(self._requested.prefixes.trim, self._requested.models.pair.device)
            for author in AUTHORS:
                messages = self._payload["conversations"].get(author)
                if messages:
                    writer, text = self._writer(author, messages)
                    self._writers.append((stack.enter_context(closing(writer)), text))
            self._reporter.partial = self.answer
            going = [writer for writer, _ in self._writers]
            while going:
                going = [writer for writer in going if writer.turn()]
                self._reporter.phase = f"writing: {self._longest()} tokens"
                if self._reporter.stop():
                    raise Stopped
        return self.answer()

    def answer(self) -> dict[str, Any]:
        replies = []
        for writer, text in self._writers:
            reply = writer.reply
            self._learn([*reply.ids, *(w[0] for w in reply.teacher_choices if w)])
            written = self._tokenizer.decode(reply.ids, skip_special_tokens=True)
            more = {"prompt": text, "prompt_ids": reply.prompt_ids, "text": written}
            replies.append(reply.as_dict() | more)
        return {
            "replies": replies,
            "texts": self._texts,
            "chat": self._chat,
            "models": self._requested.about,
            "seconds": time.monotonic() - self._began,
            "most": self._payload["max_new_tokens"],
        }

    def _longest(self) -> int:
        return max(len(writer.reply.ids) for writer, _ in self._writers)

    def _writer(self, author: Author, messages: list[dict[str, str]]) -> tuple[ReplyWriter, str]:
        requested, payload = self._requested, self._payload
        if author == "teacher":
            writing_teacher(requested.models.router, None)
        if self._chat:
            text = chat_text(self._tokenizer, messages, requested.config.prompts)
        else:
            text = messages[-1]["content"]
        ids = prompt_ids(self._tokenizer, [text], chat=self._chat)[0]
        if not ids:
            raise UserError("the message has no tokens", where="conversations")
        vocab = requested.models.pair.vocab
        if max(ids) >= vocab:
            raise UserError(
                f"the message has id {max(ids)}, outside the models' {vocab} shared ids",
                where="conversations",
            )
        settings = ReplySettings(payload["temperature"], payload["max_new_tokens"], payload["seed"])
        prefixes = requested.prefixes.of(payload.get("session"))
        return ReplyWriter(requested.models, author, ids, settings, prefixes), text

    def _learn(self, ids: list[int]) -> None:
        """Notes the text of tokens, in the form in which pages read it."""
        new = {i for i in ids if str(i) not in self._texts}
        vocabulary = self._requested.vocabulary(new)
        self._texts |= {str(i): text_entry(stored) for i, stored in vocabulary.items()}


def keep(request: ModelRequest, progress: Progress) -> dict[str, Any]:
    """Stores a reply of a chat as a rollout of its run, with a whole record by both models.

    The payload is that of the chat with "reply", one of its answer's. Returns {"rollout": id}.
    """
    reporter = ProgressReporter(progress)
    requested = requested_models(request, reporter)
    if requested.run_id is None:
        raise UserError("this chat belongs to no run", where="reply")
    reporter.say("scoring with both models")
    rollout = _rollout(requested, request.payload)
    question = {
        "prompt": [int(i) for i in rollout.prompt_ids],
        "ids": request.payload["reply"]["ids"],
        "step": requested.step,
        "author": rollout.author,
        "temperature": rollout.temperature,
    }
    name = reply_id(requested.run_id, question)
    store_rollouts(
        request.engine, requested.run_id, {name: rollout}, requested.tokenizer, requested.vocabulary
    )
    return {"rollout": name, "models": requested.about}


def _rollout(requested: RequestedModels, payload: dict[str, Any]) -> Rollout:
    reply, temperature = payload["reply"], payload["temperature"]
    prompt = Prompt(GROUP, reply["prompt"], tuple(reply["prompt_ids"]), None)
    sample = Sample(np.asarray(reply["ids"], np.int64), None, reply["finish_reason"])
    completion = Completion(prompt, 0, sample, reply["text"], None, reply["author"])
    models = requested.models.unhinted()
    (rollout,) = branches(models, [completion], step=requested.step, temperature=temperature)
    return rollout
