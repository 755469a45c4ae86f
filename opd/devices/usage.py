"""How much of a GPU's memory a step took, as torch's allocator counts it."""

import torch

# Peaks of the step before something within it was measured for itself: tensors, reserved.
_before: dict[torch.device, tuple[int, int]] = {}


def start_of_step(device: torch.device) -> None:
    """From here on peaks are those of the step."""
    _before.pop(device, None)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_from_here(device: torch.device) -> None:
    """Begins a measurement by torch's peak within a CUDA step, whose own peaks are kept."""
    _before[device] = _peaks(device)
    torch.cuda.reset_peak_memory_stats(device)


def memory_metrics(device: torch.device) -> dict[str, float]:
    """Bytes since the step's start: `memory_peak` of tensors at once, `memory_reserved` by the
    allocator for them, which is what other programs see beside a GPU's libraries.

    Of Apple's GPU only what is held now; nothing of a processor.
    """
    if device.type == "cuda":
        peak, reserved = _peaks(device)
        return {"memory_peak": float(peak), "memory_reserved": float(reserved)}
    if device.type == "mps":
        return {"memory_reserved": float(torch.mps.driver_allocated_memory())}
    return {}


def _peaks(device: torch.device) -> tuple[int, int]:
    tensors, reserved = _before.get(device, (0, 0))
    return (
        max(tensors, torch.cuda.max_memory_allocated(device)),
        max(reserved, torch.cuda.max_memory_reserved(device)),
    )
