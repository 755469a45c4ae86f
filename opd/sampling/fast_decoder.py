"""A decoder for small Llama-shaped models on the processor, where the cost is overhead.

A model of a million parameters spends most of its time per token in the many small operations
around its matrix products. Here they are fused: one product for queries, keys and values, one for
gate and up, normalisation by torch's own kernel, residuals added by the product. Which models it
takes is checked against their configuration, and its logits against their own forward pass.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from opd.models.folders.quantized import method_in
from opd.models.forward import route_of
from opd.sampling.decoder import Slots, end_together, pad_right

MODEL_TYPES = ("llama", "qwen3")
MAX_PARAMETERS = 50_000_000  # above, the products dominate and the copies of weights cost memory
MANY_ROWS = 64  # from which on a second thread pays
TOLERANCE = 1e-3  # of the largest logit


@dataclass(frozen=True)
class _Layer:
    norm: Tensor
    qkv: Tensor  # (hidden, (heads + 2 kv_heads) · size), transposed
    head_norm: Tensor | None  # (heads + kv_heads, size)
    out: Tensor
    mlp_norm: Tensor
    gate_up: Tensor
    down: Tensor


def takes(model: Any, device: torch.device) -> bool:
    """Is it one of the models that the fast decoder computes?"""
    config = model.config
    return bool(
        device.type == "cpu"
        and plain_llama(model, MODEL_TYPES)
        and not getattr(config, "attention_bias", False)
        and model.dtype == torch.float32
        and not torch.is_autocast_enabled(device.type)
        and model.num_parameters() <= MAX_PARAMETERS
    )


def plain_llama(model: Any, model_types: Sequence[str]) -> bool:
    """Is it of these Llama-shaped types, with nothing around or within it that changes that?"""
    config = model.config
    return bool(
        type(model).__module__.startswith("transformers.")  # no adapter around it
        and not route_of(model).sharded
        and method_in(model) is None
        and config.model_type in model_types
        and config.hidden_act == "silu"
        and not getattr(config, "mlp_bias", False)
        and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
    )


def head_norms(attention: Any, heads: int, kv_heads: int) -> Tensor | None:
    """(heads + kv_heads, size): the norms of queries and keys, head by head; None without any."""
    if not hasattr(attention, "q_norm"):
        return None
    queries, keys = attention.q_norm.weight, attention.k_norm.weight
    return torch.cat([queries.expand(heads, -1), keys.expand(kv_heads, -1)])


class FastDecoder:
    """A `Decoder` with fused operations; its caches hold (B, kv_heads, length, size) a layer, at
    first the `start` of its only prompt."""

    def __init__(self, model: Any, *, vocab: int, pad_id: int, start: Sequence[Slots] = ()) -> None:
        config = model.config
        self._model, self._vocab, self._pad_id = model, vocab, pad_id
        self._heads, self._kv_heads = config.num_attention_heads, config.num_key_value_heads
        self._size = model.model.layers[0].self_attn.head_dim
        self._eps = config.rms_norm_eps
        self._layers = [self._layer(layer) for layer in model.model.layers]
        self._head = model.lm_head.weight.detach()[:vocab].T
        self._caches = list(start) or [Slots() for _ in self._layers]

    def agrees(self) -> bool:
        """Do the logits of a few tokens, read in two parts, equal the model's own?"""
        start, self._caches = self._caches, [Slots() for _ in self._layers]
        ids = torch.arange(min(8, self._vocab)).unsqueeze(0)
        expected = self._model(ids, use_cache=False).logits[0, :, : self._vocab]
        parts = torch.tensor_split(ids, 2, dim=1)
        logits = self._logits(torch.cat([self._read(part) for part in parts], dim=1))
        self._caches = start
        return bool((expected - logits).abs().max() <= TOLERANCE * expected.abs().max())

    def prefill(
        self, prompts: Sequence[Sequence[int]], rows: Sequence[int], shared: int = 0
    ) -> Tensor:
        start = self._caches[0].length
        ids, lengths = pad_right([p[start:] for p in prompts], self._pad_id)
        hidden = self._read(ids)
        end_together(self._caches, lengths + start, rows)
        ends = hidden[torch.arange(len(ids)), lengths - 1]
        return self._logits(ends)[list(rows)]

    def step(self, tokens: Tensor, positions: Tensor, seen: Tensor | None) -> Tensor:
        with _one_thread() if len(tokens) < MANY_ROWS else nullcontext():
            return self._step(tokens, positions, seen)

    def _step(self, tokens: Tensor, positions: Tensor, seen: Tensor | None) -> Tensor:
        hidden: Tensor = self._model.model.embed_tokens.weight[tokens]
        cos, sin = self._rope(positions)  # (B, size)
        bias = None
        if seen is not None:
            visible = seen[:, : self._caches[0].length + 1]
            bias = torch.zeros(visible.shape).masked_fill_(~visible, -torch.inf).unsqueeze(1)
        for layer, cache in zip(self._layers, self._caches, strict=True):
            qk, v = self._qkv(hidden, layer)
            qk = rotated(qk, cos.unsqueeze(1), sin.unsqueeze(1))
            keys, values = cache.update(qk[:, self._heads :].unsqueeze(2), v.unsqueeze(2))
            mixed = self._attend(qk[:, : self._heads], keys, values, bias)
            hidden = self._rest(hidden, mixed, layer)
        return self._logits(hidden)

    def keep(self, rows: Tensor) -> None:
        for cache in self._caches:
            cache.batch_select_indices(rows)

    def first(self, length: int) -> list[Slots] | None:
        return [cache.first(length) for cache in self._caches]

    def _layer(self, layer: Any) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        return _Layer(
            norm=layer.input_layernorm.weight,
            qkv=torch.cat([p.weight for p in projections]).T.contiguous(),
            head_norm=head_norms(attention, self._heads, self._kv_heads),
            out=attention.o_proj.weight.T.contiguous(),
            mlp_norm=layer.post_attention_layernorm.weight,
            gate_up=torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]).T.contiguous(),
            down=mlp.down_proj.weight.T.contiguous(),
        )

    def _logits(self, hidden: Tensor) -> Tensor:
        weight: Tensor = self._model.model.norm.weight
        logits: Tensor = self._norm(hidden, weight) @ self._head
        return logits

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(x, (x.shape[-1],), weight, self._eps)

    def _rope(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin (n, size) of the positions (n,), sin with the sign of the half it meets."""
        cos, sin = self._model.model.rotary_emb(self._head, positions.unsqueeze(0))
        return cos[0], signed(sin[0])

    def _qkv(self, hidden: Tensor, layer: _Layer) -> tuple[Tensor, Tensor]:
        """Queries with keys (…, heads + kv_heads, size), values (…, kv_heads, size)."""
        both = self._heads + self._kv_heads
        qkv = self._norm(hidden, layer.norm) @ layer.qkv
        qkv = qkv.view(*hidden.shape[:-1], both + self._kv_heads, self._size)
        qk, v = qkv[..., :both, :], qkv[..., both:, :]
        if layer.head_norm is not None:
            qk = functional.rms_norm(qk, (self._size,), None, self._eps) * layer.head_norm
        return qk, v

    def _rest(self, hidden: Tensor, mixed: Tensor, layer: _Layer) -> Tensor:
        """Output projection and feed-forward, each with its residual; rows are (n, hidden)."""
        hidden = torch.addmm(hidden, mixed, layer.out)
        gate, up = (self._norm(hidden, layer.mlp_norm) @ layer.gate_up).chunk(2, dim=-1)
        return torch.addmm(hidden, functional.silu(gate) * up, layer.down)

    def _attend(self, q: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
        """One query a row over its cache: (B, heads, size), (B, kv_heads, L, size) → (B, ·)."""
        rows, length = q.shape[0], keys.shape[2]
        grouped = (q * self._size**-0.5).reshape(rows * self._kv_heads, -1, self._size)
        scores = torch.bmm(grouped, keys.flatten(0, 1).transpose(1, 2)).view(rows, -1, length)
        if bias is not None:
            scores += bias
        weights = scores.softmax(-1).view(rows * self._kv_heads, -1, length)
        return torch.bmm(weights, values.flatten(0, 1)).view(rows, -1)

    def _read(self, ids: Tensor) -> Tensor:
        """Sequences (n, T), causally, after what the caches hold, which it fills; hidden states
        (n, T, hidden)."""
        n, length = ids.shape
        start = self._caches[0].length
        seen = torch.ones(length, start + length, dtype=torch.bool).tril(start) if start else None
        hidden: Tensor = self._model.model.embed_tokens.weight[ids].view(n * length, -1)
        rope = self._rope(torch.arange(start, start + length))
        cos, sin = (x.unsqueeze(1) for x in rope)  # (T, 1, size)
        for layer, cache in zip(self._layers, self._caches, strict=True):
            qk, v = self._qkv(hidden.view(n, length, -1), layer)
            qk = rotated(qk, cos, sin).transpose(1, 2)
            keys, values = cache.update(qk[:, self._heads :], v.transpose(1, 2))
            mixed = functional.scaled_dot_product_attention(
                *(qk[:, : self._heads], keys, values, seen),
                is_causal=seen is None,
                enable_gqa=True,
            )
            mixed = mixed.transpose(1, 2).reshape(n * length, -1)
            hidden = self._rest(hidden, mixed, layer)
        return hidden.view(n, length, -1)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Products of few rows gain nothing from a second thread, and wait for it when it is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions; rolling by half and a `signed` sin equal transformers' rotate_half."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


def signed(sin: Tensor) -> Tensor:
    """(n, size) with the sign of the half that it meets."""
    half = sin.shape[-1] // 2
    return torch.cat([-sin[:, :half], sin[:, half:]], dim=-1)
