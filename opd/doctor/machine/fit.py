"""Whether the run fits this machine, by the estimate of `opd.doctor.memory`."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import psutil

from opd.config.drafts.short_forms import with_overrides
from opd.config.run import RunConfig, parse
from opd.config.wording import size
from opd.devices.gpus import ask_driver, gpu_of
from opd.doctor import memory
from opd.doctor.findings import Finding, Severity
from opd.doctor.memory_parts import Estimate
from opd.errors import UserError

MARGIN = 1.15  # what allocators keep beyond what is asked for, and what the estimate leaves out
CONTEXT = 600_000_000  # bytes of a GPU's context and its libraries' workspaces
OTHERS = 1e9  # bytes of a GPU that are taken by no more than its driver and a display
SMALLER = (
    "Train an adapter (student.lora), in bfloat16 (student.dtype, teacher.dtype), set "
    "student.gradient_checkpointing, or lower optimizer.micro_batch_tokens and "
    "sampling.batch_size; teacher.quantize and teacher.offload make the teacher smaller."
)


def check_memory(
    config: RunConfig,
    estimate: Estimate,
    device: str,
    planned: Callable[[RunConfig], Estimate] = memory.estimate,
) -> Iterator[Finding]:
    """Against the memory of the machine, and of its GPUs as far as the driver tells.

    `device` is the type of the run's: `cpu`, `mps` (which has the machine's memory), or `cuda`;
    `planned` gives the estimate of the run with other settings.
    """
    if estimate.unknown:
        yield Finding(
            "memory-unknown",
            "info",
            "The memory estimate is incomplete",
            f"The sizes of {', '.join(estimate.unknown)} are not known before they are loaded.",
        )
    if device == "cuda":
        yield _by_driver(config, estimate, planned)
    yield from _check_host(config, estimate, in_host=device != "cuda")


def _by_driver(
    config: RunConfig, estimate: Estimate, planned: Callable[[RunConfig], Estimate]
) -> Finding:
    report = ask_driver()
    gpu = gpu_of(config.device, report)
    if config.devices > 1:  # the fullest of those that the run would take
        freest = sorted(report.gpus, key=lambda g: -(g.free or 0.0))[: config.devices]
        gpu = freest[-1] if len(freest) == config.devices else None
    if gpu is not None and gpu.free is not None and gpu.total is not None:
        finding = check_gpu(estimate, gpu.free, gpu.total)
        return with_sharding(finding, config, gpu.free, planned, len(report.gpus))
    each = f" in each of {config.devices}" if config.devices > 1 else ""
    return Finding(
        "memory-device",
        "info",
        f"About {size(estimate.device)} of a GPU's memory{each}",
        f"{size(estimate.lasting)} of it from start to end. "
        "What the GPU has is checked when the models are loaded.",
        evidence={"wanted": round(estimate.device)},
    )


def _check_host(config: RunConfig, estimate: Estimate, *, in_host: bool) -> Iterator[Finding]:
    free, total = (float(getattr(psutil.virtual_memory(), n)) for n in ("available", "total"))
    one = estimate.host + (estimate.device if in_host else 0.0)
    needed = config.devices * one  # each process has models of its own
    among = f", {size(one)} in each of {config.devices} processes" if config.devices > 1 else ""
    evidence = {"wanted": round(needed), "free": round(free), "total": round(total)}
    if needed * MARGIN > free:
        least = config.devices * (estimate.lasting + estimate.host)
        hopeless = config.device == "cpu" and least > total
        yield _too_much("memory", "error" if hopeless else "warning", (needed, free), evidence)
    elif needed:
        yield Finding(
            "memory",
            "ok",
            f"About {size(needed)} of the host's memory{among}",
            f"{size(free)} of {size(total)} are free.",
            evidence=evidence,
        )


def with_sharding(
    finding: Finding,
    config: RunConfig,
    free: float,
    planned: Callable[[RunConfig], Estimate],
    gpus: int,
) -> Finding:
    """What is too much for a GPU, with the advice to cut the models among several, where they fit
    then and there are as many."""
    if finding.severity == "ok" or config.sharding == "full":
        return finding
    count = config.devices if config.devices > 1 else gpus
    device = "cuda" if config.device.startswith("cuda") else config.device
    changes = [f"devices={count}", f"device={device}", "sharding=full"]
    try:
        needed = planned(parse(with_overrides(config.model_dump(mode="json"), changes))).device
    except UserError:  # what does not go with the run's other settings
        return finding
    if count < 2 or (needed + CONTEXT) * MARGIN > free:
        return finding
    return replace(
        finding,
        advice=f"sharding: full fits: with devices: {count} it takes about {size(needed)} of each "
        f"GPU's memory. Or: {finding.advice}",
    )


def check_gpu(estimate: Estimate, free: float, total: float) -> Finding:
    """Against a GPU's memory, of which `free` bytes are free before anything is loaded.

    An error only where what the run holds at once in any case is more than that.
    """
    needed = estimate.device + CONTEXT
    evidence = {
        "wanted": round(needed),
        "least": round(estimate.least),
        "free": round(free),
        "total": round(total),
    }
    if needed * MARGIN <= free:
        return Finding(
            "memory-device",
            "ok",
            f"About {size(needed)} of the GPU's memory",
            f"{size(free)} of {size(total)} are free.",
            evidence=evidence,
        )
    finding = _too_much(
        "memory-device",
        "error" if estimate.least > free else "warning",
        (needed, free),
        evidence,
    )
    taken = total - free
    if taken < OTHERS:
        return finding
    return replace(
        finding,
        text=f"{finding.text} Of the GPU's {size(total)}, {size(taken)} are taken already.",
        advice=f"End what holds the GPU's memory (nvidia-smi lists it), or: {finding.advice}",
    )


def _too_much(
    code: str, severity: Severity, sizes: tuple[float, float], evidence: dict[str, Any]
) -> Finding:
    needed, free = sizes
    return Finding(
        code,
        severity,
        f"About {size(needed)} of memory needed, {size(free)} free",
        "The run may run out of memory, at its first step or at its longest answers."
        if severity == "warning"
        else f"Weights, gradients and moments are {size(evidence['least'])} of it and do not fit."
        if "least" in evidence
        else "Even the weights do not fit.",
        SMALLER,
        evidence,
    )
