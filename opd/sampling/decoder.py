"""Decoders by a transformers causal LM's own forward pass: with a cache written in place, with the
model's own cache, and without any."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from opd.models.batches import Sequences, score_batch
from opd.models.forward import Hidden, causal, completion_hidden, logits_of, route_of

WORTH_A_PASS = 512  # tokens not read, for which another pass is made


class Decoder(Protocol):
    """Reads prompts, then one token a row at a time. Caches hold prompts at their right end."""

    def prefill(
        self, prompts: Sequence[Sequence[int]], rows: Sequence[int], shared: int = 0
    ) -> Tensor:
        """Reads each prompt once; row i of the batch continues prompts[rows[i]]. Logits (B, V).

        The first `shared` tokens, which all prompts have in common, need to be read only once.
        """

    def step(self, tokens: Tensor, positions: Tensor, seen: Tensor | None) -> Tensor:
        """Reads one token a row, (B,) at positions (B,); `seen` (B, ≥ length) is False on padding.

        Returns the logits (B, V) of what comes next.
        """

    def keep(self, rows: Tensor) -> None:
        """Keeps only these rows."""

    def first(self, length: int) -> "list[Slots] | None":
        """Keys and values of the first `length` tokens of its only row, layer by layer, for a
        decoder that starts with them; None where they are not kept apart."""


class Slots(DynamicLayer):  # type: ignore[misc]  # transformers is not typed
    """One layer's keys and values in a buffer that grows by half, written in place.

    transformers' own layer copies everything for every token.
    """

    length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True
        self.hold(key_states[:, :, :0], value_states[:, :, :0], key_states.shape[2])

    def hold(self, keys: Tensor, values: Tensor, room: int = 0) -> None:
        """Takes these (B, heads, length, size) as the contents, with room for more."""
        self.length = keys.shape[2]
        capacity = self.length + max(room, self.length // 2 + 64)
        self._buffers = []
        for held in (keys, values):
            buffer = held.new_empty((*held.shape[:2], capacity, held.shape[3]))
            buffer[:, :, : self.length] = held
            self._buffers.append(buffer)
        self._show()

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.length + key_states.shape[2]
        if end > self._buffers[0].shape[2]:
            self.hold(self.keys, self.values, key_states.shape[2])
        self._buffers[0][:, :, self.length : end] = key_states
        self._buffers[1][:, :, self.length : end] = value_states
        self.length = end
        self._show()
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        self.hold(self.keys[indices], self.values[indices])

    def first(self, length: int) -> "Slots":
        """The first `length` of these tokens: a view, which is copied before more is written."""
        start = Slots()
        start.dtype, start.device, start.is_initialized = self.dtype, self.device, True
        start.length = length
        start._buffers = [b[:, :, :length] for b in self._buffers]
        start._show()
        return start

    @property
    def nbytes(self) -> int:
        """What it keeps in memory, room for more included."""
        return sum(b.untyped_storage().nbytes() for b in self._buffers)

    def _show(self) -> None:
        self.keys, self.values = (b[:, :, : self.length] for b in self._buffers)


def pad_right(prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """ids (n, longest) padded on the right, and lengths (n,)."""
    longest = max(len(p) for p in prompts)
    ids = torch.tensor([[*prompt, *[pad_id] * (longest - len(prompt))] for prompt in prompts])
    return ids, torch.tensor([len(p) for p in prompts])


def shared_start(prompts: Sequence[tuple[int, ...]]) -> int:
    """How many tokens all prompts begin with, one at least left of each; 0 where reading them once
    saves less than another pass costs."""
    first, last = min(prompts), max(prompts)  # what these two share, those between share as well
    most = min(len(p) for p in prompts) - 1
    length = common_start(first[:most], last[:most])
    return length if (len(prompts) - 1) * length >= WORTH_A_PASS else 0


def common_start(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens both begin with."""
    pairs = zip(first, second, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def to_the_right(lengths: Tensor, width: int | None = None) -> Tensor:
    """(n, width): the slot whose content moves to each slot, so that every prompt ends last; the
    width is by default that of the longest.

    Prompts are read padded on the right, where nothing sees the padding, and moved afterwards: read
    padded on the left, some attention kernels meet rows that see nothing, which gives NaN.
    """
    width = width or int(lengths.max())
    shift = torch.arange(width, device=lengths.device) - (width - lengths).unsqueeze(1)
    return shift.clamp(min=0)


def end_together(layers: Sequence[Slots], lengths: Tensor, rows: Sequence[int]) -> None:
    """Makes row i of what was read, padded on the right, that of prompt rows[i], which ends last;
    prompts are of these lengths (n,)."""
    if len(lengths) == 1 and len(rows) == 1:
        return
    source = to_the_right(lengths)[:, None, :, None]
    for layer in layers:
        index = source.expand_as(layer.keys), source.expand_as(layer.values)
        keys, values = layer.keys.gather(2, index[0]), layer.values.gather(2, index[1])
        layer.hold(keys[list(rows)], values[list(rows)])


@dataclass(frozen=True)
class ReadPrompts:
    """The states (n, D) at the last token of each prompt, and their lengths (n,)."""

    last: Hidden
    lengths: Tensor


def read_prompts(
    model: Any,
    cache: Cache,
    prompts: Sequence[Sequence[int]],
    *,
    pad_id: int,
    device: torch.device,
    shared: int = 0,
) -> ReadPrompts:
    """Reads prompts into the cache of `Slots`, padded on the right, by the model's own forward
    pass; the first `shared` tokens, which all have in common, in a pass of their own. What the
    cache holds is the start of the only prompt."""
    if shared:
        _read(model, cache, torch.tensor([list(prompts[0][:shared])], device=device))
        for layer in cache.layers:
            layer.hold(*(x.expand(len(prompts), -1, -1, -1) for x in (layer.keys, layer.values)))
    start = cache.layers[0].length if cache.layers else 0
    ids, lengths = (t.to(device) for t in pad_right([p[start:] for p in prompts], pad_id))
    output = _read(model, cache, ids, start=start)
    ends = lengths - 1 + ids.shape[1] * torch.arange(len(ids), device=device)
    states = output.last_hidden_state
    last = Hidden(states.reshape(-1, states.shape[-1])[ends], type(output))
    return ReadPrompts(last, lengths + start)


def _read(model: Any, cache: Cache, ids: Tensor, start: int = 0) -> Any:
    """The model's output on ids (n, T) at the positions from `start` on."""
    positions = torch.arange(start, start + ids.shape[1], device=ids.device)
    return backbone_of(model)(
        input_ids=ids, cache=cache, use_cache=True, position_ids=positions.expand_as(ids)
    )


class ModelDecoder:
    """Decodes with the model's own forward pass, after the `start` of its only prompt."""

    def __init__(
        self,
        model: Any,
        *,
        vocab: int,
        pad_id: int,
        device: torch.device,
        start: Sequence[Slots] = (),
    ) -> None:
        self._model, self._vocab, self._pad_id, self._device = model, vocab, pad_id, device
        self._cache = Cache(layer_class_to_replicate=Slots)  # full length, in sliding layers too
        self._cache.layers.extend(start)

    def prefill(
        self, prompts: Sequence[Sequence[int]], rows: Sequence[int], shared: int = 0
    ) -> Tensor:
        read = read_prompts(
            *(self._model, self._cache, prompts),
            pad_id=self._pad_id,
            device=self._device,
            shared=shared,
        )
        end_together(self._cache.layers, read.lengths, rows)
        return logits_of(self._model, read.last, vocab=self._vocab)[list(rows)]

    def step(self, tokens: Tensor, positions: Tensor, seen: Tensor | None) -> Tensor:
        length = self._cache.layers[0].length + 1
        logits: Tensor = self._model(
            input_ids=tokens.unsqueeze(1),
            position_ids=positions.unsqueeze(1),
            attention_mask=None if seen is None else seen[:, :length].long(),
            cache=self._cache,
            use_cache=True,
        ).logits[:, -1, : self._vocab]
        return logits

    def keep(self, rows: Tensor) -> None:
        self._cache.batch_select_indices(rows)

    def first(self, length: int) -> list[Slots] | None:
        return [layer.first(length) for layer in self._cache.layers]


class OwnCacheDecoder:
    """Decodes with the cache that the model makes for itself: recurrent states, indexes, windows.

    Its prompts are of one length: nothing is ever padded, and the state of a row sees only it.
    """

    def __init__(self, model: Any, *, vocab: int, pad_id: int, device: torch.device) -> None:
        self._model, self._vocab, self._device = model, vocab, device
        self._cache: Any = None

    def prefill(
        self, prompts: Sequence[Sequence[int]], rows: Sequence[int], shared: int = 0
    ) -> Tensor:
        ids = torch.tensor([list(p) for p in prompts], device=self._device)
        output = backbone_of(self._model)(input_ids=ids, use_cache=True)
        self._cache = output.cache
        self.keep(torch.tensor(rows, device=self._device))
        last = Hidden(output.last_hidden_state[:, -1], type(output))
        return logits_of(self._model, last, vocab=self._vocab)[list(rows)]

    def step(self, tokens: Tensor, positions: Tensor, seen: Tensor | None) -> Tensor:
        output = self._model(input_ids=tokens.unsqueeze(1), cache=self._cache, use_cache=True)
        logits: Tensor = output.logits[:, -1, : self._vocab]
        return logits

    def keep(self, rows: Tensor) -> None:
        self._cache.reorder_cache(rows)  # which also repeats rows, and drops them

    def first(self, length: int) -> list[Slots] | None:
        return None  # a state, or a window, is that of all that was read


class RereadingDecoder:
    """Decodes without a cache: every token reads its whole row again. Slow, and right wherever
    scoring is."""

    def __init__(self, model: Any, *, vocab: int, pad_id: int, device: torch.device) -> None:
        self._model, self._vocab, self._pad_id, self._device = model, vocab, pad_id, device
        self._rows: list[list[int]] = []

    def prefill(
        self, prompts: Sequence[Sequence[int]], rows: Sequence[int], shared: int = 0
    ) -> Tensor:
        self._rows = [list(prompts[i]) for i in rows]
        return self._read()

    def step(self, tokens: Tensor, positions: Tensor, seen: Tensor | None) -> Tensor:
        for row, token in zip(self._rows, tokens.tolist(), strict=True):
            row.append(token)
        return self._read()

    def keep(self, rows: Tensor) -> None:
        self._rows = [self._rows[i] for i in rows.tolist()]

    def first(self, length: int) -> list[Slots] | None:
        return None

    def _read(self) -> Tensor:
        """Logits (B, V) of what follows each row: of a completion of one token, whatever it is."""
        ends = Sequences(self._rows, [[self._pad_id]] * len(self._rows))
        batch = score_batch(ends, pad_id=self._pad_id, device=self._device)
        return logits_of(self._model, completion_hidden(self._model, batch), vocab=self._vocab)


def backbone_of(model: Any) -> Any:
    backbone = route_of(model).backbone
    if backbone is None:
        raise NotImplementedError(f"{type(causal(model)).__name__} has no hidden states of its own")
    return backbone
