"""The doctor: everything that can be known about a run before it starts.

The static part reads configurations, tokenizers and local data; it loads no weights and uses no
network. The dynamic part loads the models as the run would and lets the student answer a few
prompts.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from opd.config.run import RunConfig
from opd.doctor.data.texts import check_texts
from opd.doctor.ends import check_ends, check_student_end
from opd.doctor.findings import Finding, healthy, refused, worst_first
from opd.doctor.machine.device import check_device, device_type
from opd.doctor.machine.engine import check_engine
from opd.doctor.machine.fit import check_memory
from opd.doctor.memory import estimate
from opd.doctor.memory_parts import Estimate
from opd.doctor.models import (
    check_class,
    check_parameters,
    check_rows,
    check_vocabulary,
    look_up,
)
from opd.doctor.prompts import check_prompts, read_prompts
from opd.doctor.settings import check_settings
from opd.errors import UserError
from opd.training.loading import Callbacks


def examine(config: RunConfig, *, models: bool, callbacks: Callbacks) -> Iterator[Finding]:
    """Findings as they are made; with `models`, those of the dynamic part follow.

    An error of the static part ends the examination: the models would not be loaded either.
    """
    failed = False
    for finding in static(config, callbacks.say):
        failed = failed or finding.severity == "error"
        yield finding
    if models and not failed and config.sharding == "full" and config.devices > 1:
        yield Finding(
            "models-cut",
            "info",
            f"The models are cut among {config.devices} processes, and not loaded here",
            "What is tried with loaded models (speed, batches, a few answers) is left out: one "
            "process may not hold them.",
            "To have it tried all the same, examine the run with sharding: none.",
        )
    elif models and not failed:
        from opd.doctor.dynamic import dynamic  # noqa: PLC0415 - only where models are loaded

        yield from dynamic(config, callbacks)


def static(config: RunConfig, say: Callable[[str], None]) -> Iterator[Finding]:
    """Findings that need neither weights nor a network."""
    yield from check_settings(config)
    yield from check_device(config)
    yield from check_engine(config)
    say("comparing tokenizers")
    models = look_up(config)
    yield from models.findings
    if models.student is not None:
        yield from check_student_end(models.student)
        yield from check_rows(models.student)
        yield from check_class(models.student)
        yield from check_parameters(models.student, adapter=config.student.lora is not None)
        for teacher in models.teachers.values():
            yield from check_class(teacher)
            yield from check_vocabulary(models.student, teacher)
            yield from check_ends(models.student, teacher)
            yield from check_rows(teacher)
    say("reading prompts")
    available, findings = read_prompts(config, models)
    yield from findings
    yield from check_prompts(config, models, available)
    if models.student is not None and available.prompts is not None:
        yield from check_texts(config, models.student, available.prompts.train)
    counts = models.student.counts if models.student is not None else None
    trained = counts.trainable if counts is not None else None
    memory = memory_of(config, prompt_tokens=available.longest, trained=trained)
    if isinstance(memory, Finding):
        yield memory
    else:
        planned = partial(estimate, prompt_tokens=available.longest, trained=trained)
        yield from check_memory(config, memory, device_type(config), planned)


def memory_of(
    config: RunConfig, *, prompt_tokens: int | None = None, trained: int | None = None
) -> Estimate | Finding:
    """The estimate, or why there is none."""
    try:
        return estimate(config, prompt_tokens=prompt_tokens, trained=trained)
    except UserError as error:
        return refused("memory-refused", "Memory cannot be estimated", error)


def report(config: RunConfig, findings: Sequence[Finding]) -> dict[str, Any]:
    """Plain data: {"ok", "findings", "memory"}; memory is null where it cannot be estimated."""
    longest = [f.evidence["longest"] for f in findings if f.code == "prompts-fit"]
    trained = [f.evidence["trainable"] for f in findings if f.code == "parameters"]
    memory = memory_of(
        config,
        prompt_tokens=longest[0] if longest else None,
        trained=trained[0] if trained else None,
    )
    return {
        "ok": healthy(findings),
        "findings": [f.as_dict() for f in worst_first(findings)],
        "memory": None if isinstance(memory, Finding) else memory.as_dict(),
    }
