"""Floating-point operations by formula, not by a profiler.

A token costs 2N forward and 4N backward (2N with a low-rank adapter, whose frozen weights need no
gradient), N being the matrix parameters that a token meets, and attention 4·w·c a layer forward
(scores and mixing; w: heads × head size, c: tokens attended to), twice that backward. A training
step is therefore 8N a sampled token for the student and 2N for the teacher, plus prompts and
attention. Source: Kaplan et al., arXiv 2001.08361, section 2.1.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from opd.config.run import RunConfig
from opd.models.parameters import ROUTED, numbers_of, routed_share

SCALES = ("_scale", "_zero_point")  # beside quantized weights


@dataclass(frozen=True)
class ModelCost:
    """What decides the cost of one model's token."""

    parameters: int  # in matrices; an embedding counts where it also makes the logits
    layers: int
    width: int  # heads × head size

    def forward(self, tokens: int, attended: int) -> float:
        """FLOPs of `tokens` that attend to `attended` tokens in all."""
        return 2.0 * self.parameters * tokens + 4.0 * self.layers * self.width * attended


def model_cost(model: Any) -> ModelCost:
    """Counts a transformers model's matrices, without adapter weights and embedding look-ups.

    Of a mixture's experts, as many count as a token is routed to; those that all tokens pass
    through count in full.
    """
    head = getattr(model.get_output_embeddings(), "weight", None)
    lookups = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)} - {id(head)}
    config = model.config.get_text_config()
    share = routed_share(config.to_dict())
    matrices = {
        id(p): numbers_of(p) * (share if ROUTED.search(n) else 1.0)
        for n, p in model.named_parameters()
        if p.ndim >= 2 and "lora_" not in n and id(p) not in lookups and not n.endswith(SCALES)
    }
    heads = getattr(config, "num_attention_heads", None) or 0  # recurrent models have none
    if not isinstance(heads, int):  # layer by layer
        heads = max(heads)
    size = getattr(config, "head_dim", None) or config.hidden_size // max(1, heads)
    return ModelCost(round(sum(matrices.values())), config.num_hidden_layers, heads * size)


def causal_pairs(start: int, end: int) -> int:
    """Σ of the context length over positions start … end − 1; position t attends to t + 1."""
    return (end * (end + 1) - start * (start + 1)) // 2


def sampling_flops(student: ModelCost, groups: Iterable[tuple[int, list[int]]]) -> float:
    """Prompts read once a group: (prompt length, completion lengths) each."""
    total = 0.0
    for prompt, completions in groups:
        total += student.forward(prompt, causal_pairs(0, prompt))
        # The last token of a completion is sampled but never read.
        total += sum(
            student.forward(n - 1, causal_pairs(prompt, prompt + n - 1)) for n in completions
        )
    return total


def scoring_flops(model: ModelCost, lengths: Iterable[int]) -> float:
    """One forward pass over whole sequences."""
    return sum(model.forward(n, causal_pairs(0, n)) for n in lengths)


def update_flops(
    config: RunConfig, student: ModelCost, teacher: ModelCost | None, lengths: Sequence[int]
) -> float:
    """The student's passes over whole sequences, and the one of the teacher that reads them."""
    judging = 0.0 if teacher is None else scoring_flops(teacher, lengths)
    return training_passes(config) * scoring_flops(student, lengths) + judging


def training_passes(config: RunConfig, *, recomputes: bool = False) -> float:
    """How many forward passes a step's training costs.

    3 for forward and backward, 2 with an adapter; one more each where activations are recomputed,
    as is set or as was chosen by the memory, and where the reference reads.
    """
    passes = 3.0 if config.student.lora is None else 2.0
    recomputes = recomputes or bool(config.student.gradient_checkpointing)
    again = recomputes + bool(config.objective.reference_kl)
    return passes + again
