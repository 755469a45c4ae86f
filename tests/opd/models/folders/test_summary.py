"""What a folder says of itself as a model, without its weights."""

import json
import shutil
from pathlib import Path

import pytest

from opd.models.folders.summary import summary_of

STUDENT = Path(__file__).parents[4] / "opd" / "bundled" / "student"


def test_a_whole_model() -> None:
    summary = summary_of(STUDENT)
    assert summary is not None and summary.problem == ""
    assert (summary.form, summary.kind, summary.layers, summary.hidden) == (
        "model",
        "qwen3",
        4,
        128,
    )
    assert summary.bytes == (STUDENT / "model.safetensors").stat().st_size
    assert summary.parameters == 863_104


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"auto_map": {"AutoModel": "x.y"}}, "brings its own code"),
        ({"architectures": ["BertForMaskedLM"], "model_type": "bert"}, "is an encoder"),
        ({"architectures": ["XForSequenceClassification"], "model_type": "x"}, "a classifier"),
    ],
)
def test_what_could_not_be_loaded_says_why(
    tmp_path: Path, settings: dict[str, object], problem: str
) -> None:
    folder = Path(shutil.copytree(STUDENT, tmp_path / "m"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))
    summary = summary_of(folder)
    assert summary is not None and problem in summary.problem


def test_files_that_are_missing_are_named_without_their_folder(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(STUDENT, tmp_path / "m"))
    (folder / "tokenizer.json").unlink()
    summary = summary_of(folder)
    assert summary is not None and "has no tokenizer.json" in summary.problem
    (folder / "config.json").write_text("{")
    summary = summary_of(folder)
    assert summary is not None and summary.problem.startswith("config.json cannot be read")


def test_what_is_no_model(tmp_path: Path) -> None:
    assert summary_of(tmp_path) is None
    (tmp_path / "config.json").write_text('{"theme": "dark"}')
    assert summary_of(tmp_path) is None


def test_an_adapter_of_another_task(tmp_path: Path) -> None:
    settings = {"peft_type": "LORA", "task_type": "SEQ_CLS", "base_model_name_or_path": "org/base"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    summary = summary_of(tmp_path)
    assert summary is not None and "adapter of a classifier" in summary.problem
    assert summary.base == "org/base"
