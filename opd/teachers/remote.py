"""A teacher behind a server; `opd.teachers.vllm_client` has the protocol."""

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
from opd.teachers.local import Reader, Reading, View
from opd.teachers.vllm_answers import RemoteOpinion
from opd.teachers.vllm_client import RemoteTeacher


class ServerTeacher:
    """Asks for a whole step at once, several requests in flight, before the student reads."""

    model: Any = None

    def __init__(
        self,
        remote: RemoteTeacher,
        reader: Reader,
        stop: Callable[[], bool],
        end: EndToken | None = None,
    ) -> None:
        self._remote, self._reader, self._stop, self.end = remote, reader, stop, end

    def read(self, batches: Sequence[Sequences], temperature: float) -> Iterator[Reading]:
        """Raises UserError for a temperature other than 1, at which servers do not judge."""
        if temperature != 1:
            raise UserError(
                f"a remote teacher scores only at temperature 1 (got {temperature})",
                where="sampling.temperature",
            )
        opinions = iter(
            self._remote.read(
                [p for b in batches for p in b.prompts],
                [self.end.shown(c) if self.end else c for b in batches for c in b.completions],
                self._pause_point,
            )
        )
        for batch in batches:
            replaced = self.end.replaced(batch.completions) if self.end else None
            yield ServerReading(
                list(islice(opinions, len(batch))), self._reader, self.end, replaced
            )

    def close(self) -> None:
        """Closes the connections."""
        self._remote.close()

    def _pause_point(self) -> None:
        if self._stop():
            raise Stopped


@dataclass(frozen=True)
class ServerReading:
    opinions: Sequence[RemoteOpinion]
    reader: Reader
    end: EndToken | None = None
    replaced: Tensor | None = None  # (N,) see EndToken

    def view(self, span: slice, targets: Tensor) -> View:
        at, ranks = (
            np.concatenate([getattr(o, name) for o in self.opinions])[span]
            for name in ("logprobs", "ranks")
        )
        ids, top = None, None
        if all(o.top_ids is not None for o in self.opinions):
            ids, top = (
                self._tensor(np.concatenate([getattr(o, name) for o in self.opinions])[span])
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
        return View(self._tensor(at), self._tensor(ranks), None, ids, top)

    def _tensor(self, values: Any) -> Tensor:
        return on_device(values, self.reader.device)
