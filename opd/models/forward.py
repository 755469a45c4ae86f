"""Hidden states and logits of given completions, by the model's own forward pass.

Logits of prompts and padding are never made, and those of completions only for as many tokens at a
time as the caller asks for: tokens × vocabulary would fill the memory. What a model does to logits
after its head (soft-capping, scaling) is its own code's: its forward pass is run with the decoder
standing in for the given hidden states.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from opd.models.batches import ScoreBatch, Sequences, score_batch
from opd.models.cost import model_cost

CHUNK_VALUES = 2**24  # tokens × vocabulary at a time: at most 64 MB in float32
CACHED_VALUES = 2**22  # on a processor, where pieces that fit its caches are twice as fast
PIECE_TOKENS = 128  # there no smaller pieces than these: each reads the whole head again


@dataclass(frozen=True)
class Hidden:
    """states (N, D): what scores the N completion tokens; `form` is the decoder's output type."""

    states: Tensor
    form: type[Any]

    def piece(self, cut: slice) -> "Hidden":
        return Hidden(self.states[cut], self.form)


def causal(model: Any) -> Any:
    """The causal LM itself, inside whatever holds its adapters."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def completion_hidden(model: Any, batch: ScoreBatch) -> Hidden:
    """Hidden states that score the completion tokens, with gradient where the model has one."""
    output = causal(model).get_decoder()(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        attention_mask=batch.sees,
        use_cache=False,
    )
    states: Tensor = output.last_hidden_state
    # Completions of one prompt are scored by the same position, whose gradients add up: indexing
    # with [] would let two threads add them in either order.
    scoring = states.reshape(-1, states.shape[-1]).index_select(0, batch.scored_by)
    return Hidden(scoring, type(output))


@torch.no_grad()
def pairs_per_token(model: Any) -> float:
    """How many pairs of attention cost as much as one token's matrices, for
    `opd.models.batches.packs`.

    0 where the model's attention takes no mask of our own (sliding windows, kernels without one),
    and where sequences that share a prompt come out different from the same ones apart.
    """
    config = causal(model).config.get_text_config()
    layer_types = getattr(config, "layer_types", None)
    windowed = (
        set(layer_types) != {"full_attention"}
        if layer_types
        else getattr(config, "sliding_window", None) is not None
    )
    if windowed or config._attn_implementation != "sdpa" or not _takes_packs(model):
        return 0.0
    cost = model_cost(causal(model))
    return cost.parameters / (2 * cost.layers * cost.width)


def _takes_packs(model: Any) -> bool:
    """Do three completions of one prompt score the same in one row as in three?"""
    weight = causal(model).get_output_embeddings().weight
    toy = Sequences([[1, 2, 3]] * 3, [[4, 5, 6], [2, 1], [3, 3, 1, 2]])
    together, apart = (
        completion_hidden(
            model, score_batch(toy, pad_id=0, device=weight.device, pairs_per_token=ratio)
        ).states.float()
        for ratio in (math.inf, 0.0)
    )
    size = float(apart.abs().max())
    tolerance = 1e-3 if weight.dtype in (torch.float32, torch.float64) else 0.1
    return bool((together - apart).abs().max() <= tolerance * size)


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


def logits_of(model: Any, hidden: Hidden, *, vocab: int) -> Tensor:
    """Logits (N, vocab) of hidden states (N, D), in float32 or better.

    `vocab` cuts them to the ids that student and teacher share.
    """
    whole = causal(model)
    with _returning(whole.get_decoder(), hidden):
        ignored = torch.zeros((1, 1), dtype=torch.long, device=hidden.states.device)
        logits: Tensor = whole(input_ids=ignored, use_cache=False).logits[0, :, :vocab]
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


@contextmanager
def _returning(decoder: nn.Module, hidden: Hidden) -> Iterator[None]:
    """Inside, the decoder returns these hidden states, whatever it is given."""
    answer = hidden.form(last_hidden_state=hidden.states.unsqueeze(0))
    decoder.forward = lambda *_, **__: answer
    try:
        yield
    finally:
        del decoder.forward


def spans(tokens: int, *, vocab: int, limit: int | None = None) -> list[slice]:
    """Cuts N tokens into pieces of at most `limit` values of tokens × vocabulary."""
    if limit is None and torch.cuda.is_available():
        limit = CHUNK_VALUES
    elif limit is None:
        limit = min(CHUNK_VALUES, max(CACHED_VALUES, PIECE_TOKENS * vocab))
    size = max(1, limit // vocab)
    return [slice(first, min(first + size, tokens)) for first in range(0, tokens, size)]
