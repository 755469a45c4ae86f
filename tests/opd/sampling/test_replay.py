"""Replaying: what is called, and when it is captured anew. CUDA's graphs are stood in for."""

from contextlib import nullcontext

import pytest
import torch

from opd.sampling import replay
from opd.sampling.replay import Replay, captures


class Graph:
    """Records what was captured in it, and runs that on replay."""

    def __init__(self) -> None:
        self.recorded: list[str] = []
        self.replays = 0

    def capture_begin(self, **_: object) -> None:
        open_graphs.append(self)

    def capture_end(self) -> None:
        open_graphs.remove(self)

    def replay(self) -> None:
        self.replays += 1


open_graphs: list[Graph] = []


@pytest.fixture
def graphs(monkeypatch):
    made: list[Graph] = []

    def graph() -> Graph:
        made.append(Graph())
        return made[-1]

    monkeypatch.setattr(torch.cuda, "CUDAGraph", graph)
    monkeypatch.setattr(replay, "_aside", nullcontext)
    return made


def test_without_a_gpu_every_call_runs_the_function(graphs):
    calls: list[int] = []
    advance = Replay(lambda: calls.append(1), captures=captures(torch.device("cpu")))
    for _ in range(3):
        advance()
    assert len(calls) == 3 and not graphs


def test_the_first_call_warms_up_and_the_second_is_captured_and_replayed(graphs):
    ran: list[bool] = []
    advance = Replay(lambda: ran.append(bool(open_graphs)), captures=True)
    for _ in range(4):
        advance()
    assert ran == [False, True]  # once as it is, once captured, which runs nothing
    assert [g.replays for g in graphs] == [3]


def test_a_moved_tensor_is_captured_anew(graphs):
    advance = Replay(lambda: None, captures=True)
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

    advance = Replay(function, captures=True)
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

    advance = Replay(function, captures=True)
    for _ in range(3):
        advance()
    assert not advance.captures and len(graphs) == 1


def test_lack_of_memory_is_not_taken_for_something_that_cannot_be_captured(graphs):
    def function() -> None:
        if open_graphs:
            raise torch.OutOfMemoryError("CUDA out of memory")

    advance = Replay(function, captures=True)
    advance()
    with pytest.raises(torch.OutOfMemoryError):
        advance()
