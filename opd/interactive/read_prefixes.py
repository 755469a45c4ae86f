"""What the models have read of chats stays in memory, so that the next prompt of a chat, which
begins as the one before, is read from where it differs.

A chat finds only what was read for itself. Nothing that is kept is ever written to: whoever goes on
from it copies it first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from opd.devices.choice import free_bytes
from opd.sampling.decoder import Slots, common_start
from opd.types import Author

LIMIT = 2**30  # bytes of all chats


class ReadRow(Protocol):
    """A row that a model has read."""

    @property
    def ids(self) -> list[int]:
        """Its tokens so far."""

    def first(self, length: int) -> list[Slots] | None:
        """Keys and values of its first tokens; None where they cannot be had."""


@dataclass(frozen=True)
class ReadPrefix:
    """What stays of a `ReadRow` that has ended: keys and values of all its tokens."""

    ids: list[int]
    layers: list[Slots]

    def first(self, length: int) -> list[Slots] | None:
        return [layer.first(length) for layer in self.layers]


class ChatPrefixes:
    """What each model, "student" or "teacher", has read last of each author's conversation."""

    def __init__(self) -> None:
        self._read: dict[tuple[str, Author], ReadRow] = {}

    def longest(self, model: str, ids: Sequence[int]) -> list[Slots]:
        """Keys and values of the longest start of these ids that the model has read, one token at
        least left; empty where there are none."""
        readings = [reading for (name, _), reading in self._read.items() if name == model]
        length, best = max(
            ((common_start(reading.ids, ids[:-1]), reading) for reading in readings),
            key=lambda common: common[0],
            default=(0, None),
        )
        return (best.first(length) or []) if best is not None and length else []

    def keep(self, model: str, author: Author, reading: ReadRow | None) -> None:
        """In place of what the model read before for this author; None: of nothing."""
        self._read.pop((model, author), None)
        if reading is not None:
            self._read[model, author] = reading

    @property
    def nbytes(self) -> int:
        """Of readings that have ended."""
        kept = [r for r in self._read.values() if isinstance(r, ReadPrefix)]
        return sum(layer.nbytes for reading in kept for layer in reading.layers)


class ReadPrefixes:
    """Those of all chats with loaded models, by the names of the chats."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._chats: dict[str, ChatPrefixes] = {}  # the newest last

    def of(self, chat: str | None) -> ChatPrefixes:
        """Of a chat without a name, nothing stays."""
        if chat is None:
            return ChatPrefixes()
        self._chats[chat] = self._chats.pop(chat, ChatPrefixes())
        return self._chats[chat]

    def trim(self, device: torch.device) -> None:
        """Lets go of the oldest chats until the others take no more than the limit, and than what
        is free beside them."""
        while self._chats and self._nbytes() > min(self._limit, free_bytes(device)):
            self._chats.pop(next(iter(self._chats)))

    def forget(self) -> bool:
        """Lets go of all of it; whether that was any."""
        held = self._nbytes() > 0
        self._chats.clear()
        return held

    def _nbytes(self) -> int:
        return sum(chat.nbytes for chat in self._chats.values())
