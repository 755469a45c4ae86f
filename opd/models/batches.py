"""Shifting and masking, in one place: which logits score which tokens.

Logits at position t − 1 score token t. Rows are padded on the right, where causal attention cannot
see the padding, so that a row's numbers do not depend on its neighbours; what counts follows from
lengths, never from `id == pad`, since pad and EOS may be one id.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

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

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of each sequence, prompt and completion."""
        return [len(p) + len(c) for p, c in zip(self.prompts, self.completions, strict=True)]

    def take(self, rows: Sequence[int]) -> "Sequences":
        return Sequences([self.prompts[i] for i in rows], [self.completions[i] for i in rows])


@dataclass(frozen=True)
class ScoreBatch:
    """One padded forward pass and where its N completion tokens are scored.

    A row holds a prompt and one completion, or several that share the prompt: then `sees` (B, 1, L,
    L) is True where a position (third) attends to another (fourth), and positions start again with
    each completion. The last token of a completion scores nothing and is left out.
    """

    input_ids: Tensor  # (B, L) right-padded
    position_ids: Tensor | None  # (B, L); None: each row counts from 0
    sees: Tensor | None  # None: each sees what comes before it
    scored_by: Tensor  # (N,) flat positions in B·L whose logits score the targets
    targets: Tensor  # (N,) completion after completion
    lengths: tuple[int, ...]  # completion tokens of each sequence; they sum to N
    row_lengths: tuple[int, ...]  # tokens of each row, without its padding


def packs(sequences: Sequences, *, pairs_per_token: float) -> list[list[int]]:
    """Which sequences share a row: those of one prompt, where reading it once costs less.

    A row of several completions reads its prompt once, but its attention is computed over all
    pairs of its positions, also of those that do not see each other. `pairs_per_token` is how many
    pairs cost as much as one token; 0 means never.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, prompt in enumerate(sequences.prompts):
        key = tuple(prompt) if pairs_per_token else (i,)
        groups.setdefault(key, []).append(i)
    packed: list[list[int]] = []
    for rows in groups.values():
        whole = [sequences.lengths[i] for i in rows]
        prompt_length = len(sequences.prompts[rows[0]])
        saved = (len(rows) - 1) * prompt_length
        extra = pack_length(sequences, rows) ** 2 - sum(n * n for n in whole) / 2
        if len(rows) > 1 and saved * pairs_per_token > extra:
            packed.append(rows)
        else:
            packed += [[i] for i in rows]
    return packed


def pack_length(sequences: Sequences, rows: Sequence[int]) -> int:
    """Tokens of a row that holds these sequences of one prompt."""
    completions = sum(len(sequences.completions[i]) - 1 for i in rows)
    return len(sequences.prompts[rows[0]]) + completions


def score_batch(
    sequences: Sequences, *, pad_id: int, device: torch.device, pairs_per_token: float = 0.0
) -> ScoreBatch:
    """Lays sequences out in rows and finds the positions that score the completions."""
    rows = packs(sequences, pairs_per_token=pairs_per_token)
    longest = max(pack_length(sequences, members) for members in rows)
    shape = (len(rows), longest)
    ids = torch.full(shape, pad_id, dtype=torch.long)
    positions = torch.arange(longest).repeat(len(rows), 1)
    owner = torch.zeros(shape, dtype=torch.long)  # 0: the prompt; 1, 2 …: that completion
    scored_by: dict[int, Tensor] = {}
    for row, members in enumerate(rows):
        prompt = sequences.prompts[members[0]]
        start = len(prompt)
        ids[row, :start] = torch.as_tensor(prompt, dtype=torch.long)
        for number, i in enumerate(members, 1):
            read = torch.as_tensor(sequences.completions[i], dtype=torch.long)[:-1]
            span = slice(start, start + len(read))
            ids[row, span], owner[row, span] = read, number
            positions[row, span] = torch.arange(len(prompt), len(prompt) + len(read))
            first = torch.tensor([row * longest + len(prompt) - 1])
            scored_by[i] = torch.cat([first, row * longest + torch.arange(span.start, span.stop)])
            start = span.stop
    targets = [torch.as_tensor(c, dtype=torch.long) for c in sequences.completions]
    packed = len(rows) < len(sequences)
    return ScoreBatch(
        ids.to(device),
        positions.to(device) if packed else None,
        _sees(owner).to(device) if packed else None,
        torch.cat([scored_by[i] for i in range(len(sequences))]).to(device),
        torch.cat(targets).to(device),
        tuple(len(c) for c in sequences.completions),
        tuple(pack_length(sequences, members) for members in rows),
    )


def _sees(owner: Tensor) -> Tensor:
    """(B, L) owners → (B, 1, L, L): what comes before, of the prompt or the same completion."""
    length = owner.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    same = owner.unsqueeze(2) == owner.unsqueeze(1)
    return (causal & (same | (owner == 0).unsqueeze(1))).unsqueeze(1)


def units(
    sequences: Sequences, theirs: Sequences | None = None, *, pairs_per_token: float = 0.0
) -> list[tuple[list[int], int]]:
    """The packs with their lengths; the longer one where a teacher reads prompts of its own."""
    both = [s for s in (sequences, theirs) if s is not None]
    return [
        (rows, max(pack_length(s, rows) for s in both))
        for rows in packs(sequences, pairs_per_token=pairs_per_token)
    ]


def micro_batches(
    units: Sequence[tuple[Sequence[int], int]], *, max_tokens: int
) -> list[list[int]]:
    """Row numbers of (rows, length) units, by length, cut so that units · longest ≤ max_tokens.

    A single unit may be longer.
    """
    batches: list[list[int]] = []
    count = longest = 0
    for rows, length in sorted(units, key=lambda unit: unit[1], reverse=True):
        if not batches or longest * (count + 1) > max_tokens:
            batches.append([])
            count, longest = 0, length
        batches[-1] += rows
        count += 1
    return batches
