"""The device of a run, as torch has it: chosen, checked and measured before anything is loaded."""

import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor

from opd.devices.gpus import ask_driver, gpu_count
from opd.errors import ErrorKind, UserError, one_line

FIELD = "device"


def pick_device(name: str, say: Callable[[str], None] = lambda _: None) -> torch.device:
    """`auto` is the first GPU, else Apple's, else the processor.

    Raises UserError for a device that torch does not have, with its reason. A GPU that the machine
    shows and `auto` cannot take is said.
    """
    if name == "auto":
        return _best(say)
    device = torch.device(name)
    if device.type == "cuda":
        count = _cuda_count()
        if not count:
            raise UserError(
                f"{name} cannot be used: {why_no_cuda()}; or use auto or cpu", where=FIELD
            )
        if (device.index or 0) >= count:
            there = "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
            raise UserError(
                f"{name} asked for, but PyTorch finds {count} CUDA "
                f"device{'' if count == 1 else 's'} here; use {there}, auto or cpu",
                where=FIELD,
            )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError(f"mps cannot be used: {_why_no_mps()}; use auto or cpu", where=FIELD)
    return device


def unused_gpu() -> str:
    """Why `auto` cannot take a GPU that this machine shows; empty where nothing is amiss."""
    return why_no_cuda() if gpu_count() and not _cuda_count() else ""


def why_no_cuda() -> str:
    """Why torch has no CUDA device, in its own words or the driver's, and what to do."""
    if torch.version.cuda is None and torch.version.hip is None:
        return (
            f"this PyTorch ({torch.__version__}) was built without CUDA: install a build with CUDA "
            "(the command is on pytorch.org)"
        )
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        reason = "PyTorch finds no CUDA device"
    except (RuntimeError, AssertionError) as error:
        reason = one_line(error)
    trouble = ask_driver().trouble
    said = f" (nvidia-smi: {trouble})" if trouble else ""
    return f"{reason}{said}: check the driver with nvidia-smi, and CUDA_VISIBLE_DEVICES"


def computes_bfloat16(device: torch.device) -> bool:
    """Whether the device itself does; emulated, each product costs several in float32."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "mps":
        return bool(torch.backends.mps.is_macos_or_newer(14, 0))
    return True


def widest(device: torch.device) -> torch.dtype:
    """The widest floating-point type of a device: Apple's has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def on_device(values: NDArray[Any], device: torch.device) -> Tensor:
    """An array as a tensor on the device, in float32 where that has no float64."""
    if values.dtype == np.float64 and widest(device) == torch.float32:
        values = values.astype(np.float32)
    return torch.from_numpy(values).to(device)


def free_memory(device: torch.device) -> tuple[float, float] | None:
    """Free and all bytes of a GPU; None for a processor and for Apple's, which shares its memory.

    Raises UserError where the GPU has not even room for a program's start on it. A GPU that shares
    the machine's memory does not count what the system would give up for it.
    """
    if device.type != "cuda":
        return None
    try:
        free, total = map(float, torch.cuda.mem_get_info(device))
    except (RuntimeError, AssertionError) as error:
        lack = "memory" in str(error)
        raise UserError(
            f"{device} cannot be used: {one_line(error)}; see with nvidia-smi which other program "
            "holds it, or use another device",
            where=FIELD,
            kind=ErrorKind.OUT_OF_MEMORY if lack else ErrorKind.BAD_INPUT,
        ) from None
    if torch.cuda.get_device_properties(device).is_integrated:
        free = max(free, float(psutil.virtual_memory().available))
    return free, total


def allocatable_memory(device: torch.device) -> int | None:
    """Bytes that nobody holds, and those that torch keeps for later; None but on CUDA devices."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def free_bytes(device: torch.device) -> int:
    """What can still be allocated there, in the machine's memory where it has none of its own."""
    free = allocatable_memory(device)
    return int(psutil.virtual_memory().available) if free is None else free


def give_back_memory() -> None:
    """What the allocators keep in reserve, back to the device; initializes none."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
    elif sys.platform == "darwin" and torch.backends.mps.is_available():
        torch.mps.empty_cache()


def _best(say: Callable[[str], None]) -> torch.device:
    if _cuda_count():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    reason = unused_gpu()
    if reason:
        say(f"the processor is used, for the GPU here cannot be: {reason}")
    return torch.device("cpu")


def _cuda_count() -> int:
    """CUDA devices that torch can use; a driver in trouble warns or raises in some versions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return torch.cuda.device_count() if torch.cuda.is_available() else 0
        except (RuntimeError, AssertionError):
            return 0


def _why_no_mps() -> str:
    if not torch.backends.mps.is_built():
        return f"this PyTorch ({torch.__version__}) was built without it"
    return "it needs a Mac with Apple silicon and macOS 13 or newer"
