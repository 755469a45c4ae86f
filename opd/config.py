"""The configuration of a run: one pydantic model behind the YAML, the form and the command line."""

import copy
import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from opd.folders import local_folder, readable_file
from opd.types import FinishReason as FinishReason
from opd.types import Kind as Kind
from opd.types import RunStatus as RunStatus
from opd.types import UserError as UserError

MAX_YAML_BYTES = 64_000
MAX_YAML_DEPTH = 20
SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
Probability = Annotated[float, Field(ge=0, le=1)]


class ConfigError(UserError):
    """A configuration that cannot run; `problems` has one entry a field: {"field", "message"}."""

    def __init__(self, problems: list[dict[str, str]]) -> None:
        self.problems = problems
        text = "; ".join(
            f"{p['field']}: {p['message']}" if p["field"] else p["message"] for p in problems
        )
        super().__init__(text, kind="bad configuration")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LoraConfig(_Section):
    rank: int = Field(32, ge=1, le=1024, description="Rank of the adapter's matrices.")
    alpha: float = Field(64.0, gt=0, le=4096, description="Scale of the adapter: alpha / rank.")
    targets: Literal["all-linear"] | list[str] = Field(
        "all-linear", description="Module names that get an adapter, or all-linear."
    )


class StudentConfig(_Section):
    model: str = Field(
        "bundled/student",
        min_length=1,
        max_length=1000,
        description="The model that is trained: bundled/student, a local folder or a hub id.",
    )
    lora: LoraConfig | None = Field(
        None, description="Train a low-rank adapter instead of all weights."
    )


class TeacherConfig(_Section):
    model: str = Field(
        "bundled/teacher",
        min_length=1,
        max_length=1000,
        description="The coach that judges every token: bundled/teacher, a folder or a hub id.",
    )


class PromptsConfig(_Section):
    source: str = Field(
        "bundled",
        min_length=1,
        max_length=1000,
        description="bundled (word problems), or a JSON-lines file of prompt and optional answer.",
    )
    count: int = Field(
        2048, ge=1, le=1_000_000, description="How many training prompts to draw from the source."
    )
    problem_steps: int = Field(
        3, ge=1, le=6, description="Length of the bundled problems, in reasoning steps."
    )
    eval_source: str | None = Field(
        None,
        max_length=1000,
        description="JSON-lines file for evaluation; without it, a share of source is held out.",
    )
    eval_share: float = Field(
        0.1, gt=0, le=0.5, description="Share of source held out when there is no eval_source."
    )
    grader: Literal["exact", "none"] = Field(
        "exact", description="exact: the text after </think> equals the answer; none: no reward."
    )


class ObjectiveConfig(_Section):
    name: Literal["reverse_kl", "policy_gradient"] = Field(
        "reverse_kl",
        description="reverse_kl: exact, over the whole vocabulary. policy_gradient: the sampled "
        "token's log-ratio as advantage, with importance sampling.",
    )
    reduction: Literal["token_mean", "sum"] = Field(
        "token_mean",
        description="token_mean divides by the step's count of completion tokens; sum does not.",
    )
    coefficient: float = Field(
        1.0, gt=0, le=1000, description="Weight of the advantage (policy_gradient)."
    )
    clip: float | None = Field(
        None,
        gt=0,
        le=10,
        description="Clip of the importance ratio to 1 ± this (policy_gradient); empty: none.",
    )


class SamplingConfig(_Section):
    prompts_per_step: int = Field(32, ge=1, le=4096, description="Prompts in one step.")
    group_size: int = Field(4, ge=1, le=1024, description="Completions of each prompt.")
    max_new_tokens: int = Field(64, ge=1, le=131_072, description="Limit of a completion's length.")
    temperature: float = Field(
        1.0, gt=0, le=10, description="Of student and teacher alike, sampling and scoring."
    )
    batch_size: int = Field(64, ge=1, le=4096, description="Rollouts decoded together.")


class OptimizerConfig(_Section):
    learning_rate: float = Field(1e-3, gt=0, le=1, description="Of AdamW.")
    weight_decay: float = Field(0.0, ge=0, le=1, description="Of AdamW, decoupled.")
    beta1: float = Field(0.9, ge=0, lt=1, description="Decay of AdamW's first moment.")
    beta2: float = Field(0.95, ge=0, lt=1, description="Decay of AdamW's second moment.")
    warmup_steps: int = Field(0, ge=0, le=100_000, description="Steps of linear warm-up.")
    max_grad_norm: float = Field(1.0, gt=0, le=1e6, description="Limit of the gradient's norm.")
    micro_batch_tokens: int = Field(
        8192, ge=64, le=10_000_000, description="Tokens of one forward and backward pass."
    )


class EvaluationConfig(_Section):
    every: int = Field(
        0, ge=0, le=1_000_000, description="Steps between evaluations; 0: first and last only."
    )
    prompts: int = Field(200, ge=1, le=100_000, description="Held-out prompts evaluated.")
    temperatures: list[Annotated[float, Field(ge=0, le=10)]] = Field(
        [1.0, 0.0], min_length=1, max_length=8, description="One evaluation at each; 0 is greedy."
    )
    keep: int = Field(16, ge=0, le=10_000, description="Evaluated rollouts kept with their tokens.")


class RecordsConfig(_Section):
    every: int = Field(1, ge=1, le=1_000_000, description="Steps between kept token records.")
    rollouts_per_step: int = Field(
        128, ge=0, le=100_000, description="Rollouts kept of each such step."
    )
    top_k: int = Field(8, ge=0, le=64, description="Alternatives kept a token, of each model.")
    hot_tokens: int = Field(3, ge=0, le=64, description="Worst tokens indexed of each rollout.")
    budget_mb: int = Field(
        1000,
        ge=1,
        le=10_000_000,
        description="Limit of the run's token records; each step keeps its share of it.",
    )


class CheckpointsConfig(_Section):
    every: int = Field(
        0, ge=0, le=1_000_000, description="Steps between checkpoints; 0: at the end only."
    )
    keep: int = Field(2, ge=1, le=1000, description="The newest kept; older ones are removed.")


class RunConfig(_Section):
    """Everything that decides a run."""

    name: str = Field("", max_length=200, description="What the run is called; free text.")
    student: StudentConfig = Field(default_factory=StudentConfig)  # type: ignore[arg-type]
    teacher: TeacherConfig = Field(default_factory=TeacherConfig)  # type: ignore[arg-type]
    prompts: PromptsConfig = Field(default_factory=PromptsConfig)  # type: ignore[arg-type]
    objective: ObjectiveConfig = Field(default_factory=ObjectiveConfig)  # type: ignore[arg-type]
    steps: int = Field(20, ge=1, le=1_000_000, description="Optimizer updates.")
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d{1,2})?)$",
        description="auto takes the first free GPU, or the processor where there is none.",
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Decides prompts and samples.")
    sampling: SamplingConfig = Field(default_factory=SamplingConfig)  # type: ignore[arg-type]
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)  # type: ignore[arg-type]
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)  # type: ignore[arg-type]
    records: RecordsConfig = Field(default_factory=RecordsConfig)  # type: ignore[arg-type]
    checkpoints: CheckpointsConfig = Field(
        default_factory=CheckpointsConfig  # type: ignore[arg-type]
    )
    threads: int = Field(0, ge=0, le=1024, description="Processor threads; 0: all cores.")

    @field_validator("student", "teacher", mode="before")
    @classmethod
    def _model_by_name(cls, value: Any) -> Any:
        """`teacher: some/model` is short for `teacher: {model: some/model}`."""
        return {"model": value} if isinstance(value, str) else value

    @field_validator("prompts", mode="before")
    @classmethod
    def _source_by_name(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value

    @field_validator("objective", mode="before")
    @classmethod
    def _objective_by_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _clip_needs_ratio(self) -> "RunConfig":
        if self.objective.clip is not None and self.objective.name != "policy_gradient":
            raise ValueError("objective.clip: only policy_gradient has an importance ratio to clip")
        return self


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
        raise ConfigError([_problem(e) for e in error.errors(include_url=False)]) from None


def check_inputs(config: RunConfig) -> RunConfig:
    """The configuration, once its local folders and files were looked at. Raises ConfigError."""
    prompts = config.prompts
    checks: list[tuple[Callable[..., object], str | None, str]] = [
        (local_folder, config.student.model, "student.model"),
        (local_folder, config.teacher.model, "teacher.model"),
        (readable_file, None if prompts.source == "bundled" else prompts.source, "prompts.source"),
        (readable_file, prompts.eval_source, "prompts.eval_source"),
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


def load_yaml(text: str, *, where: str = "configuration") -> dict[str, Any]:
    """Parses YAML text into a mapping. Raises UserError for bad YAML or too much of it."""
    if len(text.encode()) > MAX_YAML_BYTES:
        raise UserError(f"over the limit of {MAX_YAML_BYTES} bytes", where=where)
    try:
        _check_shape(text, where)
        data = yaml.load(text, Loader=SafeLoader)  # the safe loader, in C where it is built
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(f"not valid YAML: {' '.join(str(error).split())}", where=where) from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise UserError("must be a mapping of fields to values", where=where)
    return data


def _check_shape(text: str, where: str) -> None:
    """Refuses aliases (a few lines of them expand to gigabytes) and deep nesting, while parsing."""
    depth = 0
    for event in yaml.parse(text, SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise UserError("YAML aliases (*name) are not taken; write the value out", where=where)
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_YAML_DEPTH:
            raise UserError(f"nested deeper than the limit of {MAX_YAML_DEPTH}", where=where)


def read_file(path: Path) -> dict[str, Any]:
    try:
        return load_yaml(path.read_text(encoding="utf-8"), where=str(path))
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=str(path)) from None
    except UnicodeDecodeError:
        raise UserError("is not UTF-8 text", where=str(path)) from None


def with_overrides(data: dict[str, Any], assignments: list[str]) -> dict[str, Any]:
    """Applies `a.b=value` assignments; a value is read as YAML, so 1e-4, null and [1, 0] work."""
    result: dict[str, Any] = copy.deepcopy(data)
    for assignment in assignments:
        path, separator, raw = assignment.partition("=")
        if not separator or not path.strip():
            raise UserError("must look like field=value", where=f"--set {assignment}")
        *parents, leaf = path.strip().split(".")
        node = result
        for parent in parents:
            child = node.get(parent)
            if isinstance(child, str) and parent in ("student", "teacher"):
                child = {"model": child}
            elif isinstance(child, str) and parent in ("prompts", "objective"):
                child = {"source" if parent == "prompts" else "name": child}
            node[parent] = child if isinstance(child, dict) else {}
            node = node[parent]
        node[leaf] = _scalar(raw, where=f"--set {path}")
    return result


def to_yaml(config: RunConfig, *, only_set: bool = True) -> str:
    """The configuration as YAML, without what equals the defaults unless asked."""
    data = config.model_dump(mode="json", exclude_defaults=only_set)
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True) if data else "{}\n"


def _scalar(raw: str, *, where: str) -> Any:
    try:
        _check_shape(raw, where)
        value = yaml.load(raw, Loader=SafeLoader)
    except (yaml.YAMLError, RecursionError, ValueError):  # ValueError: 2001-99-99 is no date
        raise UserError(f"{raw[:80]!r} cannot be read as a value", where=where) from None
    if isinstance(value, str):
        try:  # YAML 1.1 reads 1e-4 as text
            return float(value)
        except ValueError:
            return value
    return value


def _problem(error: Any) -> dict[str, str]:
    field = ".".join(str(part) for part in error["loc"])
    value = error.get("input")
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        return {"field": field, "message": _unknown(field)}
    if not field and ": " in message:  # a check over several fields names its own
        field, _, message = message.partition(": ")
        return {"field": field, "message": message}
    if error["type"] in ("int_parsing_size", "int_from_float", "int_parsing"):
        message = "must be a whole number"
    if error["type"] == "string_pattern_mismatch" and field == "device":
        message = "must be auto, cpu, cuda or cuda:N"
    if isinstance(value, (str, int, float, bool)) or value is None:
        message += f" (got {value!r:.80})"
    return {"field": field, "message": message}


def _unknown(field: str) -> str:
    *parents, leaf = field.split(".")
    node: Any = RunConfig
    for parent in parents:
        node = node.model_fields[parent].annotation if parent in node.model_fields else node
        node = next(
            (a for a in getattr(node, "__args__", (node,)) if hasattr(a, "model_fields")), node
        )
    known = list(getattr(node, "model_fields", {}))
    close = difflib.get_close_matches(leaf, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"
    return f"unknown field; {hint}"
