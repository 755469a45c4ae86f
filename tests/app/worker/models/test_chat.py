"""What models have read of a chat between its requests, and when it goes."""

import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from app.worker.models import chat, process
from app.worker.models.request import ModelCache, ModelRequest
from opd.sampling import fast_decoder
from storage.data_dir import DataDir
from storage.queue import requests
from tests.support.stored_runs import me

QUESTION = "Ada has 12 apples. Ada buys 9 more. How many apples does Ada have?"

Ask = Callable[..., dict[str, Any]]


@pytest.fixture
def cache(tmp_path: Path) -> ModelCache:
    return ModelCache(DataDir(tmp_path))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens the decoders were given to read at once, their own trials left out."""
    lengths: list[int] = []
    forward = fast_decoder.FastDecoder._read

    def noted(self: Any, ids: Any) -> Any:
        if ids.shape[1] > 4:
            lengths.append(ids.shape[1])
        return forward(self, ids)

    monkeypatch.setattr(fast_decoder.FastDecoder, "_read", noted)
    return lengths


@pytest.fixture
def ask(engine: Engine, tmp_path: Path, cache: ModelCache, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Asks for a reply by the student, on the processor; → the request when it has ended."""
    monkeypatch.setattr(os, "cpu_count", lambda: 1)

    def ended(*said: str, answer: Any = chat.chat, **changes: Any) -> dict[str, Any]:
        roles = ("user", "assistant") * len(said)
        messages = [{"role": r, "content": s} for r, s in zip(roles, said, strict=False)]
        payload = {
            **{"run": None, "recipe": "demo", "checkpoint": None, "device": "cpu"},
            **{"temperature": 0.9, "max_new_tokens": 4, "seed": 3, "session": "tab"},
            "conversations": {"student": messages},
            **changes,
        }
        name = requests.enqueue(engine, "chat", payload)
        assert requests.claim(engine, me()) is not None
        request = ModelRequest(payload, engine, DataDir(tmp_path), cache)
        process._answer(name, answer, request)
        return requests.read_request(engine, name)

    return ended


def ids_of(request: dict[str, Any]) -> list[int]:
    (reply,) = request["answer"]["replies"]
    ids: list[int] = reply["ids"]
    return ids


def test_a_session_does_not_read_its_prompt_again(ask: Ask, read: list[int]) -> None:
    fresh = ask(QUESTION, session=None)
    length = read[0]
    assert read == [length] * 2
    assert ids_of(ask(QUESTION)) == ids_of(fresh) and read == [length] * 4
    assert ids_of(ask(QUESTION)) == ids_of(fresh) and read == [length] * 4, "but its last token"
    assert ids_of(ask(QUESTION, session="another tab")) == ids_of(fresh)
    assert read == [length] * 6, "sessions share nothing"


def test_it_goes_with_the_models(ask: Ask, cache: ModelCache) -> None:
    def kept() -> weakref.ref[Any]:
        (layer, *_) = cache._models.prefixes.of("tab").longest("student", ids)
        return weakref.ref(layer._buffers[0].untyped_storage())

    reply = ask(QUESTION)["answer"]["replies"][0]
    ids = (*reply["prompt_ids"], *reply["ids"])
    first = kept()
    assert first() is not None
    ask(QUESTION, recipe="demo-grpo")  # which has no teacher
    assert first() is None
    second = kept()
    assert second() is not None
    cache.release()
    assert second() is None and not cache.forget_chats()


def test_what_is_kept_gives_way_where_memory_lacks(
    ask: Ask, cache: ModelCache, read: list[int]
) -> None:
    length = len(ask(QUESTION)["answer"]["replies"][0]["prompt_ids"])
    kept = []

    def lacking(request: ModelRequest, progress: Any) -> dict[str, Any]:
        kept.append(cache._models.prefixes.of("tab").nbytes)
        if kept[-1]:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return chat.chat(request, progress)

    answered = ask(QUESTION, answer=lacking)
    assert answered["state"] == "done" and len(kept) == 2 and kept[1] == 0 < kept[0]
    assert read == [length] * 4, "read again, by the models that are in memory still"


def test_where_nothing_gives_way_it_is_told(ask: Ask, cache: ModelCache) -> None:
    tries = []

    def lacking(request: ModelRequest, progress: Any) -> dict[str, Any]:
        tries.append(request)
        raise MemoryError

    for expected in (1, 3):  # the second time a chat is kept
        refused = ask(QUESTION, answer=lacking)
        assert (refused["state"], refused["error_kind"]) == ("failed", "out of memory")
        assert len(tries) == expected
        ask(QUESTION)
