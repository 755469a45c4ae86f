"""Whether a run's device can do what its configuration asks for, before anything is loaded."""

from collections.abc import Callable

import torch

from opd.config.run import RunConfig
from opd.config.whole_run.checks import unsupported_on_mps
from opd.devices.choice import computes_bfloat16, pick_device
from opd.errors import UserError


def run_device(config: RunConfig, say: Callable[[str], None] = lambda _: None) -> torch.device:
    """The device that the run takes. Raises UserError for one that torch does not have, and for
    settings that it cannot follow."""
    device = pick_device(config.device, say)
    if device.type == "mps":
        for field, message in unsupported_on_mps(config):
            raise UserError(message, where=field)
    fields = _in_bfloat16(config)
    if fields and not computes_bfloat16(device):
        raise UserError(
            f"{_name(device)} does not compute in bfloat16, which would be emulated, slower than "
            "float32: set it to float32, or device to another one",
            where=fields[0],
        )
    return device


def _in_bfloat16(config: RunConfig) -> list[str]:
    student = {"student.dtype": config.student.dtype, "student.weights": config.student.weights}
    fields = [field for field, dtype in student.items() if dtype == "bfloat16"]
    return fields + [
        f"{name}.dtype"
        for name, teacher in config.teachers.items()
        if teacher.kind == "model" and teacher.dtype == "bfloat16"
    ]


def _name(device: torch.device) -> str:
    if device.type != "cuda":
        return f"{device} with this version of macOS (14 or newer does)"
    major, minor = torch.cuda.get_device_capability(device)
    return f"{torch.cuda.get_device_name(device)} (compute capability {major}.{minor}, below 8.0)"
