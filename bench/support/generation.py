"""transformers' own `generate`, as the peer of our sampling."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def generate(model: Any, encoded: Mapping[str, Tensor], tokens: int) -> None:
    """Every row writes as many new tokens: no early stop, temperature 1, full softmax."""
    ids = encoded["input_ids"]
    out = model.generate(
        input_ids=ids,
        attention_mask=encoded["attention_mask"],
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        min_new_tokens=tokens,
        max_new_tokens=tokens,
    )
    assert out.shape == (ids.shape[0], ids.shape[1] + tokens)
