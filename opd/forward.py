"""Hidden states and logits of given completions, by the model's own forward pass.

Logits of prompts and padding are never made, and those of completions only for as many tokens at a
time as the caller asks for: tokens × vocabulary would fill the memory. What a model does to logits
after its head (soft-capping, scaling) is its own code's: its forward pass is run with the decoder
standing in for the given hidden states.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from opd.align import ScoreBatch

CHUNK_VALUES = 2**24  # tokens × vocabulary at a time: 64 MB in float32


@dataclass(frozen=True)
class Hidden:
    """states (N, D): what scores the N completion tokens; `form` is the decoder's output type."""

    states: Tensor
    form: type[Any]


def causal(model: Any) -> Any:
    """The causal LM itself, inside whatever holds its adapters."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def completion_hidden(model: Any, batch: ScoreBatch) -> Hidden:
    """Hidden states that score the completion tokens, with gradient where the model has one."""
    positions = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device)
    output = causal(model).get_decoder()(
        input_ids=batch.input_ids,
        position_ids=positions.expand_as(batch.input_ids),
        use_cache=False,
    )
    states: Tensor = output.last_hidden_state
    return Hidden(states.reshape(-1, states.shape[-1])[batch.scored_by], type(output))


@contextmanager
def recomputing(model: Any) -> Iterator[None]:
    """Inside, layers that were told to checkpoint their activations do so.

    transformers does that in training mode alone, where dropout is on and caches are dropped: only
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
    with _answering(whole.get_decoder(), hidden):
        place = torch.zeros((1, 1), dtype=torch.long, device=hidden.states.device)
        logits: Tensor = whole(input_ids=place, use_cache=False).logits[0, :, :vocab]
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def completion_logits(model: Any, batch: ScoreBatch, *, vocab: int) -> Tensor:
    """Logits (N, vocab) that score the N completion tokens, all at once."""
    return logits_of(model, completion_hidden(model, batch), vocab=vocab)


@contextmanager
def _answering(decoder: nn.Module, hidden: Hidden) -> Iterator[None]:
    """Inside, the decoder answers with these hidden states, whatever it is given."""
    answer = hidden.form(last_hidden_state=hidden.states.unsqueeze(0))
    decoder.forward = lambda *_, **__: answer
    try:
        yield
    finally:
        del decoder.forward


def spans(tokens: int, *, vocab: int, limit: int = CHUNK_VALUES) -> list[slice]:
    """Cuts N tokens into pieces of at most `limit` values of tokens × vocabulary."""
    size = max(1, limit // vocab)
    return [slice(first, min(first + size, tokens)) for first in range(0, tokens, size)]


def pieces(hidden: Hidden, cuts: Sequence[slice]) -> Iterator[Hidden]:
    for cut in cuts:
        yield Hidden(hidden.states[cut], hidden.form)
