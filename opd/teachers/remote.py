"""A teacher behind a server; `opd.teachers.vllm_client` has the protocol."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from torch import Tensor

from opd.devices.choice import on_device
from opd.errors import ErrorKind, UserError
from opd.models.batches import Sequences
from opd.sampling.sample import Stopped
from opd.teachers.end_token import EndToken
from opd.teachers.local import Reader, Reading, View, viewed
from opd.teachers.vllm_answers import RemoteOpinion
from opd.teachers.vllm_client import RemoteTeacher


class ServerTeacher:
    """Asks for a whole step at once, several requests in flight, and is read as they are answered.

    `whole`: it is asked for so many likeliest tokens that they are its whole vocabulary, and judges
    as a model here does.
    """

    model: Any = None

    def __init__(
        self,
        remote: RemoteTeacher,
        reader: Reader,
        stop: Callable[[], bool],
        end: EndToken | None = None,
        *,
        whole: bool = False,
    ) -> None:
        self._remote, self._reader, self._stop, self.end = remote, reader, stop, end
        self._whole = whole

    def read(self, batches: Sequence[Sequences], temperature: float) -> Iterator[Reading]:
        """Raises UserError for a temperature other than 1, which takes the whole vocabulary."""
        if temperature != 1 and not self._whole:
            raise UserError(
                f"a remote teacher scores only at temperature 1 (got {temperature})",
                where="sampling.temperature",
            )
        opinions = self._remote.stream(
            [p for b in batches for p in b.prompts],
            [self.end.shown(c) if self.end else c for b in batches for c in b.completions],
            self._pause_point,
        )
        for batch in batches:
            replaced = self.end.replaced(batch.completions) if self.end else None
            theirs = list(islice(opinions, len(batch)))
            if self._whole:
                yield WholeReading(theirs, self._reader, temperature, self.end, replaced)
            else:
                yield ServerReading(theirs, self._reader, self.end, replaced)

    def close(self) -> None:
        """Closes the connections."""
        self._remote.close()

    def _pause_point(self) -> None:
        if self._stop():
            raise Stopped


@dataclass(frozen=True)
class WholeReading:
    """Of opinions whose likeliest tokens are all that there are."""

    opinions: Sequence[RemoteOpinion]
    reader: Reader
    temperature: float
    end: EndToken | None = None
    replaced: Tensor | None = None  # (N,) see EndToken

    def view(self, span: slice, targets: Tensor) -> View:
        vocab = self.reader.vocab
        ids, top = (
            on_device(_joined(self.opinions, name, span), self.reader.device)
            for name in ("top_ids", "top_logprobs")
        )
        # (n, ids of the server), with a column for those that the student lacks
        whole = top.new_full((len(ids), vocab + 1), math.nan)
        whole.scatter_(-1, ids.clamp(max=vocab), top)
        shared = whole[:, :vocab]
        if bool(shared.isnan().any()):
            given = int((~shared.isnan()).sum(-1).min())
            raise UserError(
                f"among the {ids.shape[-1]} likeliest tokens of the teacher are {given} of the "
                f"{vocab} ids that the student has: set it to the size of the server's vocabulary",
                where="teacher.top_k",
                kind=ErrorKind.TOKENIZER_MISMATCH,
            )
        replaced = None if self.replaced is None else self.replaced[span].to(ids.device)
        return viewed(shared, targets, self.temperature, self.end, replaced)


@dataclass(frozen=True)
class ServerReading:
    """Of opinions of the tokens written, and of the likeliest where they were asked for."""

    opinions: Sequence[RemoteOpinion]
    reader: Reader
    end: EndToken | None = None
    replaced: Tensor | None = None  # (N,) see EndToken

    def view(self, span: slice, targets: Tensor) -> View:
        at, ranks = _joined(self.opinions, "logprobs", span), None
        if all(o.ranks is not None for o in self.opinions):
            ranks = self._tensor(_joined(self.opinions, "ranks", span))
        ids, top = None, None
        if all(o.top_ids is not None for o in self.opinions):
            ids, top = (
                self._tensor(_joined(self.opinions, name, span))
                for name in ("top_ids", "top_logprobs")
            )
            if int(ids.max()) >= self.reader.vocab:
                raise UserError(
                    f"among the teacher's likeliest tokens is id {int(ids.max())}; the student "
                    f"has {self.reader.vocab} ids: its tokenizer is not the student's",
                    where="teacher.model",
                    kind=ErrorKind.TOKENIZER_MISMATCH,
                )
            if self.end is not None and self.replaced is not None:
                ids = self.end.swap_ids(ids, self.replaced[span].to(ids.device))
        return View(self._tensor(at), ranks, None, ids, top)

    def _tensor(self, values: Any) -> Tensor:
        return on_device(values, self.reader.device)


def _joined(opinions: Sequence[RemoteOpinion], name: str, span: slice) -> Any:
    return np.concatenate([getattr(o, name) for o in opinions])[span]
