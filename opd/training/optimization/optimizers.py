"""The optimizer of a run, its learning rate and the limit of its gradient's norm."""

import math
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from opd.config.run import RunConfig
from opd.errors import ErrorKind, UserError
from opd.training.optimization.stochastic_adamw import StochasticAdamW

MOMENTS = 2  # of a parameter, each of its size
BLOCK, SCALE = 256, 4  # moments in 8 bits that share a scale, and its bytes


def make_optimizer(trained: Sequence[Tensor], config: RunConfig) -> torch.optim.Optimizer:
    """AdamW over what is trained. Raises UserError for 8 bits without bitsandbytes.

    On a GPU one fused kernel takes many parameters at a time, in place of one a parameter.
    """
    settings = config.optimizer
    options: dict[str, Any] = {
        "lr": settings.learning_rate,
        "betas": (settings.beta1, settings.beta2),
        "weight_decay": settings.weight_decay,
    }
    if config.student.weights == "bfloat16":
        return StochasticAdamW(trained, seed=config.seed, **options)
    if settings.name == "adamw":
        fused = True if all(p.device.type == "cuda" for p in trained) else None
        return torch.optim.AdamW(trained, fused=fused, **options)
    if find_spec("bitsandbytes") is None:
        raise UserError(
            "adamw_8bit needs bitsandbytes: pip install 'opd-studio[quantized]'",
            where="optimizer.name",
            kind=ErrorKind.MISSING_EXTRA,
        )
    from bitsandbytes.optim import AdamW8bit  # noqa: PLC0415 - an optional extra

    optimizer: torch.optim.Optimizer = AdamW8bit(trained, **options)
    return optimizer


def bytes_of_first_step(optimizer: torch.optim.Optimizer) -> int:
    """Of the moments that the next step makes: two for each parameter that has none yet."""
    settings = getattr(optimizer, "args", None)  # bitsandbytes', which keeps small ones wide
    narrow_from = settings.min_8bit_size if settings and settings.optim_bits == 8 else math.inf
    total = 0
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        count = parameter.numel()
        if not optimizer.state.get(parameter):
            in_8_bits = count + SCALE * math.ceil(count / BLOCK)
            total += MOMENTS * (in_8_bits if count >= narrow_from else parameter.nbytes)
    return total


def learning_rate(config: RunConfig, step: int) -> float:
    """The step's rate; steps count from 1. Linear warm-up over `warmup_steps`, then by `decay`.

    With s of the S steps after the warm-up done before: 1, 1 − s/S, or (1 + cos(π s/S)) / 2 of it.
    """
    settings = config.optimizer
    warm = min(1.0, step / max(1, settings.warmup_steps))
    done = max(0, step - 1 - settings.warmup_steps)
    left = 1 - min(1.0, done / max(1, config.steps - settings.warmup_steps))
    shares = {"none": 1.0, "linear": left, "cosine": (1 - math.cos(math.pi * left)) / 2}
    return settings.learning_rate * warm * shares[settings.decay]


def clip(parameters: Iterable[Tensor], limit: float) -> Tensor:
    """Scales the gradients to a norm of at most `limit`; returns the norm that they had.

    Squares are added in float32 also where the gradients are in bfloat16: 8 bits are too few for a
    sum of many.
    """
    trained = [p for p in parameters if p.grad is not None]
    norms = [
        torch.linalg.vector_norm(p.grad, dtype=torch.float32)
        for p in trained
        if p.grad is not None and p.grad.dtype == torch.bfloat16
    ]
    if not norms:
        return torch.nn.utils.clip_grad_norm_(trained, limit)
    norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    torch.nn.utils.clip_grads_with_norm_(trained, limit, norm)
    return norm
