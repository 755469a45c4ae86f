"""Everything a run trains with, loaded: student, teachers, optimizer, and the step reached."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from opd.config.model_files.quantized import all_weights, refuse_cutting
from opd.config.models import MOST_LIKELIEST, RouteConfig
from opd.config.run import RunConfig
from opd.config.whole_run.checks import whole_vocabulary
from opd.devices.support import run_device
from opd.errors import ErrorKind, UserError
from opd.models.folders.quantized import method_in
from opd.models.folders.resolve import resolve
from opd.models.load import (
    Pair,
    TeacherModel,
    load_model,
    load_student,
    load_teacher,
    served_teacher,
    with_teacher,
)
from opd.models.routes import find_route
from opd.ranks.group import ALONE, Ranks
from opd.sampling.sample import NEVER
from opd.sampling.sampling_copy import SamplingCopy
from opd.teachers.end_token import EndToken, end_token_of
from opd.teachers.local import LocalTeacher, MovingAverage, Teacher
from opd.teachers.remote import ServerTeacher
from opd.teachers.routing import MAIN, TeacherRouter, field_of
from opd.teachers.served import ServedModel, ServedTeacher, with_local_teachers
from opd.teachers.vllm_client import RemoteTeacher, known_ids
from opd.training import checkpoint
from opd.training.optimization.compilations import compilation_of
from opd.training.optimization.compute_copy import ComputeCopy
from opd.training.optimization.micro_batch_size import MicroBatchSize, recompute
from opd.training.optimization.optimizers import make_optimizer
from opd.training.scoring import reader_of
from opd.training.update import Learner, trained_of

if TYPE_CHECKING:
    from opd.ranks.sharding import Shards

HOST = torch.device("cpu")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Callbacks:
    """What loading and training may call: `say` tells people who wait, `stop` asks whether to."""

    say: Callable[[str], None] = lambda _: None
    stop: Callable[[], bool] = NEVER


@dataclass(frozen=True)
class LoadedRun:
    """A run ready to continue after `step`. `router` judges; the learner's own is empty where the
    objective needs no teacher.
    """

    learner: Learner
    router: TeacherRouter
    average: MovingAverage | None
    step: int

    @property
    def pair(self) -> Pair:
        return self.learner.pair

    def close(self) -> None:
        self.router.close()


@dataclass(frozen=True)
class LoadedModels:
    """Student and teachers, to write and to judge, without what only training needs."""

    pair: Pair
    router: TeacherRouter
    average: MovingAverage | None

    @property
    def config(self) -> RunConfig:
        return self.router.config

    def with_config(self, config: RunConfig) -> "LoadedModels":
        """The same models for a run that loads the same ones; its prompts and grader may differ."""
        return replace(self, router=replace(self.router, config=config))

    def unhinted(self) -> "LoadedModels":
        """The same models where the first teacher reads what the student reads."""
        return replace(self, router=self.router.unhinted())

    def close(self) -> None:
        self.router.close()


def load(
    config: RunConfig, source: Path | None, callbacks: Callbacks, ranks: Ranks = ALONE
) -> LoadedRun:
    """Loads what the configuration names; `source` is a checkpoint to continue from."""
    shards = _shards(config, ranks, callbacks)
    models, factory = _models(config, source, callbacks, shards)
    pair, router = models.pair, models.router
    reference = factory.start() if config.objective.reference_kl else None
    optimizer = make_optimizer(trained_of(pair.student, shards), config)
    if shards is not None:
        shards.train(pair.student, optimizer)
    step = checkpoint.restore(source, optimizer, models.average, shards) if source else 0
    judges = replace(router, teachers={}) if config.needs == "nothing" else router
    learner = Learner(
        pair,
        optimizer,
        config,
        judges,
        reference,
        sizes=None if shards else _sizes(pair, optimizer, config, callbacks),
        copy=None if shards else _compute_copy(pair, config),
        compilation=None if shards else compilation_of(config, pair, judges, callbacks.say),
        ranks=ranks,
        shards=shards,
    )
    return LoadedRun(learner, router, models.average, step)


def _shards(config: RunConfig, ranks: Ranks, callbacks: Callbacks) -> "Shards | None":
    """None where each process holds all of every model. Raises UserError for one that cannot be
    cut, before any is loaded."""
    if config.sharding == "none" or ranks.size == 1:
        return None
    from opd.ranks.processes import ProcessRanks  # noqa: PLC0415 - only where it is used
    from opd.ranks.sharding import Shards  # noqa: PLC0415 - slow to import

    assert isinstance(ranks, ProcessRanks)
    for field, model in config.models.items():
        refuse_cutting(str(resolve(model, where=field, say=callbacks.say)), where=field)
    return Shards(ranks, run_device(config))


def _compute_copy(pair: Pair, config: RunConfig) -> ComputeCopy | None:
    """None where the student computes itself: in float32, below an adapter, and beside an average
    of its float32 weights, from which only steps should tell it apart and no rounding."""
    averaged = any(teacher.kind == "ema" for teacher in config.teachers.values())
    if pair.sampling_copy is None or config.student.lora is not None or averaged:
        return None
    return ComputeCopy(pair)


def _sizes(
    pair: Pair, optimizer: torch.optim.Optimizer, config: RunConfig, callbacks: Callbacks
) -> MicroBatchSize | None:
    """Chooses the size of micro-batches on a GPU; None where it is set, and elsewhere."""
    if pair.device.type != "cuda" or config.optimizer.micro_batch_tokens is not None:
        return None
    return MicroBatchSize(
        pair.student,
        optimizer,
        longest_completion=config.sampling.max_new_tokens,
        may_recompute=config.student.gradient_checkpointing is None,
        say=callbacks.say,
    )


def load_models(config: RunConfig, source: Path | None, callbacks: Callbacks) -> LoadedModels:
    """Student and teachers as they are after a checkpoint, or as they start without one, all in
    this process."""
    models, _ = _models(with_local_teachers(config), source, callbacks)
    models.pair.student.requires_grad_(False)
    if source is not None and models.average is not None:
        checkpoint.restore_average(source, models.average)
    return models


def _models(
    config: RunConfig,
    source: Path | None,
    callbacks: Callbacks,
    shards: "Shards | None" = None,
) -> tuple[LoadedModels, "_TeacherFactory"]:
    pair = _student(config, source, callbacks, shards)
    models = _teacher_models(config, pair, callbacks, shards)
    for teacher_model in models.values():
        pair = with_teacher(pair, teacher_model)
    _check_stops(config, pair)
    main = models.get(field_of(MAIN))
    pair = replace(pair, teacher=main.model if main else None)
    if pair.device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # only now: a model is checked without rounding
        callbacks.say("products of float32 numbers are rounded to TF32 (10 bits of precision)")
    average = None
    if config.teacher.kind == "ema":
        average = MovingAverage(pair.student, config.teacher.ema_decay)
    factory = _TeacherFactory(config, pair, average, callbacks, shards)
    teachers = {}
    for route in (MAIN, *config.teacher.routes):
        teacher = factory.teacher(field_of(route), models.get(field_of(route)))
        if teacher is not None:
            teachers[route] = teacher
    return LoadedModels(pair, TeacherRouter(teachers, config, pair), average), factory


def _check_stops(config: RunConfig, pair: Pair) -> None:
    """Raises UserError where nothing ends a completion, and for an end that one side lacks."""
    ids = config.sampling.stop_ids
    if any(i >= pair.vocab for i in ids):
        raise UserError(
            f"id {max(ids)} is outside the models' {pair.vocab} shared ids",
            where="sampling.stop_ids",
        )
    if pair.end_id >= pair.vocab:
        raise UserError(
            f"its completions end with id {pair.end_id}, which is outside the models' {pair.vocab} "
            "shared ids, so no answer could ever end",
            where="student.model",
            kind=ErrorKind.TOKENIZER_MISMATCH,
        )


def _student(
    config: RunConfig, source: Path | None, callbacks: Callbacks, shards: "Shards | None"
) -> Pair:
    """The student on its device, with its adapter or from its checkpoint."""
    settings = config.student
    computes = DTYPES[settings.dtype]
    held = computes if settings.lora is not None else DTYPES[settings.weights]
    pair = load_student(
        settings.model,
        device=HOST if shards else run_device(config, callbacks.say),
        dtype=held,
        weights=source if settings.lora is None else None,
        quantize=settings.quantize,
        more_stops=config.sampling.stop_ids,
        say=callbacks.say,
    )
    student: Any = pair.student
    method = method_in(student)
    if method is not None and settings.lora is None:
        raise all_weights(method, where="student.lora")
    if source is not None:
        checkpoint.check_student(source, settings, Path(pair.folders["student"]))
    if settings.lora is not None:
        from opd.models.folders import adapters  # noqa: PLC0415 - peft takes seconds to import

        student = (
            adapters.load_adapter(student, source)
            if source
            else adapters.with_adapter(student, settings.lora, seed=config.seed)
        )
        if computes != torch.float32:
            adapters.keep_inputs(student)
    if method is None:
        student.to(pair.device)
    if settings.gradient_checkpointing:
        recompute(student)
    copied = method is None and (settings.lora is not None or held != computes)
    pair = replace(pair, student=student, dtype=computes, weights=DTYPES[settings.weights])
    if shards is not None:
        return _sharded(pair, shards, callbacks, adapter=settings.lora is not None)
    copy = SamplingCopy(student, computes, callbacks.say) if copied else None
    return replace(pair, sampling_copy=copy)


def _sharded(pair: Pair, shards: "Shards", callbacks: Callbacks, *, adapter: bool) -> Pair:
    """The pair whose student's layers are cut among the processes, with a copy to sample from."""
    from opd.ranks.whole_copy import WholeCopy  # noqa: PLC0415 - only where it is used

    pair = replace(pair, device=shards.device)
    copy = WholeCopy(pair.student, pair.dtype, shards, callbacks.say)
    narrow = None if adapter or pair.weights == pair.dtype else pair.dtype
    shards.cut_student(pair.student, computing=pair.computing, narrow=narrow)
    if shards.device.type != "cpu":
        pair = replace(pair, pairs_per_token=0.0)
    return replace(pair, sampling_copy=copy)


def _teacher_models(
    config: RunConfig, pair: Pair, callbacks: Callbacks, shards: "Shards | None"
) -> dict[str, TeacherModel]:
    """The models of the teachers that have their own, by field; one model is loaded once."""
    loaded: dict[tuple[str, str, str], TeacherModel] = {}
    by_field = {}
    for field, settings in config.teachers.items():
        if settings.kind != "model":
            continue
        if settings.engine == "vllm":
            where = f"{field}.model"
            by_field[field] = served_teacher(settings.model, pair, where=where, say=callbacks.say)
            continue
        key = (settings.model, settings.dtype, settings.quantize)
        if key not in loaded:
            callbacks.say(f"loading {settings.model}")
            loaded[key] = load_teacher(
                settings.model,
                replace(pair, device=HOST) if shards else pair,
                where=f"{field}.model",
                dtype=DTYPES[settings.dtype],
                quantize=settings.quantize,
                say=callbacks.say,
            )
            if shards is not None:
                shards.cut(loaded[key].model, where=f"{field}.model")
        by_field[field] = loaded[key]
    return by_field


@dataclass(frozen=True)
class _TeacherFactory:
    """Makes teachers out of what is loaded."""

    config: RunConfig
    pair: Pair
    average: MovingAverage | None
    callbacks: Callbacks
    shards: "Shards | None" = None

    def teacher(self, field: str, model: TeacherModel | None) -> Teacher | None:
        settings = self.config.teachers[field]
        end = end_token_of(settings.end_token, self.pair, where=f"{field}.end_token")
        match settings.kind:
            case "model" if settings.engine == "vllm":
                assert model is not None
                served = ServedModel(field, settings, model.folder, model.rows)
                served = served.asked_for(self.config)
                return ServedTeacher(served, reader_of(self.pair), self.callbacks.stop, end)
            case "model":
                assert model is not None
                return LocalTeacher(
                    model.model,
                    reader_of(self.pair),
                    stop_ids=model.stop_ids,
                    end=end,
                    offload=settings.offload,
                )
            case "self":
                return self.start()
            case "ema":
                assert self.average is not None
                return self._student_as(self.average.in_place)
            case "remote":
                return self._behind_servers(field, settings, end)
            case "none":
                return None

    def _behind_servers(
        self, field: str, settings: RouteConfig, end: EndToken | None
    ) -> ServerTeacher:
        """A teacher that answers and is the student's kind. Raises UserError."""
        say, pair = self.callbacks.say, self.pair
        whole = settings.top_k >= pair.vocab
        if not whole and (reason := whole_vocabulary(self.config)):
            raise UserError(
                f"{reason} needs the teacher's whole distribution: all {pair.vocab:,} ids that the "
                f"models share (got {settings.top_k}; at most {MOST_LIKELIEST:,})",
                where=f"{field}.top_k",
            )
        say(f"asking {settings.url} for its model")
        remote = RemoteTeacher(settings, where=field, say=say)
        try:
            remote.check(
                known_ids(pair.vocab), lambda ids: [pair.tokenizer.decode([i]) for i in ids]
            )
        except UserError:
            remote.close()
            raise
        return ServerTeacher(remote, reader_of(pair), self.callbacks.stop, end, whole=whole)

    def start(self) -> LocalTeacher:
        """The student as it started: its adapter switched off, else a second, frozen copy."""
        if self.config.student.lora is not None:
            return self._student_as(self.pair.student.disable_adapter)
        folder = Path(self.pair.folders["student"])
        model = load_model(folder, where="student.model", dtype=self.pair.dtype)
        if self.shards is None:
            model.to(self.pair.device)
        model.requires_grad_(False)
        find_route(model, where="student.model")
        if self.shards is not None:
            self.shards.cut(model, where="student.model")
        return LocalTeacher(model, reader_of(self.pair))

    def _student_as(self, state: Callable[[], AbstractContextManager[Any]]) -> LocalTeacher:
        @contextmanager
        def both() -> Iterator[None]:
            torch.clear_autocast_cache()  # casts of these weights, with gradient or of other values
            try:
                with self.pair.computing(), state():
                    yield
            finally:
                torch.clear_autocast_cache()

        return LocalTeacher(self.pair.student, reader_of(self.pair), state=both)
