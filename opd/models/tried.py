"""Which classes of models were tried, and with which transformers. Free of torch.

`make test-models` writes the file together with docs/models.md.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

TRIED = Path(__file__).with_name("tried.json")


@dataclass(frozen=True)
class TriedModels:
    transformers: str  # version
    works: frozenset[str]  # model types


@cache
def tried_models() -> TriedModels:
    data = json.loads(TRIED.read_text(encoding="utf-8"))
    return TriedModels(data["transformers"], frozenset(data["works"]))


def was_tried(config: Mapping[str, Any]) -> bool:
    """Does a config.json name a model type that was tried and works?"""
    return config.get("model_type") in tried_models().works
