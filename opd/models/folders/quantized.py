"""Quantized weights: made so when they are loaded, or stored so in their folder."""

import logging
import sys
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from transformers import BitsAndBytesConfig

from opd.errors import ErrorKind, UserError
from opd.models.folders.progress import without_bars

COMPRESSED = "compressed-tensors"
COMPRESSED_BARS = (
    *("compressors.model_compressors.model_compressor", "quantization.lifecycle.apply"),
    "offload.dispatch",
)


def quantization(bits: str, *, where: str, computes: torch.dtype = torch.bfloat16) -> Any:
    """transformers' configuration of frozen weights in 8 bits or 4 (NF4).

    Raises UserError without bitsandbytes.
    """
    if find_spec("bitsandbytes") is None:
        raise UserError(
            f"{bits} needs bitsandbytes: pip install 'opd-studio[quantized]'",
            where=f"{where.removesuffix('.model')}.quantize",
            kind=ErrorKind.MISSING_EXTRA,
        )
    if bits == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=computes
    )


def method_in(model: Any) -> str | None:
    """How the loaded model's weights are quantized; None for whole ones."""
    settings = getattr(model.config, "quantization_config", None)
    if settings is None:
        return None
    method = settings["quant_method"] if isinstance(settings, dict) else settings.quant_method
    return str(getattr(method, "value", method))


def quiet_loading(method: str | None) -> AbstractContextManager[None]:
    """Inside, the library that reads weights stored by this method draws no progress bars."""
    if method != COMPRESSED:
        return nullcontext()
    import_module("compressed_tensors")  # with those of its modules that this version has
    names = (f"compressed_tensors.{name}" for name in COMPRESSED_BARS)
    return without_bars(*(sys.modules[name] for name in names if name in sys.modules))


@torch.no_grad()
def settle(model: Any) -> None:
    """Makes a quantized model one whose rows do not depend on each other, ready for an adapter.

    In 8 bits, bitsandbytes computes columns with an outlier in any row of the batch in another
    precision, so that a completion would score otherwise beside others: no column is. In 4 bits it
    packs weights again for some processors, in a form that passes no gradient: that is switched
    off. Compressed tensors are made whole by a model's first pass.
    """
    # It would say at every product that its inputs are cast.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    for module in model.modules():
        state: Any = getattr(module, "state", None)
        if hasattr(state, "threshold"):
            state.threshold = 0.0
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    if method_in(model) == COMPRESSED:
        device = model.get_input_embeddings().weight.device
        with quiet_loading(COMPRESSED):
            model(input_ids=torch.zeros((1, 1), dtype=torch.long, device=device), use_cache=False)
