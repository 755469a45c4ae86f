"""What a GPU does for every token, captured once and replayed without its host."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch

from opd.errors import one_line, raise_lack_of_memory

log = logging.getLogger(__name__)


class Replay:
    """Calls of a function that reads and writes only tensors that stay where they are.

    With `captures`, the first call runs it as it is, the second captures it as a CUDA graph, and
    that and all further ones replay the graph, until `forget` is called because a tensor moved or
    a shape changed. Without, every call runs it; so does each from where it cannot be captured,
    which sets `captures` to False.
    """

    def __init__(self, function: Callable[[], None], *, captures: bool) -> None:
        self._function, self.captures = function, captures
        self._graph: torch.cuda.CUDAGraph | None = None
        self._warm = False

    def __call__(self) -> None:
        if not self.captures:
            self._function()
        elif self._graph is None and not self._warm:
            with _aside():
                self._function()
            self._warm = True
        else:
            if self._graph is None:
                self._graph = self._captured()
            if self._graph is None:
                self._function()
            else:
                self._graph.replay()

    def forget(self) -> None:
        self._graph, self._warm = None, False

    def _captured(self) -> torch.cuda.CUDAGraph | None:
        """Nothing runs while it is captured. `torch.cuda.graph` would first empty the allocator's
        cache, and in older versions collect garbage, which takes as long as a hundred tokens."""
        graph = torch.cuda.CUDAGraph()
        try:
            with _aside():
                graph.capture_begin(capture_error_mode="thread_local")
                try:
                    self._function()
                finally:
                    graph.capture_end()
        except RuntimeError as error:
            raise_lack_of_memory(error)
            log.warning("sampling without a CUDA graph, which is slower: %s", one_line(error))
            self.captures = False
            return None
        return graph


@contextmanager
def _aside() -> Iterator[None]:
    """On a stream of its own, as graphs are captured; always the same one, whose workspace for
    matrix products then outlives every graph."""
    current, stream = torch.cuda.current_stream(), _stream(torch.cuda.current_device())
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        yield
    current.wait_stream(stream)


@cache
def _stream(device: int) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def captures(device: torch.device) -> bool:
    """Autocast keeps its casts of weights from call to call, where a graph must not."""
    return device.type == "cuda" and not torch.is_autocast_enabled("cuda")
