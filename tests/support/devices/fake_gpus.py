"""GPUs that are not there: torch's answers about them, and those of the driver's own tool."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch


@dataclass(frozen=True)
class FakeCuda:
    """What torch says of its CUDA devices; `broken` is how their start fails."""

    count: int = 1
    free: float = 70e9
    total: float = 80e9
    bfloat16: bool = True
    integrated: bool = False
    broken: str = ""
    peak: float = 0.0
    reserved: float = 0.0

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def init() -> None:
            if self.broken:
                raise RuntimeError(self.broken)

        def free(_device: Any) -> tuple[int, int]:
            init()
            return int(self.free), int(self.total)

        answers: dict[str, Any] = {
            "is_available": lambda: self.count > 0,
            "device_count": lambda: self.count,
            "init": init,
            "mem_get_info": free,
            "is_bf16_supported": lambda including_emulation: including_emulation or self.bfloat16,
            "get_device_name": lambda _: "Tesla T4",
            "get_device_capability": lambda _: (9, 0) if self.bfloat16 else (7, 5),
            "max_memory_allocated": lambda _: int(self.peak),
            "max_memory_reserved": lambda _: int(self.reserved),
            "memory_reserved": lambda _: int(self.reserved),
            "reset_peak_memory_stats": lambda _: None,
            "get_device_properties": lambda _: SimpleNamespace(is_integrated=self.integrated),
        }
        for name, answer in answers.items():
            monkeypatch.setattr(torch.cuda, name, answer)
        monkeypatch.setattr(torch.cuda, "device", _Entered)
        monkeypatch.setattr(torch.version, "cuda", "13.0")


class _Entered:
    def __init__(self, device: Any) -> None:
        assert torch.device(device).type == "cuda"

    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def fake_driver(folder: Path, monkeypatch: pytest.MonkeyPatch, *lines: str, code: int = 0) -> None:
    """An nvidia-smi that prints these lines: index, uuid, name, MiB in all, MiB free, percent."""
    text = "\n".join(lines)
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\nexit {code}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
