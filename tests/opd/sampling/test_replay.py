"""Replaying: what is called, and when it is captured anew. CUDA's graphs are stood in for."""

from contextlib import nullcontext

import pytest
import torch

from opd.sampling import replay
from opd.sampling.replay import Replay, captures


class Graph:
    """Counts its replays, and knows whose memory it has."""

    def __init__(self) -> None:
        self.replays = 0
        self._pool: object = object()

    def capture_begin(self, *, pool: object = None, **_: object) -> None:
        self._pool = pool or self._pool
        open_graphs.append(self)

    def capture_end(self) -> None:
        open_graphs.remove(self)

    def replay(self) -> None:
        self.replays += 1

    def pool(self) -> object:
        return self._pool


open_graphs: list[Graph] = []
CPU = torch.device("cpu")


@pytest.fixture
def graphs(monkeypatch):
    made: list[Graph] = []

    def graph() -> Graph:
        made.append(Graph())
        return made[-1]

    monkeypatch.setattr(torch.cuda, "CUDAGraph", graph)
    monkeypatch.setattr(replay, "_aside", nullcontext)
    monkeypatch.setattr(replay, "_LAST", {})
    return made


def test_without_a_gpu_every_call_runs_the_function(graphs):
    calls: list[int] = []
    advance = Replay(lambda: calls.append(1), device=CPU, captures=captures(CPU))
    for _ in range(3):
        advance()
    assert len(calls) == 3 and not graphs


def test_the_first_call_warms_up_and_the_second_is_captured_and_replayed(graphs):
    ran: list[bool] = []
    advance = Replay(lambda: ran.append(bool(open_graphs)), device=CPU, captures=True)
    for _ in range(4):
        advance()
    assert ran == [False, True]  # once as it is, once captured, which runs nothing
    assert [g.replays for g in graphs] == [3]


def test_a_moved_tensor_is_captured_anew(graphs):
    advance = Replay(lambda: None, device=CPU, captures=True)
    for _ in range(3):
        advance()
    advance.forget()
    for _ in range(3):
        advance()
    assert [g.replays for g in graphs] == [2, 2]


def test_what_cannot_be_captured_is_said_and_runs_on_uncaptured(graphs, caplog):
    ran: list[bool] = []

    def function() -> None:
        if open_graphs:
            raise RuntimeError("operation not permitted when stream is capturing")
        ran.append(True)

    advance = Replay(function, device=CPU, captures=True)
    for _ in range(4):
        advance()
    assert len(ran) == 4 and len(graphs) == 1 and not open_graphs
    assert "not permitted" in caplog.text


def test_talk_of_pinned_memory_is_not_taken_for_a_lack_of_it(graphs):
    """What torch says of a mixture whose experts are looped over."""

    def function() -> None:
        if open_graphs:
            raise RuntimeError(
                "Cannot copy between CPU and CUDA tensors during CUDA graph capture unless the CPU "
                "tensor is pinned. Please use tensor.pin_memory() or pin_memory=True."
            )

    advance = Replay(function, device=CPU, captures=True)
    for _ in range(3):
        advance()
    assert not advance.captures and len(graphs) == 1


@pytest.mark.parametrize("lacking", [1, 2])
def test_memory_that_lies_unused_is_given_back_for_a_capture_that_lacks_it(
    graphs, monkeypatch, caplog, lacking
):
    given_back: list[int] = []
    monkeypatch.setattr(replay, "give_back_memory", lambda: given_back.append(len(graphs)))
    ran: list[bool] = []

    def function() -> None:
        if open_graphs and len(graphs) <= lacking:
            raise torch.OutOfMemoryError("CUDA out of memory")
        ran.append(bool(open_graphs))

    advance = Replay(function, device=CPU, captures=True)
    for _ in range(3):
        advance()
    assert given_back == [1] and len(graphs) == 2
    assert advance.captures == (lacking == 1)
    assert ran == ([False, True] if lacking == 1 else [False, False, False])
    assert ("out of memory" in caplog.text) == (lacking == 2)


def test_a_capture_takes_over_the_memory_of_the_one_before_on_its_card(graphs):
    for device in (CPU, torch.device("cuda:1"), CPU):
        advance = Replay(lambda: None, device=device, captures=True)
        for _ in range(2):
            advance()
    first, other, second = (graph.pool() for graph in graphs)
    assert first is second and other is not first


def test_a_capture_is_made_on_the_card_of_its_tensors(monkeypatch):
    """Whichever is the current one: on another, replays would do nothing."""
    cards: list[torch.device] = []

    class Stream:
        def __init__(self, device: torch.device) -> None:
            cards.append(device)

        def wait_stream(self, _: object) -> None:
            """Nothing is under way."""

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    second = torch.device("cuda:1")
    ran: list[bool] = []
    try:
        Replay(lambda: ran.append(True), device=second, captures=True)()
    finally:
        replay._stream.cache_clear()
    assert ran == [True] and cards == [second, second]
