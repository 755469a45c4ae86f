"""What a vLLM server that is started for a run takes of its device's memory. Free of torch.

An estimate, by vLLM's sizes; on a GPU nobody has measured it yet. The server is started with the
cache as it is here, and with the sum as its limit.
"""

from dataclasses import dataclass

from opd.models.architecture import Architecture

BLOCK = 16  # tokens of a piece of the cache, of which each completion's last is not full
TOKENS_AT_ONCE = 8192  # --max-num-batched-tokens
LOGIT_COPIES = 4  # of each completion's in float32: as they come, scaled, as log-probs, sorted
PROCESS = 1_200_000_000  # bytes of a GPU's context, libraries and graphs; on a processor, libraries
UNKNOWN_CACHE = 2**32  # of a model whose shape is not known


@dataclass(frozen=True)
class ServerLoad:
    """`rows` completions of `context` tokens at once, in numbers of `value` bytes; `adapted`: the
    parameters of an adapter that is loaded."""

    rows: int
    context: int
    value: float
    adapted: int = 0


@dataclass(frozen=True)
class ServerShare:
    """Bytes."""

    weights: int
    cache: int  # keys and values
    work: int  # what is computed at once, and what every process takes

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.work

    def parts(self, load: ServerLoad) -> list[tuple[str, int, str]]:
        """Name, bytes, and what they follow from."""
        return [
            (
                "weights",
                self.weights,
                f"{self.weights / load.value / 1e6:.1f} M × {load.value:g} B",
            ),
            ("keys and values", self.cache, f"{load.rows} rows × {load.context} tokens"),
            ("workspace", self.work, "what is read at once, logits, libraries"),
        ]


def share_of(parameters: int, shape: Architecture | None, load: ServerLoad) -> ServerShare:
    """Weights: (parameters + twice an adapter) × bytes: one is loaded beside the other. Keys and
    values: rows × (context + a block) × layers × 2 × key heads × head size × bytes. Work: tokens at
    once × (6 · hidden + 3 · feed-forward) × bytes, and logits in float32."""
    weights = round((parameters + 2 * load.adapted) * load.value)
    if shape is None:
        return ServerShare(weights, UNKNOWN_CACHE, PROCESS)
    cache = load.rows * (load.context + BLOCK) * shape.cached * load.value
    read = min(TOKENS_AT_ONCE, load.rows * load.context)
    reading = read * load.value * (6 * shape.hidden + 3 * shape.intermediate)
    logits = load.rows * shape.vocab * 4.0 * LOGIT_COPIES
    return ServerShare(weights, round(cache), round(reading + logits) + PROCESS)
