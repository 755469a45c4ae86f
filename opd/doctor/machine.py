"""Whether the run fits this machine, by the estimate of `opd.doctor.memory`."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from opd.config.run import RunConfig
from opd.doctor.findings import Finding, Severity, size
from opd.doctor.memory import Estimate

MARGIN = 1.15  # what allocators keep beyond what is asked for, and what the estimate leaves out
CONTEXT = 600_000_000  # bytes of a GPU's context and its libraries' workspaces
SMALLER = (
    "Train an adapter (student.lora), in bfloat16 (student.dtype, teacher.dtype), set "
    "student.gradient_checkpointing, or lower optimizer.micro_batch_tokens and "
    "sampling.batch_size; teacher.quantize and teacher.offload make the teacher smaller."
)


def check_host(config: RunConfig, estimate: Estimate) -> Iterator[Finding]:
    """Against the machine's memory, where the run trains on the processor."""
    if estimate.unknown:
        yield Finding(
            "memory-unknown",
            "info",
            "The memory estimate is incomplete",
            f"The sizes of {', '.join(estimate.unknown)} are not known before they are loaded.",
        )
    free, total = (float(getattr(psutil.virtual_memory(), n)) for n in ("available", "total"))
    on_processor = config.device == "cpu" or (config.device == "auto" and not _gpus())
    needed = estimate.host + (estimate.device if on_processor else 0.0)
    evidence = {"wanted": round(needed), "free": round(free), "total": round(total)}
    if not on_processor:
        yield Finding(
            "memory-device",
            "info",
            f"About {size(estimate.device)} of a GPU's memory",
            f"{size(estimate.lasting)} of it from start to end"
            + (f", and {size(estimate.host)} of the host's memory" if estimate.host else "")
            + ". What the GPU has is checked when the models are loaded.",
            evidence=evidence,
        )
    if needed * MARGIN > free:
        hopeless = config.device == "cpu" and estimate.lasting + estimate.host > total
        yield _too_much("memory", "error" if hopeless else "warning", (needed, free), evidence)
    elif on_processor:
        yield Finding(
            "memory",
            "ok",
            f"About {size(estimate.device)} of memory",
            f"{size(free)} of {size(total)} are free.",
            evidence=evidence,
        )


def check_device(estimate: Estimate, free: float, total: float) -> Finding:
    """Against a GPU's memory, of which `free` bytes were free before anything was loaded."""
    needed = estimate.device + CONTEXT
    evidence = {"wanted": round(needed), "free": round(free), "total": round(total)}
    if needed * MARGIN > free:
        severity: Severity = "error" if estimate.lasting > free else "warning"
        return _too_much("memory-device", severity, (needed, free), evidence)
    return Finding(
        "memory-device",
        "ok",
        f"About {size(needed)} of the GPU's memory",
        f"{size(free)} of {size(total)} were free.",
        evidence=evidence,
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
        else "Even the weights do not fit.",
        SMALLER,
        evidence,
    )


def _gpus() -> bool:
    """Whether this machine shows a GPU; asked of the system, which takes no memory of it."""
    return os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1") and any(
        Path("/dev").glob("nvidia[0-9]*")
    )
