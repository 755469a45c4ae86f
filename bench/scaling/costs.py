"""Seconds of each phase of a step, from FLOPs, bytes and the rates that a device reaches.

A workload is `groups`: for each prompt its tokens, and those of each of its completions.

    a token of r rows    token + max(FLOPs / decode_flops, (weights + keys and values) / bandwidth)
    prompts, teacher     run · passes + forward FLOPs / read_flops
    student              run · passes + 3 (with an adapter 2) · forward FLOPs / train_flops
    optimizer            update + 28 B · trained / bandwidth
    all-reduce           2 (n − 1) / n · 4 B · trained / link

FLOPs are those of `opd.models.cost`: 2N a token and attention.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from opd.models.architecture import Architecture
from opd.models.cost import ModelCost, causal_pairs

Groups = Sequence[tuple[int, Sequence[int]]]
UPDATE_BYTES = (
    28  # AdamW reads weight, gradient and two moments, and writes three of them, in float32
)
GRADIENT_BYTES = 4
COMPACT_AT = 0.75  # as in opd.sampling.sample; a test compares them


@dataclass(frozen=True)
class Rates:
    """What one device reaches: FLOP/s, bytes/s, seconds."""

    decode_flops: float
    read_flops: float
    train_flops: float
    bandwidth: float
    token: float = 0.0  # seconds of a token of all rows beside its work
    run: float = 0.0  # seconds of a pass beside its work
    update: float = 0.0  # seconds of the optimizer beside its work
    link: float = math.inf  # bytes/s between devices


@dataclass(frozen=True)
class ModelSize:
    cost: ModelCost
    parameters: int
    cached: int  # numbers of a token's keys and values
    value: float  # bytes of a number while it computes
    trained: int = 0
    around: int = 0  # of what is trained, beside the layers: whole in each where layers are cut

    @classmethod
    def of(cls, model: Architecture, value: float, adapter: int | None = None) -> "ModelSize":
        """All weights are trained, or an adapter of so many."""
        cost = ModelCost(model.matrices, model.layers, model.heads * model.head_dim)
        ends = model.embedding * (1 if model.tied else 2)
        trained, around = (model.parameters, ends) if adapter is None else (adapter, 0)
        return cls(cost, model.parameters, model.cached, value, trained, around)

    @property
    def bytes(self) -> float:
        return self.parameters * self.value


@dataclass(frozen=True)
class Engine:
    """How rows are written: in batches of `rows`, of which a finished row leaves once at most
    `compact_at` of the batch go on; or `continuous`: a row that ends makes room for the next."""

    rows: int
    continuous: bool = False
    compact_at: float = COMPACT_AT


def token_seconds(rates: Rates, model: ModelSize, rows: int, context: int) -> float:
    """One token of each row; `context` is the sum of their lengths."""
    flops = model.cost.forward(rows, context)
    moved = model.bytes + context * model.cached * model.value
    return rates.token + max(flops / rates.decode_flops, moved / rates.bandwidth)


def prompt_seconds(rates: Rates, model: ModelSize, prompts: Sequence[int]) -> float:
    """Reading the prompts of a batch, each once, in one pass."""
    flops = sum(model.cost.forward(n, causal_pairs(0, n)) for n in prompts)
    return rates.run + flops / rates.read_flops if prompts else 0.0


def held_rows(lengths: Sequence[int], compact_at: float) -> Iterator[int]:
    """Rows that each token after the first is computed for, finished ones that have not left too.

    The first token comes from reading the prompts."""
    ended, going = Counter(lengths), len(lengths)
    held = going
    for written in range(1, max(lengths, default=0)):
        going -= ended[written]
        held = going if going <= compact_at * held else held
        yield held


def contexts(groups: Groups) -> Iterator[tuple[int, int]]:
    """Of each token after the first: rows that go on, and the sum of the tokens that they meet."""
    rows = sorted((n, prompt) for prompt, completions in groups for n in completions)
    going, prompts, first = len(rows), sum(prompt for _, prompt in rows), 0
    for t in range(1, max((n for n, _ in rows), default=0)):
        while rows[first][0] <= t:
            going, prompts, first = going - 1, prompts - rows[first][1], first + 1
        yield going, prompts + going * t


def batch_seconds(rates: Rates, model: ModelSize, groups: Groups, compact_at: float) -> float:
    """One batch from its prompts to its last token; rows stand as wide as the longest prompt."""
    prompts = [prompt for prompt, _ in groups]
    lengths = [n for _, completions in groups for n in completions]
    return prompt_seconds(rates, model, prompts) + sum(
        token_seconds(rates, model, held, held * (max(prompts) + t))
        for t, held in enumerate(held_rows(lengths, compact_at), start=1)
    )


def sampling_seconds(rates: Rates, model: ModelSize, engine: Engine, groups: Groups) -> float:
    """All groups on one device. Exact but for a continuous engine with more rows than places."""
    if not engine.continuous:
        return sum(
            batch_seconds(rates, model, part, engine.compact_at)
            for part in batches(groups, engine.rows)
        )
    if sum(len(completions) for _, completions in groups) > engine.rows:
        return _queued_seconds(rates, model, engine, groups)
    tokens = sum(token_seconds(rates, model, *sizes) for sizes in contexts(groups))
    return prompt_seconds(rates, model, [prompt for prompt, _ in groups]) + tokens


def _queued_seconds(rates: Rates, model: ModelSize, engine: Engine, groups: Groups) -> float:
    """All places are taken until the queue is empty; then, as long as the longest row, half of
    them in the mean. Approximate: the simulation counts."""
    prompts = [p for p, _ in groups]
    lengths = [n for _, completions in groups for n in completions]
    width = sum(p * len(c) + sum(c) / 2 for p, c in groups) / len(lengths)

    def seconds(rows: float) -> float:
        return token_seconds(rates, model, round(rows), round(rows * width))

    longest = max(lengths)
    waiting = max(0.0, sum(lengths) / engine.rows - longest / 2)
    reading = prompt_seconds(rates, model, prompts)
    return reading + waiting * seconds(engine.rows) + longest * seconds(engine.rows / 2)


def batches(groups: Groups, size: int) -> list[Groups]:
    """Of at most `size` rows and whole groups, in the order of their prompts' lengths."""
    parts: list[list[tuple[int, Sequence[int]]]] = []
    rows = size
    for prompt, completions in sorted(groups, key=lambda group: group[0]):
        if rows + len(completions) > size:
            parts.append([])
            rows = 0
        parts[-1].append((prompt, completions))
        rows += len(completions)
    return list(parts)


def forward_flops(model: ModelSize, groups: Groups, *, shared: bool) -> float:
    """One pass over all completions; `shared`: a group's prompt is read once for all of them."""
    total = 0.0
    for prompt, completions in groups:
        start = prompt if shared else 0
        total += model.cost.forward(start, causal_pairs(0, start))
        total += sum(
            model.cost.forward(prompt + n - start, causal_pairs(start, prompt + n))
            for n in completions
        )
    return total


def read_tokens(groups: Groups, *, shared: bool) -> int:
    return sum((1 if shared else len(c)) * p + sum(c) for p, c in groups)


def reading_seconds(
    rates: Rates, model: ModelSize, groups: Groups, *, shared: bool, passes: int = 1
) -> float:
    """The teacher reads all completions."""
    return rates.run * passes + forward_flops(model, groups, shared=shared) / rates.read_flops


def training_seconds(
    rates: Rates,
    model: ModelSize,
    groups: Groups,
    *,
    shared: bool,
    passes: int = 1,
    times: float = 3,
) -> float:
    """The student's forward and backward: `times` a forward pass."""
    flops = times * forward_flops(model, groups, shared=shared)
    return rates.run * passes + flops / rates.train_flops


def updating_seconds(
    rates: Rates, model: ModelSize, devices: int = 1, *, cut: bool = False
) -> float:
    """All-reduce of the gradients among `devices`, then AdamW. Where layers are `cut`, only what
    stands around them is all-reduced, and each device updates its part of the layers."""
    layers = model.trained - model.around
    reduced, held = (model.around, layers / devices) if cut else (model.trained, layers)
    exchanged = 2 * (devices - 1) / devices * GRADIENT_BYTES * reduced
    moved = UPDATE_BYTES * (model.around + held)
    return rates.update + exchanged / rates.link + moved / rates.bandwidth


def gathering_seconds(rates: Rates, model: ModelSize, devices: int, *, learns: bool) -> float:
    """What a pass exchanges where layers are cut (FSDP2): all of them gathered once, and where
    gradients are taken gathered again, and the gradients scattered in float32."""
    share = (devices - 1) / devices
    gathered = (2 if learns else 1) * (model.parameters - model.around) * model.value
    scattered = GRADIENT_BYTES * (model.trained - model.around) if learns else 0.0
    return share * (gathered + scattered) / rates.link
