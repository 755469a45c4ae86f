"""Shifting and masking, in one place: which logits score which tokens.

Logits at position t − 1 score token t. Rows are padded on the right, where causal attention cannot
see the padding, so that a row's numbers do not depend on its neighbours; what counts follows from
lengths, never from `id == pad`, since pad and EOS may be one id.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from opd.types import Ints


@dataclass(frozen=True)
class Sequences:
    """Prompts with their completions. Every prompt and every completion has at least one token."""

    prompts: Sequence[Sequence[int]]
    completions: Sequence[Sequence[int] | Ints]

    def __post_init__(self) -> None:
        for i, (p, c) in enumerate(zip(self.prompts, self.completions, strict=True)):
            if not len(p) or not len(c):
                what = "prompt" if not len(p) else "completion"
                raise ValueError(f"sequence {i}: the {what} is empty")

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def completion_tokens(self) -> int:
        return sum(len(c) for c in self.completions)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each sequence, prompt and completion."""
        return [len(p) + len(c) for p, c in zip(self.prompts, self.completions, strict=True)]

    def take(self, rows: Sequence[int]) -> "Sequences":
        return Sequences([self.prompts[i] for i in rows], [self.completions[i] for i in rows])


@dataclass(frozen=True)
class ScoreBatch:
    """One padded forward pass and where its N completion tokens are scored.

    input_ids (B, L) right-padded; scored_by (N,) flat positions in B·L whose logits score
    the targets (N,), row after row.
    """

    input_ids: Tensor
    scored_by: Tensor
    targets: Tensor
    lengths: tuple[int, ...]  # completion tokens of each row; they sum to N


def score_batch(sequences: Sequences, *, pad_id: int, device: torch.device) -> ScoreBatch:
    """Pads prompt + completion on the right and finds the positions that score the completion."""
    longest = max(sequences.lengths)
    ids = torch.full((len(sequences), longest), pad_id, dtype=torch.long)
    scored_by: list[Tensor] = []
    targets: list[Tensor] = []
    pairs = zip(sequences.prompts, sequences.completions, strict=True)
    for row, (prompt, completion) in enumerate(pairs):
        completion_ids = torch.as_tensor(completion, dtype=torch.long)
        ids[row, : len(prompt)] = torch.as_tensor(prompt, dtype=torch.long)
        ids[row, len(prompt) : len(prompt) + len(completion)] = completion_ids
        first = row * longest + len(prompt) - 1
        scored_by.append(torch.arange(first, first + len(completion)))
        targets.append(completion_ids)
    return ScoreBatch(
        ids.to(device),
        torch.cat(scored_by).to(device),
        torch.cat(targets).to(device),
        tuple(len(c) for c in sequences.completions),
    )


def micro_batches(lengths: Sequence[int], *, max_tokens: int) -> list[list[int]]:
    """Row numbers, sorted by length and cut so that B·L ≤ max_tokens (one row may be longer)."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    batches: list[list[int]] = []
    longest = 0
    for row in order:
        if not batches or longest * (len(batches[-1]) + 1) > max_tokens:
            batches.append([])
            longest = lengths[row]
        batches[-1].append(row)
    return batches
