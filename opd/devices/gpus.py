"""NVIDIA GPUs as the system and their driver tell of them. Free of torch; takes no memory of a GPU.

A figure that the driver does not give is None. Numbers are those of the visible GPUs, as in
`cuda:N`; on a machine with different models CUDA may count them in another order than the driver.
"""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from opd.errors import one_line

FIELDS = "index,uuid,name,memory.total,memory.free,utilization.gpu"
COMMAND = ("nvidia-smi", f"--query-gpu={FIELDS}", "--format=csv,noheader,nounits")
PATIENCE = 5.0  # seconds; a driver in trouble may never answer
MIB = 2**20


@dataclass(frozen=True)
class Gpu:
    """total, free: bytes; use: percent of the last second or so in which it computed."""

    number: int
    name: str
    total: float | None
    free: float | None
    use: float | None


@dataclass(frozen=True)
class DriverReport:
    """The visible GPUs; `trouble` is what the driver's own tool says where it fails."""

    gpus: tuple[Gpu, ...] = ()
    trouble: str = ""


def gpu_count() -> int:
    """GPUs that this machine shows, or those that CUDA_VISIBLE_DEVICES leaves visible."""
    present = sum(bool(re.fullmatch(r"nvidia\d+", p.name)) for p in Path("/dev").glob("nvidia*"))
    names = _visible()
    return present if names is None else min(present, len(names))


def ask_driver() -> DriverReport:
    """By nvidia-smi, which comes with the driver; an empty report where there is none."""
    try:
        done = subprocess.run(COMMAND, capture_output=True, text=True, timeout=PATIENCE)
    except OSError:
        return DriverReport()
    except subprocess.TimeoutExpired:
        return DriverReport(trouble=f"nvidia-smi does not answer within {PATIENCE:g} s")
    if done.returncode:
        return DriverReport(trouble=one_line(RuntimeError(f"{done.stdout} {done.stderr}")))
    return DriverReport(tuple(_visible_rows([_row(line) for line in done.stdout.splitlines()])))


def gpu_of(device: str, report: DriverReport) -> Gpu | None:
    """The GPU behind `cuda` or `cuda:N`; behind `auto` the one with the most free memory.

    None behind anything else, and where the driver tells of none.
    """
    if not re.fullmatch(r"auto|cuda(:\d+)?", device):
        return None
    if device == "auto":
        return max(report.gpus, key=lambda gpu: gpu.free or 0.0, default=None)
    number = int(device.partition(":")[2] or 0)
    return next((gpu for gpu in report.gpus if gpu.number == number), None)


def _visible() -> list[str] | None:
    """The entries of CUDA_VISIBLE_DEVICES up to the first that is not valid; None without it."""
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    if value is None:
        return None
    names = [name.strip() for name in value.split(",")]
    names = names[: names.index("-1")] if "-1" in names else names
    return [name for name in names if name]


def _row(line: str) -> list[str]:
    return [part.strip() for part in line.split(",")]


def _visible_rows(rows: list[list[str]]) -> list[Gpu]:
    """Named by number or by the beginning of the UUID; slices of a GPU (MIG) are not known here."""
    whole = [row for row in rows if len(row) == len(FIELDS.split(","))]
    names = _visible()
    if names is not None:
        chosen = [
            [row for row in whole if row[0] == name or (name and row[1].startswith(name))][:1]
            for name in names
        ]
        whole = [row for match in chosen for row in match] if all(chosen) else []
    return [
        Gpu(number, name, _bytes(total), _bytes(free), _number(use))
        for number, (_, _, name, total, free, use) in enumerate(whole)
    ]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:  # [N/A]
        return None


def _bytes(text: str) -> float | None:
    mib = _number(text)
    return None if mib is None else mib * MIB
