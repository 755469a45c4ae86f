"""Which modules are a decoder's layers, and which models have none that can be told apart."""

import pytest
from torch import nn
from transformers import BloomConfig, BloomForCausalLM, Qwen3Config, Qwen3ForCausalLM

from opd.config.models import LoraConfig
from opd.errors import UserError
from opd.models.folders.adapters import with_adapter
from opd.ranks.layers import layers_of

SIZES = {"vocab_size": 16, "hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2}


def qwen():
    return Qwen3ForCausalLM(
        Qwen3Config(**SIZES, intermediate_size=8, num_key_value_heads=1, head_dim=4)
    )


def test_layers_in_their_order_also_below_an_adapter():
    model = qwen()
    assert layers_of(model, where="x") == list(model.model.layers)
    assert len(layers_of(with_adapter(model, LoraConfig(rank=2)), where="x")) == 3
    bloom = BloomForCausalLM(BloomConfig(vocab_size=16, hidden_size=8, n_layer=2, n_head=2))
    assert layers_of(bloom, where="x") == list(bloom.transformer.h)


def test_weights_that_layers_share_are_refused():
    model = qwen()
    model.model.layers[2].mlp.up_proj.weight = model.model.layers[0].mlp.up_proj.weight
    with pytest.raises(UserError, match="its layers share weights"):
        layers_of(model, where="x")
    other = qwen()
    other.model.layers[0].mlp.again = nn.ParameterList([other.model.norm.weight])
    with pytest.raises(UserError, match="its layers share weights"):
        layers_of(other, where="x")


def test_two_stacks_are_refused():
    model = qwen()
    model.more = nn.ModuleList([*qwen().model.layers])
    with pytest.raises(UserError, match="it has 2 stacks of layers"):
        layers_of(model, where="x")
