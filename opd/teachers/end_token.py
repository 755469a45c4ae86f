"""A teacher that ends its messages with another token than the student does.

Where the student's stop id stands, the teacher is shown its own end. In what it says the two ids'
probabilities change places, at every token: "the completion ends here" has the probability that the
teacher gives its own end, and its distribution stays one. Recorded ids are not touched.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from opd.errors import ErrorKind, UserError
from opd.models.load import Pair
from opd.models.stop_ids import as_ids, declared_stops
from opd.types import Ints


@dataclass(frozen=True)
class EndToken:
    """The teacher's end by text and id, and the student's stop ids in whose place it is shown."""

    text: str
    id: int
    stop_ids: tuple[int, ...]  # the first one where a completion has not ended

    def replaced(self, completions: Sequence[Sequence[int] | Ints]) -> Tensor:
        """For each of the N tokens, completion after completion, the id that changes places.

        A completion that ends with the teacher's own end keeps it.
        """
        ends = {*self.stop_ids, self.id}
        parts = []
        for completion in completions:
            part = np.full(len(completion), self.stop_ids[0], np.int64)
            if int(completion[-1]) in ends:
                part[-1] = completion[-1]
            parts.append(part)
        return torch.from_numpy(np.concatenate(parts))

    def swap(self, logprobs: Tensor, replaced: Tensor) -> Tensor:
        """Log-probabilities (n, V), changed in place; `replaced` (n,)."""
        rows = replaced.unsqueeze(-1)
        ours, theirs = logprobs.gather(-1, rows), logprobs[:, self.id].clone()
        logprobs[:, self.id] = ours.squeeze(-1)
        return logprobs.scatter_(-1, rows, theirs.unsqueeze(-1))

    def swap_ids(self, ids: Tensor, replaced: Tensor) -> Tensor:
        """The same for ids (n, k)."""
        rows = replaced.unsqueeze(-1)
        return torch.where(ids == self.id, rows, torch.where(ids == rows, self.id, ids))

    def shown(self, completion: Sequence[int] | Ints) -> Ints:
        """The completion as the teacher reads it."""
        ids = np.array(completion, np.int64)
        if int(ids[-1]) in self.stop_ids:
            ids[-1] = self.id
        return ids


def end_token_of(text: str | None, pair: Pair, *, where: str) -> EndToken | None:
    """None where nothing is to be shown in another's place: no text, or the student's own end.

    Raises UserError for a text that is no single token of both models.
    """
    if text is None:
        return None
    token_id = pair.tokenizer.get_vocab().get(text)
    if token_id is None or token_id >= pair.vocab:
        raise UserError(
            f"{text!r} is not a token of the student's tokenizer"
            if token_id is None
            else f"{text!r} is id {token_id}, outside the models' {pair.vocab} shared ids",
            where=where,
            kind=ErrorKind.TOKENIZER_MISMATCH,
        )
    stops = {*declared_stops(pair.student), *as_ids(pair.tokenizer.eos_token_id)}
    others = tuple(i for i in pair.eos_ids if i != token_id)
    if token_id in stops or not others:
        return None
    return EndToken(text, token_id, others)
