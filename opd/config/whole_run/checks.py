"""What must hold between the parts of a run's configuration."""

from collections.abc import Iterator

from opd.config.field_errors import FieldError
from opd.config.models import MOST_LIKELIEST, RouteConfig
from opd.config.whole_run.fields import RunFields
from opd.loss.objective_table import OBJECTIVES, PARAMETERS, TRAINABLE, refusal


def _objective_fits(config: RunFields) -> Iterator[FieldError]:
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


def _samples_fit(config: RunFields) -> Iterator[FieldError]:
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


def _teachers_fit(config: RunFields) -> Iterator[FieldError]:
    for field, teacher in config.teachers.items():
        if teacher.kind == "none" and config.needs != "nothing":
            yield FieldError(f"{field}.kind", f"{config.objective.name} needs a teacher")
        if teacher.kind == "remote":
            yield from _remote_fits(config, field, teacher)
        if teacher.engine == "vllm":
            yield from _device_of_vllm_fits(config, f"{field}.engine vllm needs")


def _weights_fit(config: RunFields) -> Iterator[FieldError]:
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


def _remote_fits(config: RunFields, field: str, teacher: RouteConfig) -> Iterator[FieldError]:
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


def whole_vocabulary(config: RunFields) -> str:
    """What of a run needs a teacher's whole distribution; "" where nothing does."""
    if config.needs == "vocabulary":
        return f"objective.name {config.objective.name}"
    if config.sampling.temperature != 1:
        return f"sampling.temperature {config.sampling.temperature:g}"
    first = config.evaluation.temperatures[0]
    return f"evaluation.temperatures {first:g}" if first not in (0, 1) else ""


def _stop_fits(config: RunFields) -> Iterator[FieldError]:
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


def _evaluation_fits(config: RunFields) -> Iterator[FieldError]:
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


def _device_fits(config: RunFields) -> Iterator[FieldError]:
    if config.devices > 1 and config.device not in ("auto", "cpu", "cuda"):
        yield FieldError(
            "devices", f"more than one needs device auto, cpu or cuda (got {config.device})"
        )
    if config.device == "mps":
        for field, message in unsupported_on_mps(config):
            yield FieldError(field, message)


def _engine_fits(config: RunFields) -> Iterator[FieldError]:
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
    yield from _device_of_vllm_fits(config, needs)
    if student.quantize != "none":
        yield FieldError("student.quantize", f"{needs} none (got {student.quantize})")
    if student.model.lower().endswith(".gguf"):
        yield FieldError("student.model", f"{needs} a model folder or hub id (got a GGUF file)")


def _device_of_vllm_fits(config: RunFields, needs: str) -> Iterator[FieldError]:
    if config.devices > 1:
        yield FieldError("devices", f"{needs} a single one (got {config.devices})")
    if config.device == "mps":
        yield FieldError("device", f"{needs} auto, cpu or cuda (got mps)")


def _sharding_fits(config: RunFields) -> Iterator[FieldError]:
    """Parts of layers are read as they are stored, and trained by AdamW."""
    if config.sharding == "none":
        return
    required: dict[str, tuple[object, object]] = {
        "optimizer.name": (config.optimizer.name, "adamw"),
        "optimizer.compile": (bool(config.optimizer.compile), False),
        "sampling.engine": (config.sampling.engine, "local"),
        "student.weights": (config.student.weights, "float32"),
        "student.quantize": (config.student.quantize, "none"),
    }
    for field, teacher in config.teachers.items():
        if teacher.kind == "ema":
            yield FieldError(
                f"{field}.kind", "sharding full needs a teacher that is no moving average (got ema)"
            )
        required[f"{field}.quantize"] = (teacher.quantize, "none")
        required[f"{field}.offload"] = (teacher.offload, False)
    for field, (value, needed) in required.items():
        if value != needed:
            got, takes = (str(v).lower() if isinstance(v, bool) else v for v in (value, needed))
            yield FieldError(field, f"sharding full needs {takes} (got {got})")
    for field, model in config.models.items():
        if model.lower().endswith(".gguf"):
            yield FieldError(
                field, "sharding full needs a model folder or hub id (got a GGUF file)"
            )


def _nodes_fit(config: RunFields) -> Iterator[FieldError]:
    if config.devices % config.resources.nodes:
        yield FieldError(
            "resources.nodes",
            f"must divide devices ({config.devices}) evenly (got {config.resources.nodes})",
        )


def unsupported_on_mps(config: RunFields) -> Iterator[tuple[str, str]]:
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
    _nodes_fit,
)
