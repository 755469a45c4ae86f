"""Low-rank adapters; kept apart because peft takes seconds to import and most runs need none."""

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig as PeftLora
from peft import PeftModel, get_peft_model

from opd.config.models import LoraConfig
from opd.errors import ErrorKind, UserError, one_line


def with_adapter(model: Any, lora: LoraConfig, *, seed: int = 0) -> Any:
    """The model with a fresh low-rank adapter; only the adapter is trained."""
    config = PeftLora(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
        target_modules=lora.targets if isinstance(lora.targets, str) else list(lora.targets),
    )
    torch.manual_seed(seed)
    try:
        return _ordered(get_peft_model(model, config).eval())
    except ValueError as error:
        raise UserError(one_line(error), where="student.lora.targets") from None


def load_adapter(model: Any, folder: Path) -> Any:
    """The model with the adapter saved in that folder, trainable."""
    return _ordered(PeftModel.from_pretrained(model, folder, is_trainable=True).eval())


def _ordered(model: Any) -> Any:
    """Sets become lists in order: a saved adapter is the same file whatever process writes it."""
    for config in model.peft_config.values():
        if isinstance(config.target_modules, set):
            config.target_modules = sorted(config.target_modules)
    return model


def merged(model: Any, folder: Path) -> Any:
    """The model with the adapter saved in that folder become part of its weights.

    It is called after that folder, so that an adapter trained upon it names it as its base.
    """
    with torch.no_grad():
        whole = load_adapter(model, folder).merge_and_unload().eval()
    whole.name_or_path = str(folder)
    whole.requires_grad_()  # as any other model: peft froze it beneath the adapter
    return whole


def base_of(folder: Path, *, where: str) -> str:
    """The model that an adapter was made for, as its folder says."""
    try:
        name = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        return str(name["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder} names no base model: {error}", where=where, kind=ErrorKind.MISSING_MODEL
        ) from None
