"""Attention in float32 on a GPU, where no fused kernel lets several heads of queries share keys.

transformers asks for shared keys wherever there is no mask. In bfloat16 a fused kernel takes them;
in float32 torch falls back, without a word, to products that hold all pairs of positions of every
head: memory that grows with the square of a row, which the memory plan does not count. Repeated
keys take the fused kernel of float32.
"""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward


def install() -> None:
    """From now on transformers' `sdpa` is `attention`, for every model."""
    AttentionInterface.register("sdpa", attention)


def attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **settings: Any
) -> tuple[Tensor, None]:
    """transformers' own `sdpa`, with keys (B, H, L, D) repeated where sharing would cost more."""
    groups = getattr(module, "num_key_value_groups", 1)
    if groups > 1 and query.shape[2] > 1 and _without_kernel(query):
        key, value = repeat_kv(key, groups), repeat_kv(value, groups)
        module = SimpleNamespace(is_causal=getattr(module, "is_causal", True))
    result: tuple[Tensor, None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, **settings
    )
    return result


def _without_kernel(query: Tensor) -> bool:
    """Whether sharing keys has no fused kernel for such queries."""
    kind = query.device.type
    return kind == "cuda" and query.dtype == torch.float32 and not torch.is_autocast_enabled(kind)
