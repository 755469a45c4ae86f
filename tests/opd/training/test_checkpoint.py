"""Whose checkpoint it is."""

import json
from pathlib import Path
from typing import Any

import pytest

from opd.config.models import StudentConfig
from opd.errors import UserError
from opd.training.checkpoint import check_student

ADAPTER = {"r": 4, "lora_alpha": 8, "target_modules": ["v_proj", "q_proj"]}
LORA = {"rank": 4, "alpha": 8, "targets": ["q_proj", "v_proj"]}


def check(tmp_path: Path, lora: dict[str, Any] | None, adapter: dict[str, Any] | None) -> None:
    """A checkpoint with that adapter, or else all weights, against a student's settings."""
    folder = tmp_path / "step-000002"
    folder.mkdir()
    if adapter is None:
        (folder / "config.json").write_text(json.dumps({"hidden_size": 32}))
    else:
        (folder / "adapter_config.json").write_text(json.dumps(adapter))
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 32, "vocab_size": 9}))
    check_student(folder, StudentConfig.model_validate({"lora": lora}), tmp_path)


@pytest.mark.parametrize(
    ("lora", "adapter"),
    [(LORA, ADAPTER), (LORA | {"targets": "all-linear"}, ADAPTER), (None, None)],
)
def test_that_of_the_configured_student(
    tmp_path: Path, lora: dict[str, Any] | None, adapter: dict[str, Any] | None
) -> None:
    check(tmp_path, lora, adapter)


@pytest.mark.parametrize(
    ("lora", "adapter", "text"),
    [
        (LORA | {"rank": 8}, ADAPTER, "student.lora.rank: is 8, but the checkpoint step-000002"),
        (LORA | {"alpha": 4}, ADAPTER, "student.lora.alpha: is 4.0, but"),
        (LORA | {"targets": ["q_proj"]}, ADAPTER, "student.lora.targets: is ['q_proj'], but"),
        (
            None,
            ADAPTER,
            "student.lora: is null, but the checkpoint step-000002 was trained with",
        ),
        (LORA, None, "student.lora: is set, but the checkpoint step-000002 was trained with all"),
    ],
)
def test_that_of_another_student(
    tmp_path: Path, lora: dict[str, Any] | None, adapter: dict[str, Any] | None, text: str
) -> None:
    with pytest.raises(UserError, match="start a new run") as refused:
        check(tmp_path, lora, adapter)
    assert text in str(refused.value)
