"""Peak memory beside the doctor's plan, for everything that makes a run smaller."""

from collections.abc import Iterator, Mapping
from typing import Any

from bench.gpu.whole_steps import LORA, whole_steps
from bench.gpu.workbench import Figures, Work, Workbench
from opd.errors import ErrorKind, UserError

WORK = Work(8, 4, 128)
TOKENS = 4096  # a micro-batch; left open it grows into what memory is free
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "all weights": {},
    "all weights, compiled": {"optimizer": {"compile": True}},
    "gradient_checkpointing": {"student": {"gradient_checkpointing": True}},
    "student.weights bfloat16": {"student": {"weights": "bfloat16"}},
    "LoRA": {"student": {"lora": LORA}},
    "teacher.offload": {"teacher": {"offload": True}},
    "teacher.quantize int8": {"teacher": {"quantize": "int8"}},
    "teacher.quantize int4": {"teacher": {"quantize": "int4"}},
    "student.quantize int4, LoRA": {"student": {"quantize": "int4", "lora": LORA}},
    "optimizer adamw_8bit": {"optimizer": {"name": "adamw_8bit"}},
}
SHOWN = ("step s", "peak GiB", "plan GiB", "reserved GiB", "plan / peak", "within 15%", "loading s")


def memory(bench: Workbench) -> Iterator[Figures]:
    """A step of each after one that warms up; what needs a package that is missing says so."""
    for name, changes in SETTINGS.items():
        if bench.small and "weights" in changes.get("student", {}):
            continue  # they compute in bfloat16, and what is small in float32
        optimizer = {"micro_batch_tokens": TOKENS, **changes.get("optimizer", {})}
        config = bench.config(
            Work(2, 2, 6) if bench.small else WORK, **{**changes, "optimizer": optimizer}
        )
        try:
            values = whole_steps(bench, config, times=1)
        except UserError as error:
            if error.kind is not ErrorKind.MISSING_EXTRA:
                raise
            yield Figures(name, {"skipped": str(error)})
            continue
        yield Figures(name, {key: values[key] for key in SHOWN if key in values})
