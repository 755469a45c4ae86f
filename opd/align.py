"""Shifting and masking, in one place: which logits score which tokens.

Logits at position t − 1 score token t. Rows are padded on the right, where causal attention cannot
see the padding, so that a row's numbers do not depend on its neighbours; what counts follows from
lengths, never from `id == pad`, since pad and EOS may be one id.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

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

    def length(self, i: int) -> int:
        return len(self.prompts[i]) + len(self.completions[i])

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
    longest = max(sequences.length(i) for i in range(len(sequences)))
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


@contextmanager
def head_sees_only(model: nn.Module, positions: Tensor) -> Iterator[None]:
    """Inside, the output head is given the hidden states of these flat positions, (1, N, D).

    The model's own forward pass stays in charge, so that what it does to logits after the head
    (soft-capping, scaling) is kept, while logits of prompts and padding are never made.
    """
    head = model.get_output_embeddings()  # type: ignore[operator]

    def select(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = inputs[0]
        return (hidden.reshape(1, -1, hidden.shape[-1])[:, positions], *inputs[1:])

    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


def completion_logits(model: nn.Module, batch: ScoreBatch, *, vocab: int) -> Tensor:
    """Logits (N, vocab) that score the N completion tokens, with gradient where the model has one.

    `vocab` cuts the logits to the ids that student and teacher share.
    """
    positions = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device)
    with head_sees_only(model, batch.scored_by):
        output = model(
            input_ids=batch.input_ids,
            position_ids=positions.expand_as(batch.input_ids),
            use_cache=False,
        )
    logits: Tensor = output.logits[0, :, :vocab]
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def micro_batches(sequences: Sequences, *, max_tokens: int) -> list[list[int]]:
    """Row numbers, sorted by length and cut so that B·L ≤ max_tokens (one row may be longer)."""
    order = sorted(range(len(sequences)), key=sequences.length, reverse=True)
    batches: list[list[int]] = []
    longest = 0
    for row in order:
        if not batches or longest * (len(batches[-1]) + 1) > max_tokens:
            batches.append([])
            longest = sequences.length(row)
        batches[-1].append(row)
    return batches
