"""One optimizer update: teacher and student read the rollouts, the loss is formed, Adam steps.

Departs from the published algorithm in one default: the loss is the exact reverse KL over the
vocabulary where the teacher is at hand, which has the same expected gradient as the sampled-token
policy gradient and far less variance. See `opd.objectives`.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch

from opd import divergences
from opd.align import ScoreBatch, completion_logits, micro_batches, score_batch
from opd.config import RunConfig
from opd.models import Pair
from opd.objectives import LossInputs, reduce, token_losses
from opd.rollouts import Written, sequences
from opd.sampling import Stopped
from opd.scoring import measure, records
from opd.types import TokenRecord, UserError


@dataclass
class Clock:
    """Seconds by phase of one step."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + spent


@dataclass(frozen=True)
class Update:
    """What an update did: one token record a rollout, and the figures of the step."""

    records: list[TokenRecord]
    same_top: float  # share of tokens where both models' likeliest token is the same
    loss: float
    grad_norm: float  # before clipping


def make_optimizer(model: torch.nn.Module, config: RunConfig) -> torch.optim.AdamW:
    settings = config.optimizer
    return torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad],
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        weight_decay=settings.weight_decay,
    )


def learning_rate(config: RunConfig, step: int) -> float:
    """Linear warm-up over `warmup_steps`, then constant; steps count from 1."""
    settings = config.optimizer
    return settings.learning_rate * min(1.0, step / max(1, settings.warmup_steps))


def update(
    pair: Pair,
    optimizer: torch.optim.Optimizer,
    written: Sequence[Written],
    config: RunConfig,
    clock: Clock,
    stop: Callable[[], bool],
) -> Update:
    """Accumulates the gradient over micro-batches, which add up to the whole batch, and steps.

    Raises UserError (kind "nan loss") before the weights are touched when the loss or its gradient
    is not finite, Stopped when asked to stop between micro-batches.
    """
    whole = sequences(written)
    tokens = whole.completion_tokens
    found: dict[int, TokenRecord] = {}
    total, same = 0.0, 0
    optimizer.zero_grad(set_to_none=True)
    for rows in micro_batches(whole, max_tokens=config.optimizer.micro_batch_tokens):
        if stop():
            raise Stopped
        batch = score_batch(whole.take(rows), pad_id=pair.pad_id, device=pair.device)
        with clock.phase("teacher"), torch.no_grad():
            teacher = _log_probs(pair.teacher, batch, pair, config)
        with clock.phase("student"):
            student = _log_probs(pair.student, batch, pair, config)
            sampler = [written[i].sample.sampler_logprobs for i in rows]
            inputs = LossInputs(
                student,
                teacher,
                batch.targets,
                torch.from_numpy(np.concatenate(sampler)).to(pair.device),
                torch.ones(len(batch.targets), device=pair.device),
            )
            losses = token_losses(inputs, config.objective)
            loss = reduce(losses.loss, tokens=tokens, reduction=config.objective.reduction)
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
            measures = measure(student, teacher, batch.targets, config.records.top_k)
            same += int(measures.same_top.sum())
            advantages = losses.advantages
            found |= zip(
                rows,
                records(
                    measures,
                    [written[i].sample.completion_ids for i in rows],
                    sampler=sampler,
                    advantages=None if advantages is None else advantages.cpu().numpy(),
                ),
                strict=True,
            )
    with clock.phase("optimizer"):
        norm = _step(pair, optimizer, total, config)
    ordered = [found[i] for i in range(len(written))]
    return Update(ordered, same / tokens, total, norm)


def _log_probs(
    model: torch.nn.Module, batch: ScoreBatch, pair: Pair, config: RunConfig
) -> torch.Tensor:
    logits = completion_logits(model, batch, vocab=pair.vocab)
    return divergences.log_probs(logits, config.sampling.temperature)


def _step(pair: Pair, optimizer: torch.optim.Optimizer, loss: float, config: RunConfig) -> float:
    trained = [p for p in pair.student.parameters() if p.requires_grad]
    norm = float(torch.nn.utils.clip_grad_norm_(trained, config.optimizer.max_grad_norm))
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise UserError(
            f"the loss is {loss} and its gradient's norm {norm}: lower "
            "optimizer.learning_rate, or look at the last step's worst tokens for an id that the "
            "teacher rules out",
            where="optimizer",
            kind="nan loss",
        )
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm
