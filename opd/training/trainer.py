"""A run: load, then sample → score → update → evaluate, told as a stream of events.

The trainer knows nothing of databases or processes; whoever consumes `Training.events()` stores
what it is given and decides, through `stop`, when to end.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

import torch

from opd.config.run import RunConfig
from opd.data.prompts import Prompt, PromptSet, load_prompts
from opd.data.template_dates import asks_for_time, render_as_of
from opd.devices.choice import pick_device
from opd.devices.lack_of_memory import lack_of_memory
from opd.devices.usage import memory_metrics, start_of_step
from opd.errors import LackOfMemoryError, lacks_memory
from opd.models.load import Pair
from opd.models.parameters import checksum, count_parameters
from opd.models.token_text import TokenText
from opd.models.tokenizers import fingerprint
from opd.ranks.group import ALONE, Ranks
from opd.sampling.sample import NEVER, Stopped
from opd.sampling.samplers import STARTING, Sampler, sampler_of
from opd.sampling.vllm.serving import Serve, Surroundings
from opd.teachers.routing import TeacherRouter
from opd.teachers.served import start_teachers
from opd.teachers.serving import ServeTeacher
from opd.training import checkpoint
from opd.training.alike import what_is_trained
from opd.training.evaluation import evaluate, headline
from opd.training.held_out import probes
from opd.training.held_out.stop_rule import StopRule
from opd.training.held_out.teacher_score import teacher_scores
from opd.training.loading import Callbacks, LoadedRun, load
from opd.training.optimization.optimizers import learning_rate
from opd.training.records import as_rollouts, kept
from opd.training.rollouts import Completion, Writer, write, write_ahead, write_evaluation
from opd.training.scoring import Scoring, score_completions
from opd.training.step.clock import Clock
from opd.training.step.metrics import overlap_metrics, step_metrics
from opd.training.step_flops import StepFlops
from opd.training.update import update
from opd.types import (
    CheckpointEvent,
    EarlierAttempts,
    EndEvent,
    EvaluationEvent,
    Event,
    Kind,
    ModelsEvent,
    PhaseEvent,
    PromptsEvent,
    Rollout,
    Score,
    StepEvent,
)


class Training:
    """One attempt at a run.

    `folder` receives the checkpoints; `resume_from` is a checkpoint folder to continue from; `stop`
    is polled within long phases and ends the stream early, without an event for what was
    unfinished; `say` is called with the progress of loading; chat templates that ask for the time
    find `moment`, by default that of now; `earlier` is what the attempts before this one have taken
    and reached. `ranks` are the processes that train it together: each tells the same events, and
    only the first saves. `serve` starts the server that writes completions, where one does,
    `serve_teacher` those that judge.
    """

    def __init__(
        self,
        config: RunConfig,
        folder: Path,
        *,
        stop: Callable[[], bool] = NEVER,
        resume_from: Path | None = None,
        say: Callable[[str], None] = lambda _: None,
        moment: datetime | None = None,
        earlier: EarlierAttempts | None = None,
        ranks: Ranks = ALONE,
        serve: Serve | None = None,
        serve_teacher: ServeTeacher | None = None,
    ) -> None:
        self.config = config
        self.folder = folder
        self._ranks = ranks
        self._serve, self._serve_teacher = serve, serve_teacher
        self._sampler: Sampler | None = None
        self._callbacks = Callbacks(say, ranks.stop(stop))
        self._resume_from = resume_from
        self._moment = moment or datetime.now()
        self._rule = StopRule(config, earlier or EarlierAttempts())
        self._step = 0
        self._score: float | None = None  # held-out, after this very step
        self._owes = False  # the evaluation that is due after this very step
        self._answers: tuple[probes.Answer, ...] = ()  # to the probe prompts, by the first student
        self._saved: list[checkpoint.Progress] = []
        self._tokens: TokenText | None = None
        self._loaded: LoadedRun | None = None
        self._during = "loading"  # or a step, whose clock knows more
        self._clock = Clock()

    def events(self) -> Iterator[Event]:
        """Everything that happens, in order. Raises UserError for what a user can fix."""
        try:
            yield from self._run()
        except Stopped:
            return
        except (MemoryError, RuntimeError) as error:
            if not lacks_memory(error):
                raise
            raise self._lack_of_memory(error) from error
        finally:
            self._ranks.halt()
            if self._sampler is not None:
                self._sampler.close()
            if self._loaded is not None:
                self._loaded.close()

    def _lack_of_memory(self, error: BaseException) -> LackOfMemoryError:
        device = self._loaded.pair.device if self._loaded else pick_device(self.config.device)
        if self._during == "step":
            return lack_of_memory(error, device, self._clock.failed, self._step + 1)
        return lack_of_memory(error, device, self._during, self._step)

    def vocabulary(self, ids: Sequence[int]) -> dict[int, tuple[bytes, bool]]:
        """id → (bytes, special?) of the run's tokenizer; only once the models are loaded."""
        if self._tokens is None:
            raise RuntimeError("no tokenizer is loaded yet")
        return self._tokens(ids)

    def save_checkpoint(self) -> CheckpointEvent | None:
        """Saves the student after the last finished step; None when nothing is loaded yet.

        The event names the earlier checkpoints that stay; the others are removed once the stream
        continues.
        """
        event = self.save_aside(self.folder)
        if event is None:
            return None
        progress = self._progress()
        self._saved = [*(p for p in self._saved if p.step != self._step), progress]
        gone = {p.step for p in self._expendable()}
        return CheckpointEvent(
            event.step,
            event.path,
            event.manifest,
            keeps=tuple(p.step for p in self._saved[:-1] if p.step not in gone),
        )

    def save_aside(self, folder: Path) -> CheckpointEvent | None:
        """Saves the student as it is now into another folder, where it replaces and removes
        nothing; None when nothing is loaded yet."""
        if self._loaded is None:
            return None
        pair, learner = self._loaded.pair, self._loaded.learner
        return checkpoint.save(
            folder,
            self._progress(),
            (pair.student, pair.tokenizer),
            learner.shards.collected() if learner.shards else learner.optimizer,
            self._loaded.average,
        )

    def _progress(self) -> checkpoint.Progress:
        return checkpoint.Progress(self._step, self._score, self._owes, self._answers)

    def _expendable(self) -> list[checkpoint.Progress]:
        settings = self.config.checkpoints
        return checkpoint.expendable(self._saved, keep=settings.keep, best=settings.best)

    def _run(self) -> Iterator[Event]:
        config = self.config
        cores = (os.cpu_count() or 1) // self._ranks.size
        torch.set_num_threads(config.threads or max(1, cores))
        yield PhaseEvent("loading models")
        loaded = self._ranks.together(self._load)
        pair = loaded.pair
        parameters = {"student": pair.student.num_parameters()}
        if pair.teacher is not None:
            parameters["teacher"] = pair.teacher.num_parameters()
        self._callbacks.say(f"student: {count_parameters(pair.student)}")
        yield ModelsEvent(pair.folders, fingerprint(pair.tokenizer), str(pair.device), parameters)
        dated = asks_for_time(pair.tokenizer)
        as_of = f", as of {self._moment:%Y-%m-%d %H:%M:%S} in the chat template" if dated else ""
        yield PhaseEvent(f"loading prompts{as_of}")
        router = loaded.router
        prompts = self._ranks.together(lambda: self._prompts(pair, router))
        yield PromptsEvent(len(prompts.train), prompts.counts)
        self._ranks.check_same("what is trained", lambda: what_is_trained(loaded, prompts))
        start_teachers(router, prompts.all, self._serve_teacher)
        if config.sampling.engine == "vllm":
            yield PhaseEvent(STARTING)
        ids = [p.ids for p in prompts.all]
        around = Surroundings(self._serve, self.folder, self._callbacks.say)
        self._sampler = sampler_of(pair, config, ids, around)
        writer = Writer(pair, config, router, self._ranks, self._sampler)
        if self._step == 0:
            yield from self._first_look(writer, prompts)
            yield from self._evaluation(writer, prompts)
        else:
            yield from self._after_step(writer, prompts, resumed=True)
        flops = StepFlops(loaded)
        while self._step < config.steps and not self._rule.reason:
            self._during, self._clock = "step", Clock()
            yield PhaseEvent(f"step {self._step + 1} of {config.steps}")
            yield self._one_step(writer, prompts, flops)
            yield from self._after_step(writer, prompts)
        if self._step < config.steps:
            yield EndEvent(self._rule.reason)

    def _prompts(self, pair: Pair, router: TeacherRouter) -> PromptSet:
        prompts = load_prompts(
            self.config, pair.tokenizer, router.context(), self._callbacks.say, pair.vocab
        )
        router.check_prompts(prompts.train)
        return prompts

    def _after_step(
        self, writer: Writer, prompts: PromptSet, *, resumed: bool = False
    ) -> Iterator[Event]:
        """What is due after a step; made up for by the next attempt where a stop cut it off."""
        unsaved = self._owes or not resumed
        if self._step < self.config.steps:
            self._look()
        if self._owes or self._rule.reason:
            yield from self._evaluation(writer, prompts)
            self._owes = False
            if not self._ends:  # and if it ends by this very score, the others are still to be made
                self._look()
                if self._rule.reason and self._more_at_ends(prompts):
                    yield from self._evaluation(writer, prompts)
        if unsaved and (
            self._rule.reason or _due(self._step, self.config.checkpoints.every, self.config.steps)
        ):
            yield from self._checkpoint()

    def _look(self) -> None:
        """Whether the run is to end, by the first process's clock."""
        self._rule.look()
        self._rule.reason = self._ranks.first(self._rule.reason)

    @property
    def _ends(self) -> bool:
        """Whether the run begins or ends with this step."""
        return self._step in (0, self.config.steps) or bool(self._rule.reason)

    def _more_at_ends(self, prompts: PromptSet) -> bool:
        """Whether the last evaluation has more to it than those between."""
        suites = prompts.suites.values()
        return bool(self.config.evaluation.lm_eval) or any(s.at_ends for s in suites)

    def _load(self) -> LoadedRun:
        self._loaded = load(self.config, self._resume_from, self._callbacks, self._ranks)
        self._tokens = TokenText(self._loaded.pair.tokenizer)
        render_as_of(self._loaded.pair.tokenizer, self._moment)
        self._step = self._loaded.step
        if self._resume_from is not None:
            self._saved = checkpoint.saved(self.folder, up_to=self._step)
            progress = checkpoint.progress_of(self._resume_from)
            self._owes, self._answers = progress.owes, progress.answers
        return self._loaded

    def _one_step(self, writer: Writer, prompts: PromptSet, flops: StepFlops) -> StepEvent:
        assert self._loaded is not None
        config, step, clock = self.config, self._step + 1, self._clock
        device = self._loaded.pair.device
        start_of_step(device)
        with clock.phase("sample"):
            chosen = prompts.for_step(step, config.sampling.prompts_per_step, config.seed)
            completions = write(writer, chosen, step=step, stop=self._callbacks.stop)
            if config.sampling.lag and step < config.steps:
                chosen = prompts.for_step(step + 1, config.sampling.prompts_per_step, config.seed)
                write_ahead(writer, chosen, step=step + 1)
        learner = self._loaded.learner
        rate = learning_rate(config, step)
        for group in learner.optimizer.param_groups:
            group["lr"] = rate
        done = update(learner, completions, clock, self._callbacks.stop)
        if writer.sampler is not None:
            writer.sampler.weights_changed()
        if self._loaded.average is not None:
            self._loaded.average.advance()
        self._step, self._score = step, None
        self._owes = _due(step, config.evaluation.every, config.steps)
        rollouts = as_rollouts(
            learner.router,
            kept(completions, step, config),
            kept(done.records, step, config),
            step=step,
            kind="train",
            temperature=config.sampling.temperature,
        )
        return StepEvent(
            step=step,
            seconds={"teacher": 0.0} | clock.seconds,
            tokens=sum(len(r) for r in done.records),
            flops=flops.step(completions),
            metrics=step_metrics(config, completions, done, rate)
            | flops.parts(completions)
            | memory_metrics(device)
            | overlap_metrics(writer.sampler),
            rollouts=rollouts,
        )

    def _first_look(self, writer: Writer, prompts: PromptSet) -> Iterator[Event]:
        """The first rollouts for people who wait; the evaluation that follows replaces them."""
        self._during = "evaluation"
        settings = self.config.evaluation
        glance = prompts.held_out[: settings.keep]
        if glance:
            completions = write_evaluation(
                writer, glance, temperature=settings.temperatures[0], stop=self._callbacks.stop
            )
            yield EvaluationEvent(
                self._step, [], self._scored(completions[: settings.keep], "eval")
            )

    def _evaluation(self, writer: Writer, prompts: PromptSet) -> Iterator[Event]:
        self._during = "evaluation"
        yield PhaseEvent(f"evaluating after step {self._step}")
        ends = self._ends
        scores, completions, fresh = evaluate(writer, prompts, self._callbacks.stop, ends=ends)
        self._rule.evaluated(self._step, scores)
        if ends:
            scores += self._lm_eval(writer.pair)
        self._score = headline(scores)
        if self._step == 0:
            scores += teacher_scores(writer, prompts, self._callbacks.stop, self._callbacks.say)
        shown = self._scored(completions[: self.config.evaluation.keep], "eval")
        if prompts.probe:
            shown += self._probed(writer, prompts.probe, fresh)
        yield EvaluationEvent(self._step, scores, shown)

    def _probed(
        self, writer: Writer, prompts: Sequence[Prompt], fresh: Sequence[Completion]
    ) -> list[Rollout]:
        """The first answers to the probe prompts scored again, and the new answers."""
        if len(self._answers) != len(prompts):
            self._answers = probes.first_answers(fresh)
        fixed = probes.as_completions(writer, prompts, self._answers)
        return [*self._scored(fixed, "probe"), *self._scored(fresh, "eval")]

    def _lm_eval(self, pair: Pair) -> list[Score]:
        settings = self.config.evaluation
        if not settings.lm_eval:
            return []
        from opd.training.held_out.lm_eval_tasks import lm_eval_scores  # noqa: PLC0415 - an optional extra, slow to import

        return lm_eval_scores(
            pair, settings.lm_eval, limit=settings.lm_eval_limit, say=self._callbacks.say
        )

    def _scored(self, completions: Sequence[Completion], kind: Kind) -> list[Rollout]:
        """Rollouts of the first evaluation temperature; greedy ones have no sampler log-probs."""
        assert self._loaded is not None
        if not completions:
            return []
        temperature = self.config.evaluation.temperatures[0]
        settings = Scoring.of(self.config, temperature)
        router, pair = self._loaded.router, self._loaded.learner.computes()
        records = self._ranks.shared(
            completions,
            lambda part: score_completions(
                router, part, settings, with_sampler=temperature > 0, pair=pair
            ),
        )
        return as_rollouts(
            self._loaded.router,
            completions,
            records,
            step=self._step,
            kind=kind,
            temperature=settings.temperature,
        )

    def _checkpoint(self) -> Iterator[Event]:
        self._during = "checkpoint"
        assert self._loaded is not None
        trained = self._loaded.learner.trained_by_all
        self._ranks.check_same("the checksum of the weights", lambda: checksum(trained))
        event = self._ranks.together(lambda: self.save_checkpoint() if self._ranks.leads else None)
        if event is not None:
            yield event  # recorded by the consumer before anything older is removed
            for progress in self._expendable():
                checkpoint.remove(self.folder, progress.step)
                self._saved.remove(progress)


def _due(step: int, every: int, last: int) -> bool:
    return step == last or (every > 0 and step % every == 0)
