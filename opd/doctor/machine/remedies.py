"""Which settings would lower a run's memory, and by how much, as the estimate has it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from opd.config.drafts.short_forms import with_overrides
from opd.config.run import RunConfig, parse
from opd.doctor.memory import estimate
from opd.doctor.memory_parts import Estimate, Phase
from opd.errors import UserError

WORTH = 0.02  # of the memory needed: what saves less is not worth naming


@dataclass(frozen=True)
class Remedy:
    """`saves`: bytes on the device."""

    field: str
    value: str
    saves: float


def remedies(config: RunConfig, phase: Phase | None) -> list[Remedy]:
    """What helps most first: in a phase, or where it is None, at the run's peak.

    Empty where the run's models cannot be measured.
    """
    try:
        needed = _needed(estimate(config), phase)
    except UserError:
        return []
    helpful = []
    for field, value in _changes(config):
        try:
            changed = parse(with_overrides(config.model_dump(mode="json"), [f"{field}={value}"]))
            saves = needed - _needed(estimate(changed), phase)
        except UserError:  # what does not go with the run's other settings
            continue
        if saves > WORTH * needed:
            helpful.append(Remedy(field, value, saves))
    return sorted(helpful, key=lambda remedy: -remedy.saves)


def _needed(memory: Estimate, phase: Phase | None) -> float:
    return memory.device if phase is None else memory.during(phase)


def _changes(config: RunConfig) -> Iterator[tuple[str, Any]]:
    """Settings that may lower the memory, each by itself, with a value for this configuration."""
    sampling, student = config.sampling, config.student
    rows = min(sampling.batch_size, sampling.prompts_per_step * sampling.group_size)
    step = sampling.prompts_per_step * sampling.group_size * (sampling.max_new_tokens + 1)
    yield (
        "optimizer.micro_batch_tokens",
        max(64, min(config.optimizer.tokens_per_pass, step) // 2),
    )
    if config.devices > 1 and config.sharding == "none":
        yield "sharding", "full"
    yield "student.gradient_checkpointing", "true"
    yield "sampling.batch_size", max(1, rows // 2)
    yield "sampling.max_new_tokens", max(1, sampling.max_new_tokens // 2)
    if student.lora is None:
        yield "student.lora", "{rank: 32}"
    if student.dtype == "float32":
        yield "student.dtype", "bfloat16"
    yield "student.weights", "bfloat16"
    yield "optimizer.name", "adamw_8bit"
    for name, teacher in config.teachers.items():
        if teacher.kind == "model":
            yield f"{name}.offload", "true"
            if teacher.dtype == "float32":
                yield f"{name}.dtype", "bfloat16"
            if teacher.quantize == "none":
                yield f"{name}.quantize", "int8"
