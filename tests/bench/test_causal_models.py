"""One class of each kind of causal model: right in every respect, or refused by name."""

import pytest

from bench.causal_models.checks import check
from tests.support.tiny_models import tokenizer

WORKS = {
    "hybrid": "qwen3_5_text",
    "recurrent": "mamba",
    "its own decoder": "llama4_text",
    "without a cache": "openai-gpt",
}
REFUSED = {"bert": "an encoder"}


@pytest.mark.parametrize("model_type", WORKS.values(), ids=WORKS)
def test_a_kind_is_right(model_type: str) -> None:
    result = check(model_type, tokenizer())
    assert result.refused == ""
    assert result.faults == {}


@pytest.mark.parametrize(("model_type", "reason"), REFUSED.items())
def test_a_kind_is_refused_by_name(model_type: str, reason: str) -> None:
    assert reason in check(model_type, tokenizer()).refused
