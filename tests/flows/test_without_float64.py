"""A device without float64 (Apple's) meets none: neither a run nor a chat makes such a tensor.

The processor stands for that device, told to have no float64 either.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from opd.config.run import RunConfig, parse
from opd.devices import choice
from opd.interactive.scored_chat import ReplySettings, ReplyWriter
from opd.training.loading import Callbacks, load_models
from opd.training.trainer import Training
from opd.types import StepEvent
from tests.support.tiny_models import save_pair


class NoFloat64(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        wide = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        assert all(x.dtype != torch.float64 for x in wide), f"{func} makes float64"
        return result


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(choice, "widest", lambda _: torch.float32)
    yield


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pair(tmp_path_factory.mktemp("models"))


def config(inputs: Path, **changes: Any) -> RunConfig:
    return parse(
        {
            "student": str(inputs / "student"),
            "teacher": str(inputs / "teacher"),
            "prompts": str(inputs / "prompts.jsonl"),
            "steps": 2,
            "device": "cpu",
            "threads": 1,
            "sampling": {"prompts_per_step": 2, "group_size": 2, "max_new_tokens": 6},
            "evaluation": {"prompts": 2, "keep": 1, "temperatures": [1.0, 0.0]},
            **changes,
        }
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"objective": {"name": "policy_gradient", "gamma": 0.9}},
        {"objective": "grpo", "teacher": {"kind": "none"}},
        {"objective": {"name": "student_top_k", "reduction": "sequence_mean"}},
    ],
)
def test_a_run(inputs: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    with NoFloat64():
        events = list(Training(config(inputs, **changes), tmp_path).events())
    assert [e.step for e in events if isinstance(e, StepEvent)] == [1, 2]


def test_a_chat(inputs: Path) -> None:
    loaded = load_models(config(inputs), None, Callbacks())
    with NoFloat64():
        writer = ReplyWriter(loaded, "student", [3, 4, 5], ReplySettings(1.0, 4, 0))
        while writer.turn():
            pass
    assert 0 < len(writer.reply.ids) <= 4
    writer.close()


def test_it_can_fail() -> None:
    with pytest.raises(AssertionError, match="float64"), NoFloat64():
        torch.zeros(2).double()
