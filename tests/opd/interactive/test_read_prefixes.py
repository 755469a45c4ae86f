"""What is kept of chats: bounded, let go oldest first, never written to."""

import psutil
import pytest
import torch

from opd.devices import choice
from opd.interactive.read_prefixes import ReadPrefix, ReadPrefixes
from opd.sampling.decoder import Slots
from tests.support.devices.tested import DEVICE

pytestmark = pytest.mark.device

BYTES = 2 * 3 * 5 * 2 * 4  # keys and values, heads, tokens, size, float32


def layer(value: float = 1.0, tokens: int = 5) -> Slots:
    slots = Slots()
    slots.update(*(torch.full((1, 3, tokens, 2), value, device=DEVICE) for _ in range(2)))
    return slots


def kept(prefixes: ReadPrefixes, chat: str, *ids: int, model: str = "student") -> None:
    slots = layer()
    # room for more is memory too
    assert slots.nbytes >= BYTES
    prefixes.of(chat).keep(model, "student", ReadPrefix(list(ids or range(5)), [slots]))


def test_the_longest_start_leaves_a_token_to_read() -> None:
    prefixes = ReadPrefixes()
    kept(prefixes, "one", 1, 2, 3, 4, 5)
    chat = prefixes.of("one")
    chat.keep("student", "teacher", ReadPrefix([1, 2, 9, 9, 9], [layer(2.0)]))
    for ids, length, value in (
        ((1, 2, 3, 4, 5), 4, 1.0),
        ((1, 2, 3, 4, 5, 6), 5, 1.0),
        ((1, 2, 3, 8), 3, 1.0),
        ((1, 2, 9, 9, 8), 4, 2.0),
    ):
        (start,) = chat.longest("student", ids)
        assert start.length == start.keys.shape[2] == length
        assert bool((start.values == value).all())
    for nothing in ((1,), (2, 1), (7, 2, 3)):
        assert chat.longest("student", nothing) == []
    assert chat.longest("teacher", (1, 2, 3)) == [], "another model has read nothing"


def test_a_chat_finds_only_its_own() -> None:
    prefixes = ReadPrefixes()
    kept(prefixes, "one")
    assert prefixes.of("two").longest("student", range(9)) == []
    for _ in range(2):
        assert prefixes.of(None).longest("student", range(9)) == []
        prefixes.of(None).keep("student", "student", ReadPrefix(list(range(5)), [layer()]))
    assert prefixes.of("one").longest("student", range(9)) != []


def test_what_is_kept_is_not_written_to() -> None:
    whole = layer()
    start = whole.first(3)
    assert start.keys.data_ptr() == whole.keys.data_ptr(), "a view until more is read"
    start.update(*(torch.zeros((1, 3, 1, 2), device=DEVICE) for _ in range(2)))
    assert (start.length, whole.length) == (4, 5)
    assert bool((whole.keys == 1).all()) and bool((start.keys[:, :, 3] == 0).all())
    whole.update(*(torch.full((1, 3, 1, 2), 7.0, device=DEVICE) for _ in range(2)))
    assert bool((start.keys[:, :, :3] == 1).all())


def test_the_oldest_chats_go_first() -> None:
    prefixes = ReadPrefixes(limit=2 * layer().nbytes)
    for chat in ("one", "two", "three"):
        kept(prefixes, chat)
    prefixes.of("one")  # which is written in again
    prefixes.trim(DEVICE)
    left = [c for c in ("two", "three", "one") if prefixes.of(c).longest("student", range(9))]
    assert left == ["three", "one"]
    kept(prefixes, "one", model="teacher")
    kept(prefixes, "one", 1, 2, 3, 4, 5)  # in place of what it had read
    prefixes.trim(DEVICE)
    assert prefixes.of("three").nbytes == 0
    assert prefixes.of("one").nbytes == 2 * layer().nbytes
    prefixes = ReadPrefixes(limit=layer().nbytes - 1)
    kept(prefixes, "one")
    prefixes.trim(DEVICE)
    assert not prefixes.forget(), "one that is too much by itself goes too"


def test_no_more_is_kept_than_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    prefixes = ReadPrefixes()
    for chat in ("one", "two"):
        kept(prefixes, chat)
    free = layer().nbytes + 1

    class Memory:
        available = free

    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory)
    monkeypatch.setattr(choice, "allocatable_memory", lambda device: None)
    prefixes.trim(DEVICE)
    assert (prefixes.of("one").nbytes, prefixes.of("two").nbytes) == (0, layer().nbytes)
    monkeypatch.setattr(choice, "allocatable_memory", lambda device: free - 2)
    prefixes.trim(DEVICE)
    assert not prefixes.forget()


def test_all_of_it_is_let_go() -> None:
    prefixes = ReadPrefixes()
    assert not prefixes.forget()
    kept(prefixes, "one")
    assert prefixes.forget() and not prefixes.forget()
    assert prefixes.of("one").longest("student", range(9)) == []
