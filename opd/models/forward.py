"""Hidden states and logits of given completions, by the model's own forward pass.

Logits of prompts and padding are never made, and those of completions only for as many tokens at a
time as the caller asks for: tokens × vocabulary would fill the memory. What a model does to logits
after its head (soft-capping, scaling) is its own code's: its forward pass is run with the backbone
standing in for the given hidden states. How a model is to be read for its numbers to be those of
one unpadded row is its `ReadingRoute`, which `opd.models.routes` finds out once.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from opd.devices.choice import allocatable_memory
from opd.models.batches import ScoreBatch

CHUNK_VALUES = 2**24  # tokens × vocabulary at a time: at most 64 MB in float32
CARD_VALUES = 2**26  # the same on a GPU, where every piece reads the head and adds to its gradient
CARD_COPIES = 8  # of a piece's values in float32, held together; a GPU's piece takes at most
CARD_SHARE = 1 / 4  # this share of the memory that is free
CACHED_VALUES = 2**22  # on a processor, where pieces that fit its caches are twice as fast
PIECE_TOKENS = 128  # there no smaller pieces than these: each reads the whole head again


@dataclass(frozen=True)
class ReadingRoute:
    """How a model is read so that a row's numbers depend on nothing but the row.

    `backbone` makes the hidden states that the head turns into logits; None where none can be told
    apart, and logits of whole passes take their place. Of a `sharded` model only the forward pass
    may touch the layers' weights, which no process holds whole, and all pass through them in step.
    """

    backbone: Any
    alone: bool = False  # one row at a time
    switch: int | None = None  # rows of more tokens than this are read apart from shorter ones
    sharded: bool = False  # see `opd.ranks.sharding`

    def groups(self, lengths: tuple[int, ...]) -> list[list[int]]:
        """The numbers of the rows that share a pass, by their lengths in tokens."""
        rows = list(range(len(lengths)))
        if self.alone:
            return [[row] for row in rows]
        if self.switch is None:
            return [rows]
        short = [row for row in rows if lengths[row] <= self.switch]
        long = [row for row in rows if lengths[row] > self.switch]
        return [part for part in (short, long) if part]


@dataclass(frozen=True)
class Hidden:
    """states (N, D): what scores the N completion tokens; `form` is the backbone's output type,
    None where the states are logits already."""

    states: Tensor
    form: type[Any] | None

    def piece(self, cut: slice) -> "Hidden":
        return Hidden(self.states[cut], self.form)


_ROUTES: "WeakKeyDictionary[Any, ReadingRoute]" = WeakKeyDictionary()


def causal(model: Any) -> Any:
    """The causal LM itself, inside whatever holds its adapters."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def take_route(model: Any, route: ReadingRoute) -> None:
    """From now on the model is read this way."""
    _ROUTES[causal(model)] = route


def route_of(model: Any) -> ReadingRoute:
    """The way taken for this model; through `get_decoder()` where none was."""
    whole = causal(model)
    return _ROUTES.get(whole) or ReadingRoute(whole.get_decoder())


def completion_hidden(model: Any, batch: ScoreBatch) -> Hidden:
    """Hidden states that score the completion tokens, with gradient where the model has one."""
    whole, route = causal(model), route_of(model)
    groups = route.groups(batch.row_lengths)
    if len(groups) == 1:
        states, form = _states(whole, route, batch.input_ids, batch.position_ids, batch.sees)
        scored_by = batch.scored_by
    else:
        states, form, scored_by = _states_apart(whole, route, batch, groups)
    # Completions of one prompt are scored by the same position, whose gradients add up: indexing
    # with [] would let two threads add them in either order.
    scoring = states.reshape(-1, states.shape[-1]).index_select(0, scored_by)
    return Hidden(scoring, form)


def _states(
    whole: Any, route: ReadingRoute, ids: Tensor, positions: Tensor | None, sees: Tensor | None
) -> tuple[Tensor, type[Any] | None]:
    """(B, L, D) of ids (B, L), and the output's type; logits (B, L, V) without a backbone."""
    packed = {} if positions is None else {"position_ids": positions, "attention_mask": sees}
    if route.backbone is None:
        return whole(input_ids=ids, use_cache=False, **packed).logits, None
    output = route.backbone(input_ids=ids, use_cache=False, **packed)
    return output.last_hidden_state, type(output)


def _states_apart(
    whole: Any, route: ReadingRoute, batch: ScoreBatch, groups: list[list[int]]
) -> tuple[Tensor, type[Any] | None, Tensor]:
    """States (N', D) of the groups' rows, each group in a pass, and where `scored_by` lies there.

    Such models are read without packs: each row has the positions 0, 1, 2 …
    """
    width = batch.input_ids.shape[1]
    parts: list[Tensor] = []
    moved = torch.zeros(batch.input_ids.numel(), dtype=torch.long)
    first, form = 0, None
    for rows in groups:
        length = max(batch.row_lengths[row] for row in rows)
        states, form = _states(whole, route, batch.input_ids[rows, :length], None, None)
        parts.append(states.reshape(-1, states.shape[-1]))
        for row in rows:
            moved[row * width : row * width + length] = torch.arange(first, first + length)
            first += length
    return torch.cat(parts), form, moved.to(batch.scored_by.device)[batch.scored_by]


@contextmanager
def recomputing(model: Any) -> Iterator[None]:
    """Inside, layers that were told to checkpoint their activations do so.

    transformers does that only in training mode, where dropout is on and caches are dropped: only
    the layers' own flag is set, what is inside them stays in evaluation mode, and not for longer
    than a forward pass.
    """
    layers = [
        m
        for m in causal(model).modules()
        if isinstance(m, GradientCheckpointingLayer) and m.gradient_checkpointing
    ]
    for layer in layers:
        layer.training = True
    try:
        yield
    finally:
        for layer in layers:
            layer.training = False


def logits_of(model: Any, hidden: Hidden, *, vocab: int, widened: bool = True) -> Tensor:
    """Logits (N, vocab) of hidden states (N, D), in float32 or better; as they are, if not
    `widened`.

    `vocab` cuts them to the ids that student and teacher share.
    """
    if hidden.form is None:
        logits: Tensor = hidden.states[:, :vocab]
    else:
        answer = hidden.form(last_hidden_state=hidden.states.unsqueeze(0))
        with _returning(route_of(model).backbone, answer):
            ignored = torch.zeros((1, 1), dtype=torch.long, device=hidden.states.device)
            whole = causal(model)(input_ids=ignored, use_cache=False)
        logits = whole.logits[0, :, :vocab]
    return wide(logits) if widened else logits


def wide(logits: Tensor) -> Tensor:
    """In float32 or better: differences of two of them, of the size of a rounding to bfloat16, are
    what is trained."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


@contextmanager
def _returning(backbone: nn.Module, answer: Any) -> Iterator[None]:
    """Inside, the backbone returns this answer, whatever it is given."""
    backbone.forward = lambda *_, **__: answer
    try:
        yield
    finally:
        del backbone.forward


def spans(tokens: int, *, vocab: int, limit: int) -> list[slice]:
    """Cuts N tokens into pieces of at most `limit` values of tokens × vocabulary."""
    size = max(1, limit // vocab)
    return [slice(first, min(first + size, tokens)) for first in range(0, tokens, size)]


def piece_values(vocab: int, device: torch.device) -> int:
    """How many values of tokens × vocabulary are made at a time.

    On a GPU a power of two that its free memory holds several times, so that a run that resumes
    beside slightly more or less memory adds up the same pieces.
    """
    if device.type == "cpu":
        return min(CHUNK_VALUES, max(CACHED_VALUES, PIECE_TOKENS * vocab))
    free = allocatable_memory(device)
    if free is None:
        return CHUNK_VALUES
    fitting = max(1, int(free * CARD_SHARE / (4 * CARD_COPIES)))
    return max(CACHED_VALUES, min(CARD_VALUES, 1 << (fitting.bit_length() - 1)))
