"""AdamW of weights and moments that are held in bfloat16, 8 bits of precision each.

Rounded to the nearest, an update below 1/512 of a weight changes nothing, and a moment with a decay
near 1 never moves. So everything is computed in float32 and rounded up or down at random, to the
upper neighbour with the probability that makes the expectation exact.
Source: Zamirai et al., "Revisiting BFloat16 Training", arXiv 2010.06192.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

SLICE = 2**24  # values in float32 at a time, a few copies of them together
LOW_BITS = 16  # of a float32, which a bfloat16 does not have


class StochasticAdamW(torch.optim.Optimizer):
    """The random bits of a step follow from (seed, step, number of the parameter) and nothing else,
    so that a run that resumes draws those that it would have drawn."""

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        seed: int,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
        eps: float = 1e-8,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "eps": eps}
        super().__init__(params, defaults)
        self._seed = seed

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        number = 0
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._advance(parameter, group, number)
                number += 1

    def _advance(self, parameter: Tensor, group: dict[str, Any], number: int) -> None:
        state: dict[str, Any] = self.state[parameter]
        if not state:
            state["step"] = 0
            state["exp_avg"], state["exp_avg_sq"] = (
                torch.zeros_like(parameter, memory_format=torch.contiguous_format) for _ in range(2)
            )
        state["step"] += 1
        random = _generator((self._seed, state["step"], number), parameter.device)
        beta1, beta2 = group["betas"]
        rate = group["lr"] / (1 - beta1 ** state["step"])
        correction = 1 - beta2 ** state["step"]
        weights, moments, squares = (
            t.view(-1).split(SLICE) for t in (parameter, state["exp_avg"], state["exp_avg_sq"])
        )
        gradients = parameter.grad.reshape(-1).split(SLICE)  # type: ignore[union-attr]
        for w, m, v, g in zip(weights, moments, squares, gradients, strict=True):
            gradient = g.float()
            moment = m.float().lerp_(gradient, 1 - beta1)
            square = v.float().mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            m.copy_(rounded(moment, random))
            v.copy_(rounded(square, random))
            weight = w.float().mul_(1 - group["lr"] * group["weight_decay"])
            size = square.div_(correction).sqrt_().add_(group["eps"])
            w.copy_(rounded(weight.addcdiv_(moment, size, value=-rate), random))


def rounded(values: Tensor, random: torch.Generator) -> Tensor:
    """The float32 values as bfloat16, each up or down so that the expectation is the value."""
    noise = torch.randint(
        2**LOW_BITS, values.shape, dtype=torch.int32, device=values.device, generator=random
    )
    bits = values.view(torch.int32).add(noise).bitwise_and_(-(2**LOW_BITS))
    return bits.view(torch.float32).to(torch.bfloat16)


def _generator(key: tuple[int, ...], device: torch.device) -> torch.Generator:
    (seed,) = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(seed) >> 1)
