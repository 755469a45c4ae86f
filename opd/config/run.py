"""The configuration of a run: one pydantic model behind the YAML, the form and the command line."""

import difflib
from collections.abc import Callable, Iterator
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from opd.config.data import PromptsConfig, Section, choices
from opd.config.drafts.short_forms import with_long_forms
from opd.config.field_errors import FieldError, checked, located, raise_all
from opd.config.folders import local_folder, readable_data
from opd.config.model_files.quantized import refuse_cutting, refuse_training_all
from opd.config.models import (
    MOST_LIKELIEST,
    RouteConfig,
    StudentConfig,
    TeacherConfig,
    other_than_sharding_needs,
    unshardable,
)
from opd.config.names import check_name
from opd.config.sections import (
    CheckpointsConfig,
    EvaluationConfig,
    ObjectiveConfig,
    OptimizerConfig,
    RecordsConfig,
    SamplingConfig,
    StopConfig,
)
from opd.errors import ConfigError, UserError
from opd.loss.objective import Need, Objective
from opd.loss.objective_table import OBJECTIVES, PARAMETERS, TRAINABLE, refusal


class RunConfig(Section):
    """Everything that decides a run."""

    name: str = Field("", max_length=200, description="Display name of the run.")
    student: StudentConfig = Field(default_factory=StudentConfig)  # type: ignore[arg-type]
    teacher: TeacherConfig = Field(default_factory=TeacherConfig)  # type: ignore[arg-type]
    prompts: PromptsConfig = Field(default_factory=PromptsConfig)  # type: ignore[arg-type]
    objective: ObjectiveConfig = Field(default_factory=ObjectiveConfig)
    steps: int = Field(20, ge=1, le=1_000_000, description="Optimizer steps.")
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d{1,2})?)$",
        description="auto, cpu, cuda, cuda:N or mps. auto: the first free GPU, else mps (Apple's, "
        "which has not been tried yet), else the CPU.",
    )
    devices: int = Field(
        1,
        ge=1,
        le=64,
        description="Processes that train the run together, each with the models on a device of "
        "the kind that `device` names, and a share of the rollouts.",
    )
    sharding: Literal["none", "full"] = Field(
        "none",
        description="How the processes of a run hold the models.",
        json_schema_extra=choices(
            none="Each holds all of them.",
            full="Each holds a part of every layer: for models that do not fit a device; slower.",
        ),
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Random seed of prompts and samples.")
    sampling: SamplingConfig = Field(default_factory=SamplingConfig)  # type: ignore[arg-type]
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)  # type: ignore[arg-type]
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)  # type: ignore[arg-type]
    records: RecordsConfig = Field(default_factory=RecordsConfig)  # type: ignore[arg-type]
    checkpoints: CheckpointsConfig = Field(
        default_factory=CheckpointsConfig  # type: ignore[arg-type]
    )
    stop: StopConfig = Field(default_factory=StopConfig)  # type: ignore[arg-type]
    threads: int = Field(0, ge=0, le=1024, description="CPU threads; 0: all cores.")

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, data: Any) -> Any:
        """`teacher: some/model` is short for `teacher: {model: some/model}`."""
        return with_long_forms(data) if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _parts_fit_together(self) -> "RunConfig":
        raise_all(error for check in CHECKS for error in check(self))
        return self

    @property
    def author(self) -> str:
        """Who writes the completions: "student", "teacher" or "given"."""
        if self.sampling.source != "auto":
            return self.sampling.source
        return self.objective_entry.author

    @property
    def teacher_writes(self) -> bool:
        """Whether any completion is written by a teacher."""
        return self.author == "teacher" or self.sampling.teacher_share > 0

    @property
    def evaluates_teacher(self) -> bool:
        """Whether the teacher's own score is measured, as told or by default.

        By default not where it is the student itself and reads what the student reads: that score
        is the student's own before training.
        """
        asked = self.evaluation.teacher
        if asked is not None:
            return asked
        used = self.needs != "nothing" or self.teacher_writes
        return (
            used
            and self.prompts.grader != "none"
            and all(
                (t.kind == "model" and t.engine == "local")
                or (t.kind in ("self", "ema") and t.has_own_prompt)
                for t in self.teachers.values()
            )
        )

    @property
    def objective_entry(self) -> Objective:
        """The objective's entry in the table."""
        return OBJECTIVES[self.objective.name]

    @property
    def needs(self) -> Need:
        """What the objective needs to know of the teacher."""
        return self.objective_entry.needs

    @property
    def models(self) -> dict[str, str]:
        """Every model that the run loads, by its field's path."""
        judges = {f"{f}.model": t.model for f, t in self.teachers.items() if t.kind == "model"}
        return {"student.model": self.student.model, **judges}

    @property
    def teachers(self) -> dict[str, RouteConfig]:
        """Every teacher by its field's path, with the dtype that it has."""
        routes = {f"teacher.routes.{k}": v for k, v in self.teacher.routes.items()}
        alike = {"dtype": self.student.dtype}
        return {
            field: teacher.model_copy(update=alike) if teacher.dtype == "student" else teacher
            for field, teacher in {"teacher": self.teacher, **routes}.items()
        }


def _objective_fits(config: RunConfig) -> Iterator[FieldError]:
    objective, name = config.objective, config.objective.name
    for parameter in PARAMETERS.values():
        reason = refusal(parameter, name)
        if reason and getattr(objective, parameter.name) != parameter.default:
            yield FieldError(f"objective.{parameter.name}", reason)
    if objective.reward_weight and not config.objective_entry.takes_reward_weight:
        yield FieldError("objective.reward_weight", f"is for distillation objectives ({name})")
    if objective.uses_rewards:
        if config.prompts.grader == "none":
            yield FieldError("prompts.grader", "a reward needs a grader (got none)")
        if config.sampling.group_size < 2:
            yield FieldError(
                "sampling.group_size",
                "rewards are relative to the group, which needs at least 2 "
                f"completions (got {config.sampling.group_size})",
            )


def _samples_fit(config: RunConfig) -> Iterator[FieldError]:
    name, sampling = config.objective.name, config.sampling
    own_needed = config.objective_entry.importance_ratio or config.objective.reward_weight
    if own_needed and (config.author != "student" or sampling.teacher_share):
        yield FieldError(
            "sampling.source", f"{name} with an importance ratio needs the student's own samples"
        )
    if sampling.teacher_share and config.author != "student":
        yield FieldError(
            "sampling.teacher_share",
            f"mixes teacher samples into the student's own (sampling.source is {config.author})",
        )
    if config.teacher_writes and any(
        t.behind_server or t.kind == "none" for t in config.teachers.values()
    ):
        yield FieldError(
            "sampling.source", "only teachers in the training process can write completions"
        )


def _teachers_fit(config: RunConfig) -> Iterator[FieldError]:
    for field, teacher in config.teachers.items():
        if teacher.kind == "none" and config.needs != "nothing":
            yield FieldError(f"{field}.kind", f"{config.objective.name} needs a teacher")
        if teacher.kind == "remote":
            yield from _remote_fits(config, field, teacher)
        if teacher.engine == "vllm" and config.devices > 1:
            yield FieldError(
                "devices", f"{field}.engine vllm needs a single one (got {config.devices})"
            )
        if teacher.engine == "vllm" and config.device == "mps":
            yield FieldError("device", f"{field}.engine vllm needs auto, cpu or cuda (got mps)")


def _weights_fit(config: RunConfig) -> Iterator[FieldError]:
    """bfloat16 weights have an optimizer of their own, and an average of them would stall."""
    if config.student.weights != "bfloat16":
        return
    if config.optimizer.name != "adamw":
        yield FieldError(
            "student.weights",
            f"bfloat16 holds its moments in bfloat16 (optimizer.name is {config.optimizer.name}; "
            "take adamw)",
        )
    if any(teacher.kind == "ema" for teacher in config.teachers.values()):
        yield FieldError(
            "student.weights",
            "a moving average of bfloat16 weights would not move: take float32, or another "
            "teacher.kind than ema",
        )


def _remote_fits(config: RunConfig, field: str, teacher: RouteConfig) -> Iterator[FieldError]:
    """Whether it gives its whole vocabulary is known once the models are: here, whether it may."""
    given = f"a remote teacher gives its {field}.top_k likeliest tokens (got {teacher.top_k})"
    instead = f"set that to the size of the vocabulary, if it has at most {MOST_LIKELIEST:,}"
    whole = teacher.top_k > RouteConfig.model_fields["top_k"].default
    if config.needs == "vocabulary" and not whole:
        possible = [name for name in TRAINABLE if OBJECTIVES[name].needs != "vocabulary"]
        yield FieldError(
            "objective.name",
            f"{given}, and {config.objective.name} needs all: {instead}, or take another "
            f"(possible: {', '.join(possible)})",
        )
    if config.needs == "top_k" and teacher.top_k < config.objective.top_k:
        yield FieldError(
            "objective.top_k",
            f"at most {field}.top_k, {teacher.top_k}, the number requested from the server "
            f"(got {config.objective.top_k})",
        )
    temperatures = {
        "sampling.temperature": config.sampling.temperature,
        "evaluation.temperatures": config.evaluation.temperatures[0] or 1.0,
    }
    for name, temperature in temperatures.items():
        if temperature != 1 and not whole:
            yield FieldError(
                name, f"{given}, by which it scores only at 1 (got {temperature:g}): {instead}"
            )


def whole_vocabulary(config: RunConfig) -> str:
    """What of a run needs a teacher's whole distribution; "" where nothing does."""
    if config.needs == "vocabulary":
        return f"objective.name {config.objective.name}"
    if config.sampling.temperature != 1:
        return f"sampling.temperature {config.sampling.temperature:g}"
    first = config.evaluation.temperatures[0]
    return f"evaluation.temperatures {first:g}" if first not in (0, 1) else ""


def _stop_fits(config: RunConfig) -> Iterator[FieldError]:
    """What ends a run by its held-out score needs such scores while it trains."""
    for field in ("score", "patience"):
        if getattr(config.stop, field) is None:
            continue
        if config.evaluation.every == 0:
            yield FieldError(
                f"stop.{field}",
                "needs evaluations while the run trains: set evaluation.every to 1 or more (got 0)",
            )
        if config.prompts.grader == "none":
            yield FieldError(f"stop.{field}", "needs a grader (prompts.grader is none)")
        if 1 not in config.evaluation.pass_at:
            yield FieldError(
                f"stop.{field}", f"needs pass@1 (evaluation.pass_at is {config.evaluation.pass_at})"
            )


def _evaluation_fits(config: RunConfig) -> Iterator[FieldError]:
    if not config.evaluation.teacher:
        return
    if config.prompts.grader == "none":
        yield FieldError(
            "evaluation.teacher", "needs a grader: without one there is no score (got true)"
        )
    for field, teacher in config.teachers.items():
        if teacher.behind_server or teacher.kind == "none":
            what = "engine" if teacher.engine == "vllm" else "kind"
            yield FieldError(
                "evaluation.teacher",
                "needs teachers in the training process "
                f"({field}.{what} is {getattr(teacher, what)}; got true)",
            )


def _device_fits(config: RunConfig) -> Iterator[FieldError]:
    if config.devices > 1 and config.device not in ("auto", "cpu", "cuda"):
        yield FieldError(
            "devices", f"more than one needs device auto, cpu or cuda (got {config.device})"
        )
    if config.device == "mps":
        for field, message in unsupported_on_mps(config):
            yield FieldError(field, message)


def _engine_fits(config: RunConfig) -> Iterator[FieldError]:
    """vLLM writes what the student alone writes, from unquantized weights, for one process."""
    if config.sampling.engine == "local":
        if config.sampling.lag:
            yield FieldError(
                "sampling.lag",
                "needs sampling.engine vllm: the local loop writes where the student trains, one "
                f"after the other (got {config.sampling.lag})",
            )
        return
    student, needs = config.student, "sampling.engine vllm needs"
    if config.author != "student":
        yield FieldError(
            "sampling.source", f"{needs} the student to write the completions (got {config.author})"
        )
    if config.sampling.teacher_share:
        yield FieldError(
            "sampling.teacher_share", f"{needs} 0 here (got {config.sampling.teacher_share:g})"
        )
    if config.devices > 1:
        yield FieldError("devices", f"{needs} a single one (got {config.devices})")
    if config.device == "mps":
        yield FieldError("device", f"{needs} auto, cpu or cuda (got mps)")
    if student.quantize != "none":
        yield FieldError("student.quantize", f"{needs} none (got {student.quantize})")
    if student.model.lower().endswith(".gguf"):
        yield FieldError("student.model", f"{needs} a model folder or hub id (got a GGUF file)")


def _sharding_fits(config: RunConfig) -> Iterator[FieldError]:
    """Parts of layers are read as they are stored, and trained by AdamW."""
    if config.sharding == "none":
        return
    wanted: dict[str, tuple[object, object]] = {
        "optimizer.name": (config.optimizer.name, "adamw"),
        "optimizer.compile": (config.optimizer.compile, False),
        "sampling.engine": (config.sampling.engine, "local"),
    }
    yield from other_than_sharding_needs(wanted)
    yield from unshardable(config.student, config.teachers)


def unsupported_on_mps(config: RunConfig) -> Iterator[tuple[str, str]]:
    """(field, message) of what Apple's GPU cannot do: what needs bitsandbytes' CUDA kernels."""
    quantized = {"student.quantize": config.student.quantize} | {
        f"{name}.quantize": teacher.quantize for name, teacher in config.teachers.items()
    }
    for field, value in quantized.items():
        if value != "none":
            yield field, f"is not supported on mps (got {value}): take none, or device cpu"
    if config.optimizer.name == "adamw_8bit":
        yield "optimizer.name", "adamw_8bit is not supported on mps: take adamw, or device cpu"


CHECKS = (
    _objective_fits,
    _samples_fit,
    _teachers_fit,
    _weights_fit,
    _stop_fits,
    _evaluation_fits,
    _device_fits,
    _engine_fits,
    _sharding_fits,
)
VISIBLE_FIELDS = (
    "student.model",
    "teacher.model",
    "prompts.source",
    "objective.name",
    "steps",
    "device",
)


def parse(data: Any) -> RunConfig:
    """Validates plain data (from YAML, JSON or the form). Raises ConfigError, one entry a field."""
    try:
        return RunConfig.model_validate({} if data is None else data)
    except ValidationError as error:
        found = [p for e in error.errors(include_url=False) for p in _problems(e)]
        raise ConfigError(found) from None


def check_inputs(config: RunConfig) -> RunConfig:
    """The configuration, once its local folders and files were looked at. Raises ConfigError."""
    prompts = config.prompts
    cut = config.models if config.sharding == "full" else {}
    checks: list[tuple[Callable[..., object], str | None, str]] = [
        *((local_folder, model, field) for field, model in config.models.items()),
        (
            refuse_training_all,
            None if config.student.lora else config.student.model,
            "student.lora",
        ),
        *((refuse_cutting, model, field) for field, model in cut.items()),
        (check_name, config.name.strip(), "name"),
        (readable_data, prompts.source, "prompts.source"),
        (readable_data, prompts.eval_source, "prompts.eval_source"),
        *(
            (readable_data, suite.source, f"evaluation.suites.{name}.source")
            for name, suite in config.evaluation.suites.items()
        ),
    ]
    problems = []
    for check, value, field in checks:
        try:
            if value is not None:
                check(value, where=field)
        except UserError as error:
            problems.append({"field": field, "message": error.message})
    if problems:
        raise ConfigError(problems)
    return config


def to_yaml(config: RunConfig, *, only_set: bool = True) -> str:
    """The configuration as YAML, without what equals the defaults unless asked."""
    data = config.model_dump(mode="json", exclude_defaults=only_set)
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True) if data else "{}\n"


def _problems(error: Any) -> list[dict[str, str]]:
    """Of one entry of pydantic's errors."""
    if mistakes := checked(error):
        return [{"field": field, "message": message} for field, message in mistakes]
    field, message = located(error)
    value = error.get("input")
    if error["type"] == "extra_forbidden":
        return [{"field": field, "message": _unknown(field)}]
    if error["type"] in ("int_parsing_size", "int_from_float", "int_parsing"):
        message = "must be a whole number"
    if error["type"] == "string_pattern_mismatch" and field == "device":
        message = "must be auto, cpu, cuda, cuda:N or mps"
    if isinstance(value, (str, int, float, bool)) or value is None:
        message += f" (got {value!r:.80})"
    return [{"field": field, "message": message}]


def _unknown(field: str) -> str:
    *parents, leaf = field.split(".")
    node: Any = RunConfig
    for parent in parents:
        node = node.model_fields[parent].annotation if parent in node.model_fields else node
        node = next(
            (a for a in getattr(node, "__args__", (node,)) if hasattr(a, "model_fields")), node
        )
    fields = list(getattr(node, "model_fields", {}))
    close = difflib.get_close_matches(leaf, fields, n=1)
    hint = f"did you mean {close[0]}?" if close else f"fields here: {', '.join(fields)}"
    return f"unknown field; {hint}"
