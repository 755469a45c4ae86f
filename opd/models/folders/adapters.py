"""Low-rank adapters; kept apart because peft takes seconds to import and most runs need none."""

import re
import warnings
from collections.abc import Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig as PeftLora
from peft import PeftModel, get_peft_model
from safetensors import SafetensorError
from torch import nn
from transformers.pytorch_utils import Conv1D

from opd.config.model_files.weights import ADAPTER, read_object
from opd.config.models import LoraConfig
from opd.errors import ErrorKind, UserError, one_line, raise_lack_of_memory
from opd.models.folders.quantized import method_in
from opd.models.folders.weights import count, first, in_order
from opd.models.parameters import ROUTED

TARGETS = "student.lora.targets"
ADAPTABLE = (nn.Linear, nn.Embedding, nn.Conv1d, Conv1D)
MISMATCH = re.compile(
    r"size mismatch for (\S+): .*?torch.Size\(\[([\d, ]*)\]\).*?torch.Size\(\[([\d, ]*)\]\)"
)


def with_adapter(model: Any, lora: LoraConfig, *, seed: int = 0) -> Any:
    """The model with a fresh low-rank adapter; only the adapter is trained."""
    fused = check_targets(model, lora.targets)
    named = lora.targets if isinstance(lora.targets, str) else sorted({*lora.targets} - {*fused})
    config = PeftLora(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
        target_modules=named,
        target_parameters=fused or None,
    )
    torch.manual_seed(seed)
    without_memory = next(model.parameters()).is_meta
    try:
        with warnings.catch_warnings():
            # peft widens the rank of fused experts by patterns that name no module.
            warnings.filterwarnings("ignore", "The following (rank|alpha)_pattern keys")
            warnings.filterwarnings("ignore", "fan_in_fan_out is set to")  # and so it shall be
            adapted = get_peft_model(model, config, low_cpu_mem_usage=without_memory)
        return _finished(adapted.eval())
    except ValueError as error:
        raise UserError(one_line(error), where=TARGETS) from None


def keep_inputs(model: Any) -> None:
    """From now on the adapter takes inputs as they come, which autocast must make one type of.

    peft would cast each to the adapter's float32 first, for autocast to cast it back.
    """
    for module in model.modules():
        if getattr(module, "cast_input_dtype_enabled", False):
            module.cast_input_dtype_enabled = False


def check_targets(model: Any, targets: str | Sequence[str]) -> list[str]:
    """Those of the targets that are fused experts (3-D parameters), which are no modules.

    Raises UserError for names that no module has, or only one that takes no adapter.
    """
    if isinstance(targets, str):
        return []
    modules = dict(model.named_modules())
    linears = {_leaf(n) for n, m in modules.items() if isinstance(m, nn.Linear | Conv1D)}
    fused = {_leaf(n) for n, p in model.named_parameters() if p.ndim == 3 and ROUTED.search(n)}
    adaptable = sorted(linears | fused)
    tied = model.config.get_text_config().tie_word_embeddings
    ends = (model.get_input_embeddings(), model.get_output_embeddings()) if tied else ()
    for target in targets:
        named = [m for n, m in modules.items() if n == target or n.endswith(f".{target}")]
        if not named and target in fused:
            continue
        if not named:
            near = get_close_matches(target, adaptable)
            raise UserError(
                f"no module of the model is named {target!r}"
                + (f"; near: {', '.join(near)}" if near else "")
                + f"; it has {', '.join(adaptable)}",
                where=TARGETS,
            )
        if not any(isinstance(m, ADAPTABLE) for m in named):
            raise UserError(
                f"{target!r} is a {type(named[0]).__name__}, which takes no adapter; it has "
                f"{', '.join(adaptable)}",
                where=TARGETS,
            )
        if any(m is end for m in named for end in ends):
            raise UserError(
                f"{target!r} is tied to the other end of the model (tie_word_embeddings), so its "
                "adapter could not be merged; leave it out",
                where=TARGETS,
            )
    return sorted({*targets} & (fused - linears))


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def load_adapter(model: Any, folder: Path, *, where: str = "student.model") -> Any:
    """The model with the adapter saved in that folder, trainable.

    Raises UserError where the adapter was made for another model or is not whole.
    """
    try:
        with warnings.catch_warnings():
            # Both are looked at below; and on the meta device nothing is copied.
            warnings.filterwarnings(
                "ignore", "Found missing|Unexpected keyword|.*non-meta parameter"
            )
            adapted = PeftModel.from_pretrained(model, folder, is_trainable=True)
            again = adapted.load_adapter(str(folder), "default", is_trainable=True)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise_lack_of_memory(error)
        raise _refused(f"{folder} {_unfit(error)}", where) from None
    _check_settings(adapted, folder, where=where)
    missing, unexpected = in_order(again.missing_keys), in_order(again.unexpected_keys)
    if missing:
        raise _refused(
            f"{folder}: {count(missing)} of the adapter missing from its file, {first(missing)}; "
            "save it again with save_pretrained",
            where,
        )
    if unexpected:
        raise _refused(
            f"{folder}: its base model has no place for {count(unexpected)} of the adapter, "
            f"{first(unexpected)}; base_model_name_or_path names another model",
            where,
        )
    return _finished(adapted.eval())


def _check_settings(adapted: Any, folder: Path, *, where: str) -> None:
    """Refuses settings that this version of peft does not know, unless they are off."""
    names = {f.name for f in fields(adapted.peft_config["default"])}
    settings = read_object(folder / ADAPTER, where=where)
    unknown = sorted(n for n, value in settings.items() if value and n not in names)
    if unknown:
        raise _refused(
            f"{folder} has settings of a newer peft that would be left out: {', '.join(unknown)}; "
            "update it (pip install -U peft)",
            where,
        )


def _unfit(error: Exception) -> str:
    """Why peft could not put the adapter upon its base."""
    sizes = MISMATCH.search(str(error))
    if sizes is not None:
        return (
            f"was made for a model of another size: {sizes[1]} is [{sizes[2]}] in its file, and "
            f"[{sizes[3]}] is needed; base_model_name_or_path or its rank names another"
        )
    return f"cannot be put upon its base model: {one_line(error)}"


def _finished(model: Any) -> Any:
    """Sets become lists in order: a saved adapter is the same file whatever process writes it.

    It names its base as that was named when it was loaded.
    """
    base = model.get_base_model().name_or_path
    for config in model.peft_config.values():
        config.base_model_name_or_path = base
        for name in ("target_modules", "target_parameters"):
            if isinstance(getattr(config, name, None), set):
                setattr(config, name, sorted(getattr(config, name)))
    return model


def merged(model: Any, folder: Path, *, where: str = "student.model") -> Any:
    """The model with the adapter saved in that folder become part of its weights.

    It is called after that folder, so that an adapter trained upon it names it as its base.
    """
    method = method_in(model)
    if method is not None:
        raise _refused(
            f"{folder} has a quantized base model ({model.name_or_path}, {method}), into which it "
            "cannot be merged exactly; set base_model_name_or_path to the unquantized model",
            where,
        )
    adapted = load_adapter(model, folder, where=where)
    tied = model.config.get_text_config().tie_word_embeddings
    ends = (adapted.get_input_embeddings(), adapted.get_output_embeddings())
    if tied and any(hasattr(end, "base_layer") for end in ends):
        raise _refused(
            f"{folder} adapts an embedding that is tied to the head, so merging would change both",
            where,
        )
    if not hasattr(adapted, "merge_and_unload"):
        raise _refused(f"{folder} is an adapter that cannot be merged into its model", where)
    with torch.no_grad():
        whole = adapted.merge_and_unload().eval()
    whole.name_or_path = str(folder)
    whole.requires_grad_()  # as any other model: peft froze it beneath the adapter
    return whole


def _refused(message: str, where: str) -> UserError:
    return UserError(message, where=where, kind=ErrorKind.REFUSED_MODEL)
