"""A run: load, then sample → score → update → evaluate, told as a stream of events.

The trainer knows nothing of databases or processes; whoever consumes `Training.events()` stores
what it is given and decides, through `stop`, when to end.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from opd import checkpoint, cost
from opd.config import RunConfig
from opd.data import PromptSet, load_prompts
from opd.evaluation import evaluate
from opd.models import Pair, fingerprint, load_model, load_pair, pick_device
from opd.records import as_rollouts, kept
from opd.rollouts import Written, sequences, write, write_evaluation
from opd.sampling import NEVER, Stopped
from opd.scoring import Scoring, score
from opd.token_text import TokenText
from opd.types import (
    CheckpointEvent,
    EvaluationEvent,
    Event,
    ModelsEvent,
    PhaseEvent,
    Rollout,
    StepEvent,
)
from opd.update import Clock, Update, learning_rate, make_optimizer, update


class Training:
    """One attempt at a run.

    `folder` receives the checkpoints; `resume_from` is a checkpoint folder to go on from; `stop` is
    polled within long phases and ends the stream early, without an event for what was unfinished.
    """

    def __init__(
        self,
        config: RunConfig,
        folder: Path,
        *,
        stop: Callable[[], bool] = NEVER,
        resume_from: Path | None = None,
    ) -> None:
        self.config = config
        self.folder = folder
        self._stop = stop
        self._resume_from = resume_from
        self._step = 0
        self._saved: list[int] = []
        self._tokens: TokenText | None = None
        self._pair: Pair | None = None
        self._optimizer: torch.optim.Optimizer | None = None

    def events(self) -> Iterator[Event]:
        """Everything that happens, in order. Raises UserError for what a user can mend."""
        try:
            yield from self._run()
        except Stopped:
            return

    def vocabulary(self, ids: Sequence[int]) -> dict[int, tuple[bytes, bool]]:
        """id → (bytes, special?) of the run's tokenizer; only once the models are loaded."""
        if self._tokens is None:
            raise RuntimeError("no tokenizer is loaded yet")
        return self._tokens(ids)

    def save_checkpoint(self) -> CheckpointEvent | None:
        """Saves the student after the last finished step; None when nothing is loaded yet.

        The event names the older checkpoints that `remove_old` will take away.
        """
        if self._pair is None or self._optimizer is None:
            return None
        event = checkpoint.save(
            self.folder,
            step=self._step,
            model=self._pair.student,
            tokenizer=self._pair.tokenizer,
            optimizer=self._optimizer,
        )
        self._saved = [s for s in self._saved if s != self._step] + [self._step]
        return event

    def _run(self) -> Iterator[Event]:
        config = self.config
        torch.set_num_threads(config.threads or os.cpu_count() or 1)
        yield PhaseEvent("loading models")
        pair = self._load()
        yield ModelsEvent(
            resolved=pair.folders,
            tokenizer=fingerprint(pair.tokenizer),
            device=str(pair.device),
            parameters={
                "student": pair.student.num_parameters(),
                "teacher": pair.teacher.num_parameters(),
            },
        )
        context = getattr(pair.student.config.get_text_config(), "max_position_embeddings", None)
        prompts = load_prompts(config, pair.tokenizer, context or 2**31)
        if self._step == 0:
            yield from self._first_look(pair, prompts)
            yield from self._evaluation(pair, prompts)
        meter = _Meter(pair, adapter=config.student.lora is not None)
        while self._step < config.steps:
            yield PhaseEvent(f"step {self._step + 1} of {config.steps}")
            yield self._one_step(pair, prompts, meter)
            if _due(self._step, config.evaluation.every, config.steps):
                yield from self._evaluation(pair, prompts)
            if _due(self._step, config.checkpoints.every, config.steps):
                yield from self._checkpoint()

    def _load(self) -> Pair:
        config = self.config
        device = pick_device(config.device)
        pair = load_pair(config.student.model, config.teacher.model, device=device)
        student = pair.student
        source = self._resume_from
        if config.student.lora is not None:
            from opd import adapters  # noqa: PLC0415 - peft takes seconds to import

            student = (
                adapters.load_adapter(student, source)
                if source
                else adapters.with_adapter(student, config.student.lora, seed=config.seed)
            )
        elif source:
            student = load_model(source, where="checkpoint")
        student.to(device)
        self._pair = replace(pair, student=student)
        self._tokens = TokenText(pair.tokenizer)
        self._optimizer = make_optimizer(student, config)
        if source:
            self._step = checkpoint.restore_optimizer(source, self._optimizer)
            self._saved = checkpoint.saved_steps(self.folder, up_to=self._step)
        return self._pair

    def _one_step(self, pair: Pair, prompts: PromptSet, meter: "_Meter") -> StepEvent:
        config, step, clock = self.config, self._step + 1, Clock()
        chosen = prompts.for_step(step, config.sampling.prompts_per_step, config.seed)
        with clock.phase("sample"):
            written = write(pair, chosen, config, step=step, stop=self._stop)
        rate = learning_rate(config, step)
        assert self._optimizer is not None
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        done = update(pair, self._optimizer, written, config, clock, self._stop)
        self._step = step
        rollouts = as_rollouts(
            written, done.records, step=step, kind="train", temperature=config.sampling.temperature
        )
        return StepEvent(
            step=step,
            seconds=clock.seconds,
            tokens=sum(len(r) for r in done.records),
            flops=meter.step(written),
            metrics=_metrics(written, done, rate),
            rollouts=kept(rollouts, step, config),
        )

    def _first_look(self, pair: Pair, prompts: PromptSet) -> Iterator[Event]:
        """The first rollouts for people who wait; the evaluation that follows replaces them."""
        settings = self.config.evaluation
        glance = prompts.held_out[: settings.keep]
        if glance:
            written = write_evaluation(
                pair, glance, self.config, temperature=settings.temperatures[0], stop=self._stop
            )
            yield EvaluationEvent(self._step, [], self._scored(pair, written))

    def _evaluation(self, pair: Pair, prompts: PromptSet) -> Iterator[Event]:
        yield PhaseEvent(f"evaluating after step {self._step}")
        scores, written = evaluate(pair, prompts.held_out, self.config, self._stop)
        kept_ones = written[: self.config.evaluation.keep]
        yield EvaluationEvent(self._step, scores, self._scored(pair, kept_ones))

    def _scored(self, pair: Pair, written: Sequence[Written]) -> list[Rollout]:
        """Rollouts of the first evaluation temperature; greedy ones have no sampler log-probs."""
        first = self.config.evaluation.temperatures[0]
        temperature = first or 1.0
        found = score(
            pair,
            sequences(written),
            Scoring.of(self.config, temperature),
            sampler=[w.sample.sampler_logprobs for w in written] if first else None,
        )
        return as_rollouts(written, found, step=self._step, kind="eval", temperature=temperature)

    def _checkpoint(self) -> Iterator[Event]:
        event = self.save_checkpoint()
        if event is not None:
            yield event  # recorded by the consumer before anything older is removed
            keep = self.config.checkpoints.keep
            for step in self._saved[:-keep]:
                checkpoint.remove(self.folder, step)
            self._saved = self._saved[-keep:]


class _Meter:
    """FLOPs executed by a step, by the formula of `opd.cost`."""

    def __init__(self, pair: Pair, *, adapter: bool) -> None:
        self._student, self._teacher = map(cost.model_cost, (pair.student, pair.teacher))
        self._adapter = adapter

    def step(self, written: Sequence[Written]) -> float:
        groups: dict[int, tuple[int, list[int]]] = {}
        for w in written:
            _, lengths = groups.setdefault(w.prompt.number, (len(w.prompt.ids), []))
            lengths.append(len(w.sample.completion_ids))
        whole = [len(w.prompt.ids) + len(w.sample.completion_ids) for w in written]
        return (
            cost.sampling_flops(self._student, groups.values())
            + cost.scoring_flops(self._teacher, whole)
            + cost.training_flops(self._student, whole, adapter=self._adapter)
        )


def _due(step: int, every: int, last: int) -> bool:
    return step == last or (every > 0 and step % every == 0)


def _metrics(written: Sequence[Written], done: Update, rate: float) -> dict[str, float]:
    """The step's figures; per-token ones are means over all completion tokens, in nats."""

    def all_of(name: str) -> np.ndarray:
        return np.concatenate([getattr(r, name) for r in done.records])

    gap = all_of("student_logprobs") - all_of("sampler_logprobs")
    lengths = [len(r) for r in done.records]
    rewards = [w.reward for w in written if w.reward is not None]
    metrics = {
        "reverse_kl": float(all_of("reverse_kl").mean()),
        "log_ratio": float((all_of("student_logprobs") - all_of("teacher_logprobs")).mean()),
        "loss": done.loss,
        "grad_norm": done.grad_norm,
        "learning_rate": rate,
        "student_entropy": float(all_of("student_entropy").mean()),
        "teacher_entropy": float(all_of("teacher_entropy").mean()),
        "same_top": done.same_top,
        "completion_tokens": float(np.mean(lengths)),
        "finished": float(np.mean([w.sample.finish_reason == "stop" for w in written])),
        "sampler_gap": float(np.abs(gap).max()),
        "importance_ratio": float(np.exp(gap).mean()),
    }
    if rewards:
        metrics["reward"] = float(np.mean(rewards))
    return metrics
