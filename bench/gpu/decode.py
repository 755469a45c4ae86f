"""A token step of sampling, by rows and length, beside what the card's memory allows."""

import statistics
from collections.abc import Iterator

import numpy as np
import torch

from bench.gpu.workbench import Figures, Workbench
from bench.support.endless import endless
from opd.models.load import Pair
from opd.sampling.sample import NEVER, Limits, Request
from opd.training.loading import Callbacks, load
from opd.training.rollouts import sample_by

ROWS, LENGTHS = (1, 16, 64, 256), (128, 1024, 4096)
MOST_TOKENS = 300_000  # of keys and values, 34 GB
FEW, MANY = 32, 160  # new tokens: their difference leaves the prompt's reading out
BUDGET = 6.0  # seconds of each length of each size


def decode(bench: Workbench) -> Iterator[Figures]:
    """`ms` is a token step of all rows; `limit ms` reads the weights and all keys and values once,
    as fast as the device copies."""
    config = bench.config()
    pair = endless(load(config, None, Callbacks())).pair
    bandwidth = copied_per_second(bench)
    yield Figures("copy", {"GB/s": bandwidth / 1e9})
    shape = pair.student.config
    weights = 2.0 * sum(p.numel() for p in pair.student.parameters())
    token = 2.0 * 2 * shape.num_hidden_layers * shape.num_key_value_heads * shape.head_dim
    draw = np.random.default_rng(0)
    few, many = (2, 6) if bench.small else (FEW, MANY)
    for length in (8,) if bench.small else LENGTHS:
        for rows in (1, 3) if bench.small else ROWS:
            if rows * (length + many) > MOST_TOKENS:
                continue
            prompts = draw.integers(3, 259, (rows, length))
            requests = [Request(p.tolist(), (0, 0, i, 0)) for i, p in enumerate(prompts)]
            spent = [seconds(bench, pair, requests, new) for new in (few, many)]
            ms = (spent[1] - spent[0]) / (many - few) * 1e3
            limit = (weights + rows * (length + many / 2) * token) / bandwidth * 1e3
            values = {"ms": ms, "limit ms": limit, "tokens/s": rows / ms * 1e3}
            yield Figures(f"{rows} rows, {length} tokens before", values)


def seconds(bench: Workbench, pair: Pair, requests: list[Request], new: int) -> float:
    """Median of writing `new` tokens for each request."""

    def run() -> None:
        samples = sample_by(None, pair, requests, Limits(new, 1.0, len(requests)), NEVER)
        assert all(len(s.completion_ids) == new for s in samples)

    return statistics.median(bench.repeated(run, budget=BUDGET))


def copied_per_second(bench: Workbench) -> float:
    """Bytes read and written, the fastest of ten copies."""
    count = 10**6 if bench.small else 10**9
    source = torch.zeros(count, dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    return 2.0 * count / min(bench.repeated(lambda: target.copy_(source), times=10))
