"""One class of each kind of causal model: right in every respect, or refused by name."""

import json

import pytest

from bench.causal_models.checks import check
from bench.causal_models.table import (
    DOCUMENT,
    ModelRow,
    causal_classes,
    listed,
    read_rows,
    written,
)
from opd.models.tried import tried_models
from tests.support.tiny_models import tokenizer

WORKS = {
    "dense": "granite",
    "mixture of experts": "qwen3_moe",
    "experts shared by all tokens": "qwen2_moe",
    "sliding window": "gemma3_text",
    "shared keys and values": "gemma3n_text",
    "ALiBi": "bloom",
    "latent attention": "minicpm3",
    "keys and values of different widths": "mimo_v2_flash",
    "indexed attention": "deepseek_v32",
    "recurrent": "mamba",
    "recurrent, without a cache": "rwkv",
    "hybrid": "qwen3_5_text",
    "hybrid, convolutions": "lfm2",
    "hybrid, mixture of experts": "nemotron_h",
    "its own decoder": "llama4_text",
    "a decoder that is no decoder": "modernbert-decoder",
    "positions from the cache": "bart",
    "without a cache": "openai-gpt",
    "wrapper": "gemma3",
}
REFUSED = {
    "gemma4_assistant": "reads the keys and values of another",
    "xlnet": "change with what follows",
    "reformer": "dropout",
}


@pytest.mark.parametrize("model_type", WORKS.values(), ids=WORKS)
def test_a_kind_is_right(model_type: str) -> None:
    result = check(model_type, tokenizer())
    assert result.refused == ""
    assert result.faults == {}


@pytest.mark.parametrize(("model_type", "reason"), REFUSED.items())
def test_a_kind_is_refused_by_name(model_type: str, reason: str) -> None:
    assert reason in check(model_type, tokenizer()).refused


def test_the_document_has_every_class_of_the_installed_transformers() -> None:
    rows = read_rows()
    missing = causal_classes().keys() - {row.model_type for row in rows}
    assert not missing, f"run make test-models MODELS='{'|'.join(sorted(missing))}'"
    assert {row.outcome for row in rows} == {"works", "refused"}
    assert all(row.note for row in rows if row.outcome == "refused")


def test_the_doctor_knows_the_classes_of_the_document() -> None:
    works = {row.model_type for row in read_rows() if row.outcome == "works"}
    assert tried_models().works == works == set(json.loads(listed(read_rows()))["works"])
    assert f"of transformers {tried_models().transformers} loads" in DOCUMENT.read_text()


def test_rows_are_read_as_they_were_written() -> None:
    rows = read_rows()
    assert len(rows) > 150
    assert all(row.line() in written(rows) for row in rows)
    assert ModelRow(*("a", "b", "c", "works", "")).line() == "| a | b | c | works |  |"
