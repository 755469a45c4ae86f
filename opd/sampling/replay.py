"""What a GPU does for every token, captured once and replayed without its host."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch

from opd.devices.choice import give_back_memory
from opd.errors import lacks_memory, one_line

log = logging.getLogger(__name__)

# What was captured last keeps its memory, and the next capture takes it over. On its own each would
# ask the driver for some, and get none as long as it lies unused in the allocator's cache.
_LAST: dict[torch.device, torch.cuda.CUDAGraph] = {}


class Replay:
    """Calls of a function that reads and writes only tensors that stay where they are.

    `device` is where they are. With `captures`, the first call runs it as it is, the second
    captures it as a CUDA graph, and that and all further ones replay the graph, until `forget` is
    called because a tensor moved or a shape changed. Without, every call runs it; so does each from
    where it cannot be captured, which sets `captures` to False.
    """

    def __init__(
        self, function: Callable[[], None], *, device: torch.device, captures: bool
    ) -> None:
        self._function, self._device, self.captures = function, device, captures
        self._graph: torch.cuda.CUDAGraph | None = None
        self._warm = False

    def __call__(self) -> None:
        if not self.captures:
            self._function()
        elif self._graph is None and not self._warm:
            with _aside(self._device):
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
        """None where it cannot be. While it is captured, the allocator gives back nothing that it
        keeps unused: where memory lacks, it does so before a second try."""
        for again in (False, True):
            try:
                return self._capture()
            except RuntimeError as error:
                if lacks_memory(error) and not again:
                    give_back_memory()
                    continue
                log.warning("sampling without a CUDA graph, which is slower: %s", one_line(error))
                self.captures = False
                break
        return None

    def _capture(self) -> torch.cuda.CUDAGraph:
        """Nothing runs meanwhile. `torch.cuda.graph` would first empty the allocator's cache, and
        in older versions collect garbage, which takes as long as a hundred tokens."""
        graph, last = torch.cuda.CUDAGraph(), _LAST.get(self._device)
        with _aside(self._device):
            graph.capture_begin(
                pool=None if last is None else last.pool(), capture_error_mode="thread_local"
            )
            try:
                self._function()
            finally:
                graph.capture_end()
        _LAST[self._device] = graph
        return graph


@contextmanager
def _aside(device: torch.device) -> Iterator[None]:
    """On a stream of the device's own, as graphs are captured; always the same one, whose workspace
    for matrix products then outlives every graph. The device is the current one inside."""
    current, stream = torch.cuda.current_stream(device), _stream(device)
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        yield
    current.wait_stream(stream)


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def captures(device: torch.device) -> bool:
    """Autocast keeps its casts of weights from call to call, where a graph must not."""
    return device.type == "cuda" and not torch.is_autocast_enabled("cuda")
