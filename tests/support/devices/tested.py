"""The device of the tests that use models: OPD_TEST_DEVICE, by default the processor.

`OPD_TEST_DEVICE=cuda pytest -m device` is what a machine with a GPU runs. Such a test is marked
`device`; its configurations say `str(DEVICE)`, its jobs claim `SLOT`, and tensors that it hands to
a loaded model are made on DEVICE. What it compares with may stay on the processor, in float64.
"""

import os
from collections.abc import Mapping
from typing import Any

import torch

DEVICE = torch.device(os.environ.get("OPD_TEST_DEVICE", "cpu"))
# A job's slot names the card, whose number a run's `cuda` takes from it
SLOT = f"cuda:{DEVICE.index or 0}" if DEVICE.type == "cuda" else str(DEVICE)


def repeatable(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What the same step has again; not what its memory was, which is also that of others."""
    return {name: value for name, value in metrics.items() if not name.startswith("memory_")}
