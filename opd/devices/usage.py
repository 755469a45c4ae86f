"""How much of a GPU's memory a step took, as torch's allocator counts it."""

import torch


def start_of_step(device: torch.device) -> None:
    """From here on peaks are those of the step."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def memory_metrics(device: torch.device) -> dict[str, float]:
    """Bytes since the step's start: `memory_peak` of tensors at once, `memory_reserved` by the
    allocator for them, which is what other programs see beside a GPU's libraries.

    Of Apple's GPU only what is held now; nothing of a processor.
    """
    if device.type == "cuda":
        return {
            "memory_peak": float(torch.cuda.max_memory_allocated(device)),
            "memory_reserved": float(torch.cuda.max_memory_reserved(device)),
        }
    if device.type == "mps":
        return {"memory_reserved": float(torch.mps.driver_allocated_memory())}
    return {}
