"""A reply that is scored while it is written: after every token both models have read it.

Both keep their own cache, and what it holds is there for the chat's next prompt. The figures are
those of the models' decoders, which agree with one forward pass over the whole reply up to
rounding; `opd.interactive.what_if.branches` makes the record itself.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from opd.devices.choice import on_device
from opd.interactive.read_prefixes import ChatPrefixes, ReadPrefix
from opd.interactive.what_if import AUTHORS, SEED, check_room, writing_teacher
from opd.loss import divergences
from opd.models.load import Pair, context_of
from opd.sampling.decoder import Decoder, Slots
from opd.sampling.decoding import decoder_for, start_of
from opd.sampling.sample import chosen, log_probs_at, nan_error, uniforms
from opd.teachers.end_token import EndToken
from opd.teachers.local import LocalTeacher
from opd.training.loading import LoadedModels
from opd.types import Author, FinishReason

State = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class ReplySettings:
    """How replies are written; temperature 0 is greedy, scored at 1."""

    temperature: float
    max_new_tokens: int
    seed: int


@dataclass
class Reply:
    """What one author has written by now, with figures per token (nats); None: nobody judges."""

    author: Author
    prompt_ids: tuple[int, ...]
    ids: list[int] = field(default_factory=list)
    student: list[float] = field(default_factory=list)
    teacher: list[float | None] = field(default_factory=list)
    reverse_kl: list[float | None] = field(default_factory=list)
    teacher_choices: list[tuple[int, float, float] | None] = field(default_factory=list)
    finish_reason: FinishReason | None = None  # None: not finished

    def as_dict(self) -> dict[str, Any]:
        """Columns by name; `wanted` is the teacher's first choice with both log-probabilities."""
        return {
            "author": self.author,
            "ids": self.ids,
            "student_logprobs": self.student,
            "teacher_logprobs": self.teacher,
            "reverse_kl": self.reverse_kl,
            "wanted": self.teacher_choices,
            "finish_reason": self.finish_reason,
        }


class _NextTokens:
    """One model that reads along: its log-probabilities of the next token. `ids` are those that it
    has read, none once a reading has failed."""

    def __init__(self, pair: Pair, model: Any, state: State, temperature: float) -> None:
        self._state, self._temperature, self._pair, self._model = state, temperature, pair, model
        self._decoder: Decoder | None = None
        self.ids: list[int] = []

    def start(self, prompt_ids: tuple[int, ...], read: list[Slots]) -> Tensor:
        """(1, V) after the prompt, whose start has been read."""
        pair = self._pair
        with self._state():
            self._decoder = decoder_for(
                self._model, vocab=pair.vocab, pad_id=pair.pad_id, device=pair.device, start=read
            )
            logp = log_probs_at(self._decoder.prefill([prompt_ids], [0]), self._temperature)
        self.ids = list(prompt_ids)
        return logp

    def read(self, token: int) -> Tensor:
        assert self._decoder is not None
        device, ids = self._pair.device, self.ids
        self.ids = []
        with self._state():
            logits = self._decoder.step(
                torch.tensor([token], device=device), torch.tensor([len(ids)], device=device), None
            )
            logp = log_probs_at(logits, self._temperature)
        ids.append(token)
        self.ids = ids
        return logp

    def first(self, length: int) -> list[Slots] | None:
        assert self._decoder is not None
        with self._state():
            return start_of(self._decoder, length, model=self._model, device=self._pair.device)

    @property
    def begun(self) -> bool:
        return self._decoder is not None

    def ended(self) -> ReadPrefix | None:
        """What it has read; None where that cannot stay."""
        layers = self.first(len(self.ids)) if self.ids else None
        return ReadPrefix(self.ids, layers) if layers is not None else None


class ReplyWriter:
    """Writes one reply, a token a turn; to be closed."""

    def __init__(
        self,
        models: LoadedModels,
        author: Author,
        prompt_ids: tuple[int, ...],
        settings: ReplySettings,
        prefixes: ChatPrefixes | None = None,
    ) -> None:
        """`prefixes` are of the chat that the reply belongs to. Raises UserError where the author
        cannot write, or the context is too small."""
        self.reply = Reply(author, prompt_ids)
        self._settings, self._prefixes = settings, prefixes or ChatPrefixes()
        pair, temperature = models.pair, settings.temperature
        writer = pair
        if author == "teacher":
            writer = writing_teacher(models.router, None).as_student(pair)
        self._eos = writer.eos_ids
        context = min(models.router.context(), context_of(writer.student))
        check_room(context, len(prompt_ids), settings.max_new_tokens)
        self._stack = ExitStack()
        self._models = {"student": _NextTokens(pair, pair.student, pair.computing, temperature)}
        teacher = models.router.teacher()
        self._end: EndToken | None = None
        if isinstance(teacher, LocalTeacher):
            self._end = teacher.end
            self._stack.enter_context(teacher.present())
            self._models["teacher"] = _NextTokens(pair, teacher.model, teacher.state, temperature)
        key = (settings.seed, SEED, AUTHORS.index(author) * SEED + 1, 0)
        self._draws = on_device(uniforms(key, settings.max_new_tokens), pair.device)
        self._logp: dict[str, Tensor] = {}  # (1, V) of the next token, by model

    def close(self) -> None:
        with self._stack:
            for name, model in self._models.items():
                if model.begun:
                    self._prefixes.keep(name, self.reply.author, model.ended())

    @torch.inference_mode()
    def turn(self) -> bool:
        """Writes the next token; False once the reply has ended."""
        reply, settings = self.reply, self._settings
        if reply.finish_reason is not None:
            return False
        self._read_last()
        source = self._logp[reply.author]
        if bool(source.isnan().any()):
            raise nan_error(where=reply.author)
        draw = self._draws[len(reply.ids)].unsqueeze(0)
        token = chosen(source, draw, greedy=settings.temperature == 0)
        self._note(token)
        if int(token) in self._eos:
            reply.finish_reason = "stop"
        elif len(reply.ids) == settings.max_new_tokens:
            reply.finish_reason = "length"
        return reply.finish_reason is None

    def _read_last(self) -> None:
        """Both models read what was written last: at first what follows in the prompt after what
        they have read of this chat."""
        reply, prefixes = self.reply, self._prefixes
        for name, model in self._models.items():
            if reply.ids:
                self._logp[name] = model.read(reply.ids[-1])
                continue
            read = prefixes.longest(name, reply.prompt_ids)
            prefixes.keep(name, reply.author, None)
            self._logp[name] = model.start(reply.prompt_ids, read)
            prefixes.keep(name, reply.author, model)

    def _note(self, token: Tensor) -> None:
        reply, p, q = self.reply, self._logp["student"], self._logp.get("teacher")
        reply.ids.append(int(token))
        reply.student.append(float(divergences.at(p, token)))
        if q is None:
            for column in (reply.teacher, reply.reverse_kl, reply.teacher_choices):
                column.append(None)
            return
        if self._end is not None:
            ended = int(token) in self._eos
            replaced = self._end.replaced([[int(token) if ended else self._end.stop_ids[0]]])
            q = self._end.swap(q.clone(), replaced.to(q.device))
        best = int(q.argmax(-1))
        reply.teacher.append(float(divergences.at(q, token)))
        reply.reverse_kl.append(float(divergences.reverse_kl(p, q)))
        reply.teacher_choices.append((best, float(p[0, best]), float(q[0, best])))
