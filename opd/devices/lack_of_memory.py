"""What is said when memory runs out during a run: where, how much there was, what asked for it."""

import os

import psutil
import torch

from opd.config.wording import size
from opd.errors import LackOfMemoryError, one_line

# By phase, with the step that was reached or is under way.
WHERE = {
    "loading": "while the models were loaded",
    "evaluation": "while evaluating after step {step}",
    "checkpoint": "while saving a checkpoint after step {step}",
    "sample": "while sampling in step {step}",
    "teacher": "while the teacher read in step {step}",
    "student": "in the student's forward and backward pass of step {step}",
    "optimizer": "in the optimizer's update of step {step}",
    "": "in step {step}",
}
OTHERS = 2e9  # bytes that a GPU's driver and libraries take without another program
QUOTED = 120  # characters of the library's own words, which say how much was asked for


def lack_of_memory(
    error: BaseException, device: torch.device, phase: str, step: int
) -> LackOfMemoryError:
    """The error of a phase, with the device's figures."""
    where = WHERE[phase].format(step=step)
    cause = f"{type(error).__name__}: {one_line(error, QUOTED)}"
    return LackOfMemoryError(
        f"out of memory {where} on {device}: {memory_figures(device)} ({cause})", phase=phase
    )


def memory_figures(device: torch.device) -> str:
    """Peak of this process, free and all memory, in words."""
    if device.type == "cuda":
        return _of_gpu(device)
    memory = psutil.virtual_memory()
    left = f"{size(memory.available)} of {size(memory.total)} are free"
    if device.type == "mps":
        taken = torch.mps.driver_allocated_memory()
        return f"the run holds {size(taken)}, {left}"
    return f"the run holds {size(psutil.Process(os.getpid()).memory_info().rss)}, {left}"


def _of_gpu(device: torch.device) -> str:
    try:
        free, total = torch.cuda.mem_get_info(device)
        peak = torch.cuda.max_memory_allocated(device)
        others = total - free - torch.cuda.memory_reserved(device)
    except RuntimeError as error:
        return f"its memory cannot be read ({one_line(error, QUOTED)})"
    text = f"the run's peak was {size(peak)}, {size(free)} of {size(total)} are free"
    return f"{text}, other programs hold about {size(others)}" if others > OTHERS else text
