"""One optimizer update: teacher and student read the rollouts, the loss is formed, Adam steps.

Departs from the published algorithm in one default: the loss is the exact reverse KL over the
vocabulary where the teacher is at hand, which has the same expected gradient as the sampled-token
policy gradient and far less variance. See `opd.loss.objectives`.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opd.config.run import RunConfig
from opd.devices.choice import on_device
from opd.errors import ErrorKind, UserError
from opd.loss import divergences
from opd.loss.credit import check_weights, discounted, group_advantages, token_weights
from opd.loss.objective import LossInputs
from opd.loss.token_losses import row_scales, token_losses
from opd.models.compilation import Compilation, compilable
from opd.models.forward import Hidden, completion_hidden, recomputing, wide
from opd.models.load import Pair
from opd.models.tokenizers import special_ids
from opd.ranks.group import ALONE, Ranks
from opd.sampling.sample import NEVER, Sample, Stopped
from opd.teachers.local import Reading, Teacher, View, sampled_log_probs
from opd.teachers.routing import TeacherRouter
from opd.training.optimization.compute_copy import ComputeCopy
from opd.training.optimization.micro_batch_size import MicroBatchSize
from opd.training.optimization.optimizers import clip
from opd.training.rollouts import Completion, sequences
from opd.training.scoring import (
    MEASURED,
    Columns,
    Measures,
    batch_of,
    joined,
    measure,
    records,
    student_logits,
)
from opd.training.step.clock import Clock
from opd.types import Floats, TokenRecord

if TYPE_CHECKING:
    from opd.ranks.sharding import Shards

TRIED_TOKENS = 16  # of each completion that compilation is tried on


@dataclass(frozen=True)
class Learner:
    """Who learns, from whom: `reference` is the student as it started, where grpo asks for it."""

    pair: Pair
    optimizer: torch.optim.Optimizer
    config: RunConfig
    router: TeacherRouter  # empty where the objective needs no teacher
    reference: Teacher | None = None
    sizes: MicroBatchSize | None = None  # None: as configured
    copy: ComputeCopy | None = None  # None: the student itself computes
    compilation: Compilation | None = None  # None: nothing is compiled
    ranks: Ranks = ALONE  # who else trains these weights
    shards: "Shards | None" = None  # None: each process holds all of every model

    @property
    def trained(self) -> list[torch.nn.Parameter]:
        """What is trained, as far as this process holds it."""
        return trained_of(self.pair.student, self.shards)

    @property
    def trained_by_all(self) -> list[torch.nn.Parameter]:
        """What every process holds and has to have alike."""
        return self.shards.whole(self.trained) if self.shards else self.trained

    def computes(self) -> Pair:
        """The pair whose student reads what is trained on: the student or its copy."""
        return self.copy() if self.copy else self.pair


def trained_of(student: Any, shards: "Shards | None") -> list[torch.nn.Parameter]:
    """What the process holds of the parameters that are trained, in the model's order."""
    trained = [p for p in student.parameters() if p.requires_grad]
    return shards.here(trained) if shards else trained


@dataclass(frozen=True)
class Update:
    """What an update did: one token record a rollout, and the figures of the step."""

    records: list[TokenRecord]
    same_top: float | None  # share of tokens where both models' likeliest token is the same
    loss: float
    grad_norm: float  # before clipping


@dataclass(frozen=True)
class _Credit:
    """What belongs to a completion before its tokens are read."""

    weights: Floats  # (T,) of its tokens
    scale: float  # of its losses, by the reduction
    reward: float | None  # relative to its group; None where nobody asks


def update(
    learner: Learner, completions: Sequence[Completion], clock: Clock, stop: Callable[[], bool]
) -> Update:
    """Accumulates the gradient over micro-batches, which add up to the whole batch, and steps.

    Raises UserError (kind "nan loss") before the weights are touched when the loss or its gradient
    is not finite, Stopped when asked to stop between micro-batches.
    """
    learner.optimizer.zero_grad(set_to_none=True)
    pair, ranks = learner.computes(), learner.ranks
    rows = list(zip(completions, _credit_of(learner, completions), strict=True))
    tokens = [float(len(c.sample.completion_ids)) for c in completions]
    share = rows[ranks.spans(tokens)[ranks.rank]]

    def accumulated() -> _Gradient:
        with _compiling(learner, pair, completions):
            return _accumulate(learner, pair, share, clock, stop)

    gradient = _joined(ranks.each(accumulated))
    with clock.phase("optimizer"):
        if learner.shards:
            learner.shards.take_gradients()
        ranks.add_gradients(learner.trained_by_all)
        norm = _step(learner, gradient.loss)
        ranks.check_same("the gradient's norm", lambda: norm)
    agreed = float(np.concatenate(gradient.same_top).mean()) if gradient.same_top else None
    return Update(gradient.records, agreed, gradient.loss, norm)


def _compiling(
    learner: Learner, pair: Pair, completions: Sequence[Completion]
) -> AbstractContextManager[None]:
    """Inside, what an update computes is compiled, where the run asks for it."""
    if learner.compilation is None:
        return nullcontext()
    judges = [t.model for t in learner.router.teachers.values() if t.model is not None]
    trial = partial(_trial, learner, pair, completions)
    return learner.compilation([pair.student, *judges], trial)


def _trial(learner: Learner, pair: Pair, completions: Sequence[Completion]) -> Tensor:
    """What an update computes of the first tokens of two completions: log-probabilities,
    divergences, and the gradient's norm. Of two prompts, where there are as many: a single row is
    compiled apart."""
    by_prompt = {c.prompt.number: c for c in completions}
    apart = by_prompt.values() if len(by_prompt) > 1 else completions
    shortest = sorted(apart, key=lambda c: len(c.prompt.ids))[:2]
    first = [replace(c, sample=c.sample.first(TRIED_TOKENS)) for c in shortest]
    rows = list(zip(first, _credit_of(learner, first), strict=True))
    try:
        gradient = _accumulate(replace(learner, sizes=None), pair, rows, Clock(), NEVER)
        norm = float(clip(learner.trained, math.inf))
    finally:  # a compiled backward pass may fail halfway
        learner.optimizer.zero_grad(set_to_none=True)
        pair.student.zero_grad(set_to_none=True)
    columns = [getattr(record, name) for record in gradient.records for name in MEASURED]
    present = [torch.from_numpy(c).float() for c in columns if c is not None]
    return torch.cat([torch.tensor([gradient.loss, norm]), *present])


@dataclass(frozen=True)
class _Gradient:
    """Of a whole batch, added to that of the weights, and what was found on the way."""

    loss: float
    records: list[TokenRecord]
    same_top: list[NDArray[np.bool_]]


def _joined(parts: Sequence[_Gradient]) -> _Gradient:
    """Of the whole batch, out of every process's rows."""
    return _Gradient(
        sum(part.loss for part in parts),
        [record for part in parts for record in part.records],
        [same for part in parts for same in part.same_top],
    )


def _accumulate(
    learner: Learner,
    pair: Pair,
    credited: Sequence[tuple[Completion, _Credit]],
    clock: Clock,
    stop: Callable[[], bool],
) -> _Gradient:
    """The micro-batches of an update; `pair` has the student that computes them."""
    if not credited:
        return _Gradient(0.0, [], [])
    config = learner.config
    completions, credit = zip(*credited, strict=True)
    by_row: dict[int, TokenRecord] = {}
    same_top: list[Any] = []
    total = 0.0
    whole, tokens = sequences(completions), config.optimizer.tokens_per_pass
    readings = learner.router.read(
        [c.prompt for c in completions],
        whole,
        temperature=config.sampling.temperature,
        max_tokens=learner.sizes(pair, whole) if learner.sizes else pair.at_once(tokens),
    )
    for rows, reading in clock.each("teacher", readings):
        if stop():
            raise Stopped
        with clock.phase("student"):
            micro_batch = MicroBatch(
                replace(learner, pair=pair),
                [completions[i] for i in rows],
                [credit[i] for i in rows],
                reading,
            )
            loss, measures = micro_batch.forward_backward(clock)
            total += loss
            if measures.same_top is not None:
                same_top.append(measures.same_top)
            by_row |= zip(rows, micro_batch.records(measures), strict=True)
    return _Gradient(total, [by_row[i] for i in range(len(completions))], same_top)


def _credit_of(learner: Learner, completions: Sequence[Completion]) -> list[_Credit]:
    """Of a whole batch: reductions and groups look at all of it."""
    objective = learner.config.objective
    special = sorted(special_ids(learner.pair.tokenizer))
    weights = [
        token_weights(c.sample.completion_ids, special, objective.weighting) for c in completions
    ]
    check_weights(weights)
    scales = row_scales([float(w.sum()) for w in weights], objective.reduction)
    rewards: list[float] | list[None] = [None] * len(completions)
    if objective.uses_rewards:
        rewards = group_advantages(
            [c.reward for c in completions],
            [c.prompt.number for c in completions],
            normalize=objective.normalize_reward,
        )
    return [_Credit(*parts) for parts in zip(weights, scales, rewards, strict=True)]


class MicroBatch:
    """One micro-batch of an update: N tokens of B completions, and what they leave behind."""

    def __init__(
        self,
        learner: Learner,
        completions: Sequence[Completion],
        credit: Sequence[_Credit],
        reading: Reading | None,
    ) -> None:
        self.learner, self.completions, self.credit, self.reading = (
            learner,
            completions,
            credit,
            reading,
        )
        self.batch = batch_of(learner.pair, sequences(completions))
        self.weights = np.concatenate([c.weights for c in credit])

    def forward_backward(self, clock: Clock) -> tuple[float, Measures]:
        """Adds its gradient; returns its reduced loss, and what was measured.

        The vocabulary is met a piece of the tokens at a time, loss and gradient together, so that
        tokens × vocabulary is never held whole. The host waits for nothing until all is under way.
        """
        pair = self.learner.pair
        with clock.phase("teacher"):
            columns = self._other_columns()
        with pair.casting_once():
            with pair.computing(), recomputing(pair.student):
                hidden = completion_hidden(pair.student, self.batch)
            leaf = hidden.states.detach().requires_grad_()
            losses, measured = self._pieces(Hidden(leaf, hidden.form), columns, clock)
            if self.learner.shards:
                self.learner.shards.student.backward(hidden.states, leaf.grad)
            elif leaf.grad is not None:
                torch.autograd.backward(hidden.states, leaf.grad)
        return float(sum(losses)), joined(measured)

    def _pieces(
        self, hidden: Hidden, columns: dict[str, Tensor], clock: Clock
    ) -> tuple[list[Tensor], list[Columns]]:
        """Each piece's loss and measures, its gradient added to `hidden` and to the head."""
        pair, config = self.learner.pair, self.learner.config
        scale = self._per_token([c.scale for c in self.credit])  # in float64: sums of many tokens
        counted = np.flatnonzero(self.weights > 0)
        rows = self._tensor(counted)
        losses, measured = [], []
        for cut, logits in student_logits(pair, hidden):
            with clock.phase("teacher"):
                view = self.reading.view(cut, self.batch.targets[cut]) if self.reading else None
            inputs = self._inputs(cut, logits, view, columns)
            here = slice(*np.searchsorted(counted, [cut.start, cut.stop]))
            token_loss, measures = judged(inputs, view, config, rows[here] - cut.start)
            loss = (token_loss * scale[cut]).sum()
            if loss.requires_grad:  # no token of this piece may count
                loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
            measured.append(measures)
            # before the next piece takes as much
            del logits, view, inputs, token_loss, measures, loss
        return losses, measured

    def _inputs(
        self, cut: slice, logits: Tensor, view: View | None, columns: dict[str, Tensor]
    ) -> LossInputs:
        return LossInputs(
            student=logits,
            targets=self.batch.targets[cut],
            teacher=view.full if view else None,
            teacher_at=view.at if view else None,
            teacher_ids=view.top_ids if view else None,
            teacher_top=view.top if view else None,
            **{name: values[cut] for name, values in columns.items()},
        )

    def records(self, measures: Measures) -> list[TokenRecord]:
        return records(
            measures,
            [c.sample.completion_ids for c in self.completions],
            sampler=[c.sample.sampler_logprobs for c in self.completions],
            mask=self.weights,
        )

    def _other_columns(self) -> dict[str, Tensor]:
        """What the loss needs beside both models' distributions, (N,) each."""
        config, targets = self.learner.config, self.batch.targets
        sampler = np.concatenate([_sampler_logprobs(c.sample) for c in self.completions])
        columns = {"sampler": self._tensor(sampler), "mask": self._tensor(self.weights)}
        if config.objective.gamma and self.reading is not None:
            teacher = sampled_log_probs(self.reading, targets, self.learner.pair.vocab)
            ratios = np.split(sampler - teacher.cpu().numpy(), np.cumsum(self.batch.lengths)[:-1])
            columns["log_ratio"] = self._tensor(
                np.concatenate([discounted(r, config.objective.gamma) for r in ratios])
            )
        rewards = [c.reward for c in self.credit if c.reward is not None]
        if rewards:
            columns["reward_advantage"] = self._per_token(rewards).float()
        if self.learner.reference is not None:
            (reading,) = self.learner.reference.read(
                [sequences(self.completions)], config.sampling.temperature
            )
            columns["reference_at"] = sampled_log_probs(reading, targets, self.learner.pair.vocab)
        return columns

    def _per_token(self, values: Sequence[float]) -> Tensor:
        """One value a completion, repeated for each of its tokens."""
        return self._tensor(np.repeat(np.asarray(values), self.batch.lengths))

    def _tensor(self, values: NDArray[Any]) -> Tensor:
        return on_device(values, self.learner.pair.device)


@compilable
def judged(
    x: LossInputs, view: View | None, config: RunConfig, rows: Tensor
) -> tuple[Tensor, Columns]:
    """Of n tokens, whose `x.student` are logits: the losses (n,) with gradient, and all that is
    recorded of them. `rows` are the numbers of those that count."""
    student = divergences.log_probs(wide(x.student), config.sampling.temperature)
    token_loss = token_losses(replace(x, student=student), config.objective, rows)
    columns = measure(student, x.targets, view, config.records.top_k, token_loss.reverse_kl)
    if token_loss.advantages is not None:
        columns["advantages"] = token_loss.advantages
    return token_loss.loss, columns


def _sampler_logprobs(sample: Sample) -> Floats:
    """(T,) in nats; zeros where nobody sampled it here, for objectives that look at none."""
    given = sample.sampler_logprobs
    return np.zeros(len(sample.completion_ids), np.float32) if given is None else given


def _step(learner: Learner, loss: float) -> float:
    limit = learner.config.optimizer.max_grad_norm
    clipped = learner.shards.clip if learner.shards else clip
    norm = float(clipped(learner.trained, limit))
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise UserError(
            f"the loss is {loss} and its gradient's norm {norm}: lower "
            "optimizer.learning_rate, or look at the last step's worst tokens for an id that the "
            "teacher rules out",
            where="optimizer",
            kind=ErrorKind.NAN_LOSS,
        )
    learner.optimizer.step()
    learner.optimizer.zero_grad(set_to_none=True)
    return norm
