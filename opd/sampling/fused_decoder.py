"""The fixed decoder for Llama-shaped models, with a third of the kernels a token.

Even replayed, a kernel takes some microseconds, and a token of one row is little work for each.
Here normalisation is torch's own kernel, queries, keys and values are one product where their
weights lie side by side (as in a `SamplingCopy`), gate and up another, and the residual is added by
the product. Prompts are read by the model's own forward pass, which toy prompts are compared with.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from opd.models.architecture import LLAMAS
from opd.sampling.fast_decoder import head_norms, plain_llama, rotated, signed
from opd.sampling.fixed_decoder import FixedDecoder


@dataclass(frozen=True)
class _Projection:
    """Linear maps of one input, their outputs side by side."""

    parts: tuple[tuple[Tensor, Tensor | None], ...]  # weight (out, in) and bias (out,)

    @classmethod
    def of(cls, *linears: Any) -> "_Projection":
        weights, biases = [x.weight for x in linears], [x.bias for x in linears]
        whole = side_by_side(weights)
        if whole is None:
            return cls(tuple(zip(weights, biases, strict=True)))
        bias = None if biases[0] is None else torch.cat(biases)
        return cls(((whole, bias),))

    def __call__(self, x: Tensor) -> Tensor:
        outputs = [functional.linear(x, weight, bias) for weight, bias in self.parts]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)


def side_by_side(weights: list[Tensor]) -> Tensor | None:
    """(Σ out, in): these (out, in) as one, where they follow each other in one storage."""
    first = weights[0]
    offset = first.storage_offset()
    for weight in weights:
        same = weight.untyped_storage()._cdata == first.untyped_storage()._cdata
        if not (same and weight.is_contiguous() and weight.storage_offset() == offset):
            return None
        offset += weight.numel()
    rows = sum(len(w) for w in weights)
    return first.detach().as_strided((rows, first.shape[1]), first.stride())


def takes_fused(model: Any) -> bool:
    """Is it of the shape that is computed here, with nothing around it?"""
    return bool(plain_llama(model, LLAMAS) and not getattr(model.config, "sliding_window", None))


@dataclass(frozen=True)
class _FusedLayer:
    norm: Tensor
    qkv: _Projection
    head_norm: Tensor | None  # (heads + kv_heads, size)
    out: Tensor
    mlp_norm: Tensor
    gate_up: _Projection
    down: Tensor


class FusedDecoder(FixedDecoder):
    """A `FixedDecoder` that reads a token with few kernels."""

    def __init__(
        self, model: Any, *, vocab: int, pad_id: int, device: torch.device, room: int
    ) -> None:
        super().__init__(model, vocab=vocab, pad_id=pad_id, device=device, room=room)
        config = model.config
        self._heads, self._kv_heads = config.num_attention_heads, config.num_key_value_heads
        self._size = model.model.layers[0].self_attn.head_dim
        self._eps = config.rms_norm_eps
        self._weights = [self._layer(layer) for layer in model.model.layers]
        self._head = model.lm_head.weight.detach()[:vocab]

    def step(self, tokens: Tensor, positions: Tensor, seen: Tensor | None) -> Tensor:
        hidden = functional.embedding(tokens, self._model.model.embed_tokens.weight)
        cos, sin = self._rope(hidden, positions)
        mask = self._mask(len(tokens), seen)
        for layer, cache in zip(self._weights, self._layers, strict=True):
            qk, v = self._qkv(hidden, layer)
            qk = rotated(qk, cos, sin)
            keys, values = cache.update(qk[:, self._heads :].unsqueeze(2), v.unsqueeze(2))
            # The queries that share a head of keys stand as so many queries of that head.
            queries = qk[:, : self._heads].reshape(len(tokens), self._kv_heads, -1, self._size)
            mixed = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
            hidden = torch.addmm(hidden, mixed.flatten(1), layer.out.T)
            gate, up = layer.gate_up(self._norm(hidden, layer.mlp_norm)).chunk(2, dim=-1)
            hidden = torch.addmm(hidden, functional.silu(gate) * up, layer.down.T)
        self._window.cursor += 1
        return functional.linear(self._norm(hidden, self._model.model.norm.weight), self._head)

    def _layer(self, layer: Any) -> _FusedLayer:
        attention, mlp = layer.self_attn, layer.mlp
        return _FusedLayer(
            norm=layer.input_layernorm.weight,
            qkv=_Projection.of(attention.q_proj, attention.k_proj, attention.v_proj),
            head_norm=head_norms(attention, self._heads, self._kv_heads),
            out=attention.o_proj.weight,
            mlp_norm=layer.post_attention_layernorm.weight,
            gate_up=_Projection.of(mlp.gate_proj, mlp.up_proj),
            down=mlp.down_proj.weight,
        )

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(x, (x.shape[-1],), weight, self._eps)

    def _rope(self, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and signed sin (B, 1, size) of the positions (B,)."""
        cos, sin = self._model.model.rotary_emb(hidden, positions.unsqueeze(0))
        return cos[0].unsqueeze(1), signed(sin[0]).unsqueeze(1)

    def _qkv(self, hidden: Tensor, layer: _FusedLayer) -> tuple[Tensor, Tensor]:
        """Queries with keys (B, heads + kv_heads, size), values (B, kv_heads, size)."""
        both = self._heads + self._kv_heads
        qkv = layer.qkv(self._norm(hidden, layer.norm)).view(len(hidden), -1, self._size)
        qk, v = qkv[:, :both], qkv[:, both:]
        if layer.head_norm is not None:
            qk = functional.rms_norm(qk, (self._size,), None, self._eps) * layer.head_norm
        return qk, v
