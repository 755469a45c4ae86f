"""Finds out how a model has to be read, by reading a few tokens, or refuses it.

A model is read fast where that gives what one unpadded row gives: hidden states of its backbone,
many rows padded on the right in one pass, completions of one prompt in one row. Each of these is
tried on toy rows when the model is loaded, and given up where the numbers differ.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from opd.config.layer_kinds import rope_switch
from opd.errors import ErrorKind, UserError, one_line, raise_lack_of_memory
from opd.models.batches import Sequences, score_batch
from opd.models.cost import model_cost
from opd.models.forward import (
    ReadingRoute,
    causal,
    completion_hidden,
    logits_of,
    route_of,
    take_route,
)


@dataclass(frozen=True)
class BatchComparison:
    """Rows read as a batch against each by itself. `difference` is the largest between
    log-probabilities of completion tokens, in nats; `agrees`: no more than rounding."""

    agrees: bool
    difference: float


# The second row is the start of the first one: what follows must not show in it.
TOY = Sequences([[3, 4], [3, 4], [5, 4, 3]], [[5, 3, 4, 5], [5, 3], [4, 4, 3, 5, 3, 4]])
EXACT, ROUNDED = 1e-3, 0.1  # of the largest logit, in float32 and in fewer bits
# What a model's own code raises for arguments it does not take.
CANNOT = (
    *(AssertionError, AttributeError, IndexError, KeyError, LookupError),
    *(NotImplementedError, RuntimeError, TypeError, ValueError),
)


@torch.no_grad()
def find_route(model: Any, *, where: str) -> ReadingRoute:
    """Takes and returns the fastest way to read the model that gives its own numbers.

    Raises UserError at `where` for a model whose numbers cannot be had: one that sees what follows
    a token, draws random numbers, or needs more than text.
    """
    try:
        expected = toy_logits(causal(model))
    except CANNOT as error:
        raise_lack_of_memory(error)
        reason = f"its forward pass fails on plain text: {one_line(error)}"
        raise refused(model, reason, where) from None
    if not bool(expected.isfinite().all()):  # broken weights, which the first loss names
        return route_of(model)
    if not close(causal(model), toy_logits(causal(model)), expected):
        raise refused(model, "it gives other logits each time it reads the same tokens", where)
    switch = rope_switch(causal(model).config.get_text_config().to_dict())
    for route in _routes(causal(model), switch):
        take_route(model, route)
        if _agrees(causal(model), expected):
            return route
    raise refused(
        model,
        "its logits at a token change with the tokens that follow: it reads in both directions, "
        "and no token's probability is that of a next token",
        where,
    )


@torch.no_grad()
def compare_batch(
    model: Any, rows: Sequences, *, pad_id: int, pairs_per_token: float = 0.0
) -> BatchComparison:
    """Reads the rows by the model's route, padded or packed, and each by itself."""
    whole = causal(model)
    expected = torch.cat(_alone(whole, rows))
    batch = score_batch(
        rows, pad_id=pad_id, device=expected.device, pairs_per_token=pairs_per_token
    )
    actual = logits_of(whole, completion_hidden(whole, batch), vocab=expected.shape[-1])
    targets = batch.targets.unsqueeze(1)
    at = (logits.log_softmax(-1).gather(1, targets) for logits in (actual, expected))
    difference = float(torch.cat(list(at), dim=1).diff(dim=1).abs().max())
    return BatchComparison(close(whole, actual, expected), difference)


def check_lengths(model: Any, prompts: Iterable[int], new_tokens: int, *, where: str) -> None:
    """Refuses prompts, by their lengths, whose completions may pass from the model's short rotary
    factors to its long ones: the same token would have two probabilities."""
    switch = route_of(model).switch
    if switch is None:
        return
    crossing = [n for n in prompts if n <= switch < n + new_tokens - 1]
    if crossing:
        raise UserError(
            f"the model takes other rotary factors (LongRoPE) for rows of more than {switch} "
            f"tokens, and {len(crossing)} prompts may begin below and end above with "
            f"sampling.max_new_tokens {new_tokens}, the longest of {max(crossing)} tokens; let "
            f"prompts and completions stay within {switch} tokens in all, or give prompts of more "
            f"than {switch}",
            where=where,
            kind=ErrorKind.REFUSED_MODEL,
        )


def refused(model: Any, reason: str, where: str) -> UserError:
    name = type(causal(model)).__name__
    return UserError(f"{name} cannot be used: {reason}", where=where, kind=ErrorKind.REFUSED_MODEL)


@torch.no_grad()
def pairs_per_token(model: Any) -> float:
    """How many pairs of attention cost as much as one token's matrices, for
    `opd.models.batches.packs`.

    0 where the model's attention takes no mask of our own (sliding windows, recurrent layers,
    kernels without one), and where sequences that share a prompt come out different from the same
    ones apart. 0 on a GPU: without a mask its fused kernel skips what a position does not see and
    lets queries share their keys; with one, keys are repeated and all pairs are computed.
    """
    whole, route = causal(model), route_of(model)
    config = whole.config.get_text_config()
    if whole.get_output_embeddings().weight.device.type != "cpu":
        return 0.0
    if route.backbone is None or route.alone or route.switch is not None:
        return 0.0
    plain = keeps_everything(config) and not getattr(config, "sliding_window", None)
    if not plain or config._attn_implementation != "sdpa" or not _takes_packs(model):
        return 0.0
    cost = model_cost(whole)
    return cost.parameters / (2 * cost.layers * cost.width)


def keeps_everything(config: Any) -> bool:
    """Does each layer keep keys and values of all tokens, and nothing else?"""
    return _layer_types(config) <= {DynamicLayer}


def keeps_or_slides(config: Any) -> bool:
    """Do all layers keep keys and values, of all tokens or of a window, and nothing else?"""
    return _layer_types(config) <= {DynamicLayer, DynamicSlidingWindowLayer}


def _layer_types(config: Any) -> set[type]:
    """What transformers keeps in this model's layers between two tokens."""
    try:
        return {type(layer) for layer in DynamicCache(config=config).layers}
    except CANNOT:
        return {object}


def close(model: Any, actual: Tensor, expected: Tensor) -> bool:
    """Are logits (N, V) the same but for rounding? In few bits a mixture's experts may change at
    single tokens; a wrong position or state shows in most of them."""
    largest = float(expected.abs().max())
    difference = (actual - expected).abs().amax(-1)
    few_bits = torch.is_autocast_enabled(expected.device.type)
    if model.dtype in (torch.float32, torch.float64) and not few_bits:
        return bool((difference <= EXACT * largest).all())
    return bool(difference.median() <= ROUNDED * largest)


def _routes(whole: Any, switch: int | None) -> Iterator[ReadingRoute]:
    backbones = [whole.get_decoder(), whole.base_model, getattr(whole, "model", None)]
    for backbone in dict.fromkeys(backbones):
        if backbone is not None and backbone is not whole:
            yield ReadingRoute(backbone, switch=switch)
    yield ReadingRoute(None, switch=switch)
    yield ReadingRoute(None, alone=True)


def _agrees(whole: Any, expected: Tensor) -> bool:
    batch = score_batch(TOY, pad_id=0, device=expected.device)
    try:
        hidden = completion_hidden(whole, batch)
        actual = logits_of(whole, hidden, vocab=expected.shape[-1])
    except CANNOT as error:
        raise_lack_of_memory(error)
        return False
    return actual.shape == expected.shape and close(whole, actual, expected)


@torch.no_grad()
def toy_logits(whole: Any) -> Tensor:
    """Logits (N, V) of TOY's completions, each row by itself; the second row's are the first's."""
    first, second, third = _alone(whole, TOY.take([0, 0, 2]))
    return torch.cat([first, second[: len(TOY.completions[1])], third])


def _alone(whole: Any, rows: Sequences) -> list[Tensor]:
    """Logits (completion tokens, V) of each row by itself."""
    device = next(whole.parameters()).device
    of_rows = []
    for prompt, completion in zip(rows.prompts, rows.completions, strict=True):
        ids = torch.tensor([[*prompt, *completion[:-1]]], device=device)
        logits = whole(input_ids=ids, use_cache=False).logits[0].float()
        of_rows.append(logits[len(prompt) - 1 :])
    return of_rows


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
