"""The run's device: whether it is there, can do what is asked for, and has room for the run."""

import time
from collections.abc import Callable, Iterator

import torch

from opd.config.run import RunConfig
from opd.devices.choice import free_memory, unused_gpu
from opd.devices.support import run_device
from opd.doctor.findings import Finding, refused
from opd.doctor.machine.fit import check_gpu, with_sharding
from opd.doctor.memory import estimate
from opd.doctor.memory_parts import Estimate
from opd.errors import ErrorKind, UserError

PATIENCE = 5.0  # seconds that a process which has just ended may take to leave its GPU


def check_device(config: RunConfig) -> Iterator[Finding]:
    """Findings on the device by itself; takes no memory of it."""
    try:
        device = run_device(config)
        check_count(config, device.type)
    except UserError as error:
        yield refused("device-refused", "The run's device cannot be used as configured", error)
        return
    reason = unused_gpu() if config.device == "auto" else ""
    if reason:
        yield Finding(
            "gpu-unused",
            "warning",
            "The run would take the processor: the GPU here cannot be used",
            f"This machine shows a GPU, but {reason}.",
            "Make the GPU work, or set device to cpu if the processor is meant.",
        )


def check_count(config: RunConfig, kind: str) -> None:
    """Raises UserError for more processes than there are GPUs; a processor they share."""
    count = torch.cuda.device_count() if kind == "cuda" else config.devices
    if count < config.devices:
        there = "1 CUDA device" if count == 1 else f"{count} CUDA devices"
        raise UserError(
            f"{config.devices} asked for, but PyTorch finds {there} here; lower devices, or set "
            "device to cpu",
            where="devices",
        )


def device_type(config: RunConfig) -> str:
    """`cuda`, `mps` or `cpu`; the wanted one where torch does not have it."""
    try:
        return run_device(config).type
    except UserError:
        return torch.device("cuda" if config.device == "auto" else config.device).type


def check_fit(config: RunConfig, memory: Estimate) -> Finding | None:
    """The GPU's free memory now, as torch gives it, against the plan; None for a processor.

    Takes the memory of a program's start on the GPU. Raises UserError where there is no room.
    """
    free = free_memory(run_device(config))
    if free is None:
        return None
    finding = check_gpu(memory, *free)
    return with_sharding(finding, config, free[0], estimate, torch.cuda.device_count())


def before_loading(config: RunConfig, say: Callable[[str], None]) -> None:
    """Says what may go wrong on the run's device. Raises UserError for what must.

    A run that might fit is not refused: only one whose weights, gradients and moments alone are
    larger than the memory that is free.
    """
    device = run_device(config, say)
    if device.type != "cuda":
        return
    try:
        memory = estimate(config)
    except UserError:  # a model that cannot be read, which loading refuses in its own words
        memory = Estimate()
    finding = check_fit(config, memory)
    until = time.monotonic() + PATIENCE
    while finding is not None and finding.severity == "error" and time.monotonic() < until:
        time.sleep(0.2)
        finding = check_fit(config, memory)
    if finding is None or finding.severity == "ok":
        return
    text = f"{finding.title}. {finding.text} {finding.advice}"
    if finding.severity == "error":
        raise UserError(text, where="device", kind=ErrorKind.OUT_OF_MEMORY)
    say(text)
