"""A row's numbers in a batch against those by itself, on a run's own prompts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from opd.config.run import parse
from opd.data.prompts import load_prompts
from opd.doctor.batches import check_batches
from opd.doctor.findings import Finding
from opd.doctor.rehearsal import rehearse
from opd.models.forward import ReadingRoute, causal, take_route
from opd.models.load import context_of
from opd.teachers.routing import MAIN
from opd.training.loading import Callbacks, LoadedRun, load
from tests.support.devices.tested import DEVICE
from tests.support.tiny_models import save_model

pytestmark = pytest.mark.device


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student and a teacher of another class, with prompts of unequal lengths."""
    root = tmp_path_factory.mktemp("batches")
    save_model(root / "student", "qwen3", seed=0)
    save_model(root / "teacher", "llama", seed=1)
    rows = [{"prompt": "word " * count} for count in range(1, 9)]
    (root / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


def by_model(root: Path, change: Callable[[LoadedRun], Any] = lambda _: None) -> dict[str, Finding]:
    config = parse(
        {
            "student": str(root / "student"),
            "teacher": str(root / "teacher"),
            "prompts": str(root / "prompts.jsonl"),
            "device": str(DEVICE),
            "sampling": {"max_new_tokens": 6},
            "evaluation": {"prompts": 2},
        }
    )
    loaded = load(config, None, Callbacks())
    prompts = load_prompts(config, loaded.pair.tokenizer, context_of(loaded.pair.student))
    rehearsal = rehearse(config, loaded, prompts.train[:4], Callbacks())
    change(loaded)
    findings = list(check_batches(rehearsal))
    loaded.close()
    return {f.evidence["field"]: f for f in findings}


def test_both_models_agree_with_single_rows(models: Path) -> None:
    both = by_model(models)
    assert [(f.code, f.severity) for f in both.values()] == [("batch-agrees", "ok")] * 2
    assert set(both) == {"student", "teacher"}
    assert all(0 <= f.evidence["largest"] < 1e-4 for f in both.values())


def mixes_rows(loaded: LoadedRun) -> None:
    """From now on the teacher's states are moved by what the batch's other rows hold."""

    def mixed(_: Any, __: Any, output: Any) -> Any:
        states = output.last_hidden_state
        output.last_hidden_state = states + (states - states.mean(0, keepdim=True))
        return output

    causal(loaded.pair.teacher).get_decoder().register_forward_hook(mixed)


def test_a_model_that_sees_its_neighbours_is_an_error(models: Path) -> None:
    both = by_model(models, mixes_rows)
    assert both["student"].code == "batch-agrees"
    assert (both["teacher"].code, both["teacher"].severity) == ("batch-differs", "error")
    assert both["teacher"].evidence["largest"] > 0.01


def test_rows_that_are_kept_apart_are_an_information(models: Path) -> None:
    def apart(loaded: LoadedRun) -> None:
        mixes_rows(loaded)
        take_route(loaded.pair.teacher, ReadingRoute(None, alone=True))
        loaded.router.teachers[MAIN].pairs_per_token = 0.0  # as for any model with that route

    teacher = by_model(models, apart)["teacher"]
    assert (teacher.code, teacher.severity) == ("batch-agrees", "info")
    assert "one row at a time" in teacher.text
    assert torch.tensor(teacher.evidence["largest"]) < 1e-4
