"""Low-rank adapters; kept apart because peft takes seconds to import and most runs need none."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig as PeftLora
from peft import PeftModel, get_peft_model

from opd.config import LoraConfig
from opd.types import UserError


def with_adapter(model: Any, lora: LoraConfig, *, seed: int = 0) -> Any:
    """The model with a fresh low-rank adapter, which alone is trained."""
    config = PeftLora(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
        target_modules=lora.targets if isinstance(lora.targets, str) else list(lora.targets),
    )
    torch.manual_seed(seed)
    try:
        return get_peft_model(model, config).eval()
    except ValueError as error:
        raise UserError(" ".join(str(error).split())[:300], where="student.lora.targets") from None


def load_adapter(model: Any, folder: Path) -> Any:
    """The model with the adapter saved in that folder, trainable."""
    return PeftModel.from_pretrained(model, folder, is_trainable=True).eval()
