"""The parts by name. A part's module is loaded only when it runs: its packages may be missing."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class BenchmarkPart:
    """A function of one of this package's modules, what it shows, and its limit in seconds."""

    module: str
    function: str
    help: str
    limit: float = 120.0


PARTS = {
    "table": BenchmarkPart(
        "whole_steps", "table", "a whole step by phase, all weights and LoRA", 180
    ),
    "compiled": BenchmarkPart(
        "whole_steps", "compiled", "the same by torch.compile, with its start", 180
    ),
    "generate": BenchmarkPart("others", "generate", "transformers' generate"),
    "trl": BenchmarkPart("others", "trl_bfloat16", "TRL, all in bfloat16", 180),
    "trl-mixed": BenchmarkPart("others", "trl_mixed", "TRL, float32 weights under bf16=True", 180),
    "as-trl": BenchmarkPart(
        "whole_steps", "as_trl", "whole steps in TRL's precisions, with its checkpointing", 180
    ),
    "shares": BenchmarkPart("shares", "shares", "student and teacher by the bfloat16 peak"),
    "shares-compiled": BenchmarkPart(
        "shares", "compiled", "the same by torch.compile, with its start", 180
    ),
    "decode": BenchmarkPart("decode", "decode", "a token step by rows and length", 180),
    "records": BenchmarkPart("records", "records", "records against the processor's float64"),
    "memory": BenchmarkPart("memory", "memory", "the doctor's plan against the peak", 240),
    "resume": BenchmarkPart("resume", "resume", "a run killed and resumed"),
}


def figures_of(part: str, bench: Any) -> Iterator[Any]:
    """The part's lines as they come, each a `Figures`."""
    entry = PARTS[part]
    module = import_module(f"bench.gpu.{entry.module}")
    function: Callable[[Any], Iterator[Any]] = getattr(module, entry.function)
    return function(bench)
