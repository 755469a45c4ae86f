"""Who judges the student's tokens: a model, its own start, a moving average, a server.

A teacher reads sequences of its own prompts and the student's completions, and says for any piece
of their tokens what it thinks of them. What it cannot say is None, and only objectives that do
without are offered for it (see `opd.config.run`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from opd.devices.choice import give_back_memory
from opd.loss import divergences
from opd.models.batches import ScoreBatch, Sequences, score_batch
from opd.models.compilation import compilable
from opd.models.forward import Hidden, completion_hidden, logits_of, piece_values, spans, wide
from opd.models.load import Pair
from opd.models.routes import pairs_per_token
from opd.teachers.end_token import EndToken


@dataclass(frozen=True)
class View:
    """What a teacher says of N tokens, frozen; `at` (N,) in nats, ranks from 0."""

    at: Tensor
    rank: Tensor | None  # None: a server that tells no ranks
    full: Tensor | None = None  # (N, V) log-probabilities
    top_ids: Tensor | None = None  # (N, k), likeliest first
    top: Tensor | None = None  # (N, k) their log-probabilities


class Reading(Protocol):
    """A teacher's opinion of the N completion tokens of one batch."""

    def view(self, span: slice, targets: Tensor) -> View:
        """Of the tokens in `span`, whose ids are `targets`."""


class Teacher(Protocol):
    """`model` is None where it is not on this machine."""

    model: Any
    end: EndToken | None  # shown in place of the student's stop ids

    def read(self, batches: Sequence[Sequences], temperature: float) -> Iterator[Reading]:
        """One reading a batch, in order; each is to be used before the next is asked for."""

    def close(self) -> None:
        """Lets go of what is not memory."""


@dataclass(frozen=True)
class Reader:
    """What reading needs beside a model: the shared ids, padding, and where it computes."""

    vocab: int
    pad_id: int
    device: torch.device

    def batch(self, sequences: Sequences, pairs: float) -> ScoreBatch:
        return score_batch(sequences, pad_id=self.pad_id, device=self.device, pairs_per_token=pairs)


class LocalTeacher:
    """A causal LM on this machine, or the student itself in another state.

    `stop_ids` end what it writes, the first its messages. `state()` is a context in which `model`
    is the teacher: with its adapter switched off, or with the moving average in place of its
    weights.
    """

    def __init__(
        self,
        model: Any,
        reader: Reader,
        *,
        stop_ids: Sequence[int] = (),
        end: EndToken | None = None,
        state: Callable[[], AbstractContextManager[Any]] = nullcontext,
        offload: bool = False,
    ) -> None:
        self.model, self.reader, self.state = model, reader, state
        self.stop_ids, self.end = tuple(stop_ids), end
        with state():
            self.pairs_per_token = pairs_per_token(model)
        self._offload = offload and reader.device.type != "cpu"
        self.put_aside()

    def read(self, batches: Sequence[Sequences], temperature: float) -> Iterator[Reading]:
        if not self._offload:
            for batch in batches:
                yield self._read(batch, temperature)
            return
        with self.present():
            readings = [self._read(batch, temperature, aside=True) for batch in batches]
        yield from readings

    def close(self) -> None:
        """Holds nothing but memory."""

    def as_student(self, pair: Pair) -> Pair:
        """The pair in which this model writes; it stops where either model would."""
        stops = dict.fromkeys([*pair.eos_ids, *self.stop_ids])
        return replace(pair, student=self.model, sampling_copy=None, eos_ids=tuple(stops))

    def _read(self, batch: Sequences, temperature: float, aside: bool = False) -> "LocalReading":
        with torch.no_grad(), self.state():
            rows = self.reader.batch(batch, self.pairs_per_token)
            hidden = completion_hidden(self.model, rows)
        if aside:
            hidden = Hidden(hidden.states.cpu(), hidden.form)
        if self.end is None:
            return LocalReading(self, hidden, temperature)
        replaced = self.end.replaced(batch.completions).to(self.reader.device)
        return LocalReading(self, hidden, temperature, replaced)

    @contextmanager
    def present(self) -> Iterator[None]:
        """Inside, an offloaded teacher is on the device; its head always is."""
        if not self._offload:
            yield
            return
        self.model.to(self.reader.device)
        try:
            yield
        finally:
            self.put_aside()

    def put_aside(self) -> None:
        """Moves all but the head, which judges piece by piece, into host memory."""
        if self._offload:
            self.model.to("cpu")
            self.model.get_output_embeddings().to(self.reader.device)
            give_back_memory()


@dataclass(frozen=True)
class LocalReading:
    teacher: LocalTeacher
    hidden: Hidden
    temperature: float
    replaced: Tensor | None = None  # (N,) see EndToken; None where nothing is

    @torch.no_grad()
    def view(self, span: slice, targets: Tensor) -> View:
        piece = self.hidden.piece(span)
        with self.teacher.state():
            logits = logits_of(
                self.teacher.model,
                replace(piece, states=piece.states.to(targets.device)),
                vocab=self.teacher.reader.vocab,
                widened=False,
            )
        replaced = None if self.replaced is None else self.replaced[span]
        return viewed(logits, targets, self.temperature, self.teacher.end, replaced)


@compilable
def viewed(
    logits: Tensor,
    targets: Tensor,
    temperature: float,
    end: EndToken | None = None,
    replaced: Tensor | None = None,
) -> View:
    """Of the teacher's logits (n, V); see `EndToken` for what is `replaced` (n,)."""
    full = divergences.log_probs(wide(logits), temperature)
    if end is not None and replaced is not None:
        full = end.swap(full, replaced)
    return View(divergences.at(full, targets), divergences.rank(full, targets), full)


class MovingAverage:
    """The student's weights averaged over its steps: w ← decay · w + (1 − decay) · student."""

    def __init__(self, model: Any, decay: float) -> None:
        self._decay = decay
        self._live = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.weights = {n: p.detach().clone() for n, p in self._live.items()}

    @torch.no_grad()
    def advance(self) -> None:
        for name, parameter in self._live.items():
            self.weights[name].lerp_(parameter.detach(), 1 - self._decay)

    def restore(self, weights: Mapping[str, Tensor]) -> None:
        for name, held in self.weights.items():
            held.copy_(weights[name])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the model's weights are the average; outside it trains on as before."""
        student = {n: p.data for n, p in self._live.items()}
        try:
            for name, parameter in self._live.items():
                parameter.data = self.weights[name]
            yield
        finally:
            for name, parameter in self._live.items():
                parameter.data = student[name]


def sampled_log_probs(reading: Reading, targets: Tensor, vocab: int) -> Tensor:
    """The teacher's log-probabilities (N,) of the tokens written, piece by piece."""
    cuts = spans(len(targets), vocab=vocab, limit=piece_values(vocab, targets.device))
    return torch.cat([reading.view(cut, targets[cut]).at for cut in cuts])
