"""A decoder whose tensors stay where they are, so that a GPU can replay a token without its host.

A thousand kernels a token of a small model cost more to launch than to run. Captured once as a
CUDA graph they cost their running time, if nothing in them depends on what only the host knows: the
cache has room for the whole batch from the start, and where the next token goes is a number on the
device. Attention reads the cache up to a border that the host moves, and with it the graph ends.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from opd.models.forward import causal, logits_of
from opd.models.routes import keeps_or_slides
from opd.sampling.decoder import Slots, read_prompts, to_the_right

BORDER = 128  # slots between two borders
PREFILL_TOKENS = 16_384  # of prompts and padding that are read in one pass
KINDS = {"full_attention", "sliding_attention"}


def takes(model: Any) -> bool:
    """Does the model take a mask of our own over keys and values of all tokens?"""
    config = causal(model).config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    sliding = "sliding_attention" in kinds
    return bool(
        keeps_or_slides(config)
        and kinds <= KINDS
        and (sliding or not getattr(config, "sliding_window", None))
        and config._attn_implementation in ("sdpa", "eager")
    )


@dataclass
class Window:
    """Where in all caches of a decoder its next token goes, and how much of them attention sees.

    Apart from the decoder, since a layer that knew its decoder would keep it, and the memory of all
    its layers, until the collector of garbage comes by.
    """

    cursor: Tensor  # (1,) of the next token, on the device
    shown: int = 0  # slots that attention looks at


class FixedSlots(DynamicLayer):  # type: ignore[misc]  # transformers is not typed
    """One layer's keys and values of all rows (B, heads, capacity, size), written and shown as the
    decoder's window says."""

    _buffers: list[Tensor]
    _window: Window

    @classmethod
    def of(cls, read: Slots, rows: int, capacity: int, window: Window) -> "FixedSlots":
        """Of that many rows, empty, in the shape of what a layer has read of prompts.

        Zeros, since what is masked still meets a weight of 0.
        """
        layer = cls()
        layer._window = window
        layer._buffers = [
            held.new_zeros((rows, held.shape[1], capacity, held.shape[3]))
            for held in (read.keys, read.values)
        ]
        layer.dtype, layer.device = read.keys.dtype, read.keys.device
        layer.is_initialized = True
        return layer

    def fill(self, rows: Tensor, read: Slots, sources: Tensor, slots: Tensor) -> None:
        """Gives these rows the prompts `sources`, moved as `slots` (rows, longest) says."""
        index = slots[:, None, :, None]
        for held, new in zip(self._buffers, (read.keys, read.values), strict=True):
            taken = new[sources]
            shape = (*taken.shape[:2], slots.shape[1], taken.shape[3])
            held[:, :, : slots.shape[1]].index_copy_(0, rows, taken.gather(2, index.expand(shape)))

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        for held, new in zip(self._buffers, (key_states, value_states), strict=True):
            held.index_copy_(2, self._window.cursor, new)
        self.keys, self.values = (b[:, :, : self._window.shown] for b in self._buffers)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return self._window.shown

    def keep(self, rows: Tensor) -> None:
        self._buffers = [held[rows] for held in self._buffers]


class FixedDecoder:
    """A `Decoder` by the model's own forward pass, over `FixedSlots` for `room` new tokens."""

    def __init__(
        self, model: Any, *, vocab: int, pad_id: int, device: torch.device, room: int
    ) -> None:
        self._model, self._vocab, self._pad_id, self._device = model, vocab, pad_id, device
        self._room = room
        self._layers: list[FixedSlots] = []
        self._config = causal(model).config.get_text_config()
        self._sliding = "sliding_attention" in (getattr(self._config, "layer_types", None) or ())
        self._window = Window(torch.zeros(1, dtype=torch.long, device=device))

    def prefill(
        self, prompts: Sequence[Sequence[int]], rows: Sequence[int], shared: int = 0
    ) -> Tensor:
        lengths = [len(p) for p in prompts]
        longest = max(lengths)
        self._capacity = longest + self._room
        self._layers = []
        logits = []
        for part in _parts(lengths):
            mine = [i for i, row in enumerate(rows) if part.start <= row < part.stop]
            filled, sources = (
                self._on_device(mine),
                self._on_device([rows[i] - part.start for i in mine]),
            )
            cache = Cache(layer_class_to_replicate=Slots)
            read = read_prompts(
                *(self._model, cache, prompts[part]),
                pad_id=self._pad_id,
                device=self._device,
                shared=shared,
            )
            logits.append(logits_of(self._model, read.last, vocab=self._vocab))
            slots = to_the_right(read.lengths, longest)[sources]
            for number, layer in enumerate(cache.layers):
                if number == len(self._layers):
                    self._layers.append(
                        FixedSlots.of(layer, len(rows), self._capacity, self._window)
                    )
                self._layers[number].fill(filled, layer, sources, slots)
        self._cache = Cache(layers=self._layers)
        self._window.cursor.fill_(longest)
        self._window.shown = 0
        self.reach(longest + 1)
        return torch.cat(logits)[self._on_device(rows)]

    def _on_device(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(numbers).to(self._device)

    def reach(self, length: int) -> bool:
        """Lets attention look at caches of this length; True where its border moved."""
        moved = length > self._window.shown
        if moved:
            self._window.shown = min(self._capacity, -(-length // BORDER) * BORDER)
        return moved

    def step(self, tokens: Tensor, positions: Tensor, seen: Tensor | None) -> Tensor:
        logits: Tensor = self._model(
            input_ids=tokens.unsqueeze(1),
            position_ids=positions.unsqueeze(1),
            attention_mask=self._mask(len(tokens), seen),
            cache=self._cache,
            use_cache=True,
        ).logits[:, -1, : self._vocab]
        self._window.cursor += 1
        return logits

    def keep(self, rows: Tensor) -> None:
        for layer in self._layers:
            layer.keep(rows)

    def first(self, length: int) -> list[Slots] | None:
        return None  # its tensors stay where they are

    def _mask(self, rows: int, seen: Tensor | None) -> Any:
        """(B, 1, 1, shown), True where a row's next token looks; one for each kind of layer."""
        window = self._window
        slots = torch.arange(window.shown, device=self._device)
        visible = (slots <= window.cursor).expand(rows, -1)
        if seen is not None:
            visible = visible & seen[:, : window.shown]
        if not self._sliding:
            return self._as_mask(visible)
        near = visible & (slots > window.cursor - self._config.sliding_window)
        return {"full_attention": self._as_mask(visible), "sliding_attention": self._as_mask(near)}

    def _as_mask(self, visible: Tensor) -> Tensor:
        """What is added to the scores of attention, which would make it of booleans in each layer
        again."""
        dtype: torch.dtype = causal(self._model).dtype
        hidden = torch.full((), torch.finfo(dtype).min, dtype=dtype, device=self._device)
        return torch.where(visible[:, None, None, :], torch.zeros_like(hidden), hidden)


def _parts(lengths: Sequence[int]) -> Iterator[slice]:
    """Cuts prompts into parts of at most PREFILL_TOKENS with their padding; one at least each."""
    first, longest = 0, 0
    for i, length in enumerate(lengths):
        longest = max(longest, length)
        if i > first and (i + 1 - first) * longest > PREFILL_TOKENS:
            yield slice(first, i)
            first, longest = i, length
    yield slice(first, len(lengths))
