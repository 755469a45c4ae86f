"""Whether a folder's weights are those that its model needs: none missing, none of another shape.

transformers gives new random values to what it does not find and drops what it has no place for.
Asked of the files' headers, against a model on the meta device, nothing is read and no memory is
taken; transformers' own renaming and fusing of weights apply.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig
from transformers.models.auto.auto_factory import _get_model_class
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils import logging as transformers_logging

from opd.config.model_files.kind import REMEDY
from opd.config.model_files.weights import read_headers
from opd.errors import ErrorKind, UserError, one_line, raise_lack_of_memory

SHOWN = 3
# What transformers and the libraries beneath it raise for a folder that they cannot load.
UNLOADABLE = (
    *(OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError),
    SafetensorError,
)
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

# What wraps a model, by the prefix that it leaves in names, and how to save without it.
WRAPPERS = {
    "module.": ("DistributedDataParallel", "model.module.save_pretrained(…)"),
    "_orig_mod.": ("torch.compile", "model._orig_mod.save_pretrained(…)"),
    "base_model.model.": ("PEFT", "model.merge_and_unload().save_pretrained(…)"),
    "base_layer.": ("PEFT", "model.merge_and_unload().save_pretrained(…)"),
    "_fsdp_wrapped_module.": ("FSDP", "accelerator.get_state_dict(model) and save_pretrained"),
    "_checkpoint_wrapped_module.": ("activation checkpointing", "the model inside"),
    "pretrained_model.": ("TRL's value head", "model.pretrained_model.save_pretrained(…)"),
    "language_model.": ("a multimodal model", "its language model, with that one's config.json"),
}
# What a checkpoint may hold beyond the language model; the run needs none of it.
BESIDE = re.compile(
    r"(^|\.)(mtp\w*|nextn\w*|eagle\w*|medusa\w*|v_head|value_head|talker|token2wav|code2wav"
    r"|mm_\w*|\w*(vision|visual|image|video|audio|speech|multi_?modal|projector|perceiver"
    r"|resampler)\w*)(\.|$)"
)
PREDICTS_MORE = re.compile(r"\.(eh_proj|enorm|hnorm|shared_head|embed_tokens)\.")
# Buffers that older versions stored and newer ones compute.
COMPUTED = re.compile(
    r"(attn|attention)\.(attention\.)?(masked_)?bias$|causal_mask$|(^|\.)version$"
    r"|(inv_freq|position_ids)$"
)
OTHER_HEAD = re.compile(r"^(score|classifier|qa_outputs|cls|reward_head)\.")
SCALES = re.compile(r"\.\w*(_scale|_zero_point|_shape|_g_idx|_scale_inv)$")
LAYER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True)
class Comparison:
    """Names of weights: those that the model needs and the files lack, those that it has no place
    for, and those of another shape (name, stored, needed)."""

    missing: Sequence[str]
    unexpected: Sequence[str]
    mismatched: Sequence[tuple[str, Sequence[int], Sequence[int]]]

    @classmethod
    def of(cls, info: dict[str, Any]) -> "Comparison":
        """From transformers' `output_loading_info`."""
        return cls(
            in_order(info["missing_keys"]),
            in_order(info["unexpected_keys"]),
            sorted((n, tuple(a), tuple(b)) for n, a, b in info["mismatched_keys"]),
        )


def quiet() -> None:
    """No bars while weights load, no advice in the log that does not concern users."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


@contextmanager
def refusing(folder: Path, *, where: str) -> Iterator[None]:
    """Inside, what says that a folder cannot be loaded becomes a UserError; lack of memory not."""
    try:
        yield
    except UNLOADABLE as error:
        raise_lack_of_memory(error)
        raise UserError(
            f"{folder} cannot be loaded as a causal language model: {one_line(error)}",
            where=where,
            kind=ErrorKind.MISSING_MODEL,
        ) from None


def causal_config(folder: Path, *, where: str) -> Any:
    """The folder's configuration. Raises UserError for one that is not of a causal model."""
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, StrictDataclassError) as error:
        raise UserError(
            f"{folder}/config.json cannot be used: {one_line(error)}",
            where=where,
            kind=ErrorKind.MISSING_MODEL,
        ) from None
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        named = ", ".join(config.architectures or ()) or f"model_type {config.model_type}"
        raise UserError(
            f"{folder} is not a causal language model of transformers ({named}); {REMEDY}",
            where=where,
            kind=ErrorKind.REFUSED_MODEL,
        )
    return config


def check_stored(folder: Path, *, where: str) -> str:
    """Compares the files' headers with the model; returns what is left out, in words.

    Quantized folders are compared when they are loaded. Raises UserError.
    """
    model = empty_model(folder, where=where)
    return "" if model is None else model[1]


def empty_model(folder: Path, *, where: str) -> tuple[Any, str] | None:
    """The folder's model without weights, on the meta device, and what `check` returns of it.

    None for a quantized folder. Raises UserError.
    """
    quiet()
    config = causal_config(folder, where=where)
    if getattr(config, "quantization_config", None) is not None:
        return None
    stored = {
        name: torch.empty(t.shape, dtype=DTYPES.get(t.dtype, torch.float32), device="meta")
        for name, t in read_headers(folder, where=where).items()
    }
    model_class = _get_model_class(config, MODEL_FOR_CAUSAL_LM_MAPPING)
    text = config.sub_configs.get("text_config")
    if text is not None and model_class.config_class == text:
        config = config.get_text_config()
    with refusing(folder, where=where):
        model, info = model_class.from_pretrained(
            None,
            config=config,
            state_dict=stored,
            device_map={"": "meta"},
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    return model, check(model, Comparison.of(info), folder, where=where)


def check(model: Any, comparison: Comparison, folder: Path, *, where: str) -> str:
    """Refuses weights that would make another model than the folder's; returns what is left out,
    in words, empty where nothing is. Raises UserError that says how many and names the first."""
    wrong = [name for name in comparison.unexpected if not _beside(model, name)]
    text = (
        _wrapped(comparison)
        or _missing(model, comparison)
        or _mismatched(comparison)
        or (_misplaced(wrong) if wrong else None)
    )
    if text is not None:
        raise UserError(f"{folder}: {text}", where=where, kind=ErrorKind.REFUSED_MODEL)
    unused = [n for n in comparison.unexpected if not COMPUTED.search(n)]
    return f"{count(unused)} not used, {first(unused)}" if unused else ""


def untie(model: Any) -> bool:
    """Whether a stored head differs from the embedding that config.json ties it to.

    transformers then keeps both; the configuration is made to say so, so that what is saved is read
    alike everywhere.
    """
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    config = model.config.get_text_config()
    tied = getattr(config, "tie_word_embeddings", False)
    if not tied or head is None or head.weight is embedding.weight:
        return False
    for each in (model.config, config):
        each.tie_word_embeddings = False
    return True


def _missing(model: Any, comparison: Comparison) -> str | None:
    if not comparison.missing:
        return None
    return (
        f"{len(comparison.missing)} of {len(model.state_dict())} weights are missing from its "
        f"files, {first(comparison.missing)}; random ones would be used in their place: download "
        "the folder again, or save the model with save_pretrained"
    )


def _mismatched(comparison: Comparison) -> str | None:
    if not comparison.mismatched:
        return None
    name, stored, needed = comparison.mismatched[0]
    return (
        f"{count(comparison.mismatched)} of another shape than its config.json says, first {name}: "
        f"{list(stored)} stored, {list(needed)} needed; take both from the same model"
    )


def _misplaced(wrong: Sequence[str]) -> str:
    if any("lora_" in name for name in wrong):
        return (
            f"{count(wrong)} of an adapter that is not merged, {first(wrong)}; merge it "
            "(merge_and_unload) before saving, or save the adapter by itself"
        )
    return (
        f"its config.json has no place for {count(wrong)} of its files, {first(wrong)}; they "
        "would be left out: take config.json and weights from the same model"
    )


def _wrapped(comparison: Comparison) -> str | None:
    """Names that a wrapper's prefix keeps from being those that are missing."""
    missing = set(comparison.missing)
    prefixes = Counter(
        prefix for name in comparison.unexpected if (prefix := _prefix(name, missing)) is not None
    )
    if not prefixes:
        return None
    prefix, count = prefixes.most_common(1)[0]
    wrapper, remedy = WRAPPERS.get(prefix, ("something around the model", "the model inside"))
    first = next(n for n in comparison.unexpected if _prefix(n, missing) == prefix)
    return (
        f"{count} weights are named with {prefix!r}, which {wrapper} adds, first {first}; "
        f"save the model without it: {remedy}"
    )


def _prefix(name: str, missing: set[str]) -> str | None:
    """What to take out of a stored name to get one that is missing."""
    for part in WRAPPERS:
        if re.sub(rf"(^|(?<=\.)){re.escape(part)}", "", name) in missing:
            return part
    ends = (m.end() for m in re.finditer(r"\.", name))
    return next((name[:end] for end in ends if name[end:] in missing), None)


def _beside(model: Any, name: str) -> bool:
    """Is this stored weight none of the language model's own?"""
    if "lora_" in name or OTHER_HEAD.search(name):
        return False
    if BESIDE.search(name) or COMPUTED.search(name):
        return True
    config = model.config
    quantized = getattr(config, "quantization_config", None) is not None
    if quantized and SCALES.search(name):
        return True
    return _predicts_more(config, name) or not _in_decoder(model, name)


def _predicts_more(config: Any, name: str) -> bool:
    """A layer after the last one that predicts a further token (DeepSeek-V3, GLM, MiMo)."""
    text = config.get_text_config()
    layers = getattr(text, "num_hidden_layers", 0)
    further = getattr(text, "num_nextn_predict_layers", None) or 0
    number = LAYER.search(name)
    if number is None or int(number[1]) < layers:
        return False
    return int(number[1]) < layers + further or PREDICTS_MORE.search(name) is not None


def _in_decoder(model: Any, name: str) -> bool:
    """Does the name lead into the model's decoder?"""
    decoder = model.get_decoder()
    inside = next((n for n, m in model.named_modules() if m is decoder), "")
    modules = dict(model.named_modules())
    parents = (name[: m.start()] for m in reversed(list(re.finditer(r"\.", name))))
    parent = next((p for p in parents if p in modules), None)
    return parent is not None and f"{parent}.".startswith(f"{inside}.".lstrip("."))


def count(names: Sequence[Any]) -> str:
    return f"{len(names)} weight{'' if len(names) == 1 else 's'}"


def first(names: Sequence[str]) -> str:
    return f"first {', '.join(names[:SHOWN])}"


def in_order(names: Iterable[str]) -> list[str]:
    """Sorted with numbers as numbers: layer 2 before layer 10."""

    def key(name: str) -> list[tuple[int, str]]:
        return [(int(p), "") if p.isdigit() else (-1, p) for p in name.split(".")]

    return sorted(names, key=key)
