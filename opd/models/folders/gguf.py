"""GGUF files: model and tokenizer as transformers reads them, dequantised and checked.

transformers drops what it does not know, be it a tensor or the way text is split. Here the model
holds all that the file holds, and text becomes the ids that the model learnt, or it is refused.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
    modeling_gguf_pytorch_utils,
)

from opd.config.gguf.header import DIGIT_SPLITS, GgufHeader, check_file
from opd.errors import ErrorKind, UserError, one_line, raise_lack_of_memory
from opd.models.folders.progress import without_bars

# What transformers raises for a file that it cannot read.
UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError)


def load_gguf_model(
    file: Path, *, where: str, dtype: torch.dtype = torch.float32, quantize: str = "none"
) -> Any:
    """The file's causal LM in `dtype`, in evaluation mode, every tensor of the file in it.

    Raises UserError, naming `where`, for a file that cannot be loaded whole.
    """
    header = check_file(file, where=where)
    if quantize != "none":
        raise UserError(
            f"{file} is a GGUF file, whose weights are dequantised: take quantize none, or the "
            "model's own folder",
            where=f"{where.removesuffix('.model')}.quantize",
        )
    try:
        with _by_itself(file) as (folder, name):
            config = AutoConfig.from_pretrained(folder, gguf_file=name)
            model, report = AutoModelForCausalLM.from_pretrained(
                folder, config=config, gguf_file=name, dtype=dtype, output_loading_info=True
            )
    except UNREADABLE as error:
        raise_lack_of_memory(error)
        raise _refused(file, f"cannot be loaded: {one_line(error)}", where) from None
    missing = sorted(report["missing_keys"])
    if missing:
        raise _refused(file, f"lacks {len(missing)} of the model's weights: {missing[0]}", where)
    _check_complete(file, header, model, where)
    _as_plain_model(model, file, header)
    return model.eval()


def load_gguf_tokenizer(file: Path, *, where: str) -> Any:
    """The file's tokenizer with its chat template. Raises UserError where special ids differ."""
    header = check_file(file, where=where)
    try:
        with _by_itself(file) as (folder, name):
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, gguf_file=name)
    except UNREADABLE as error:
        raise _refused(file, f"has no usable tokenizer: {one_line(error)}", where) from None
    tokenizer.name_or_path = str(file)
    _split_text(tokenizer, header)
    for role in ("bos", "eos"):
        stated = header.of_tokenizer(f"{role}_token_id")
        made = getattr(tokenizer, f"{role}_token_id")
        if stated is not None and stated != made:
            raise _refused(file, f"names {stated} as {role}, which is read as {made}", where)
    return tokenizer


def convert_gguf(file: Path, folder: Path, *, where: str) -> None:
    """Writes the file as a transformers folder, its weights in bfloat16.

    Raises UserError as loading it does, and OSError.
    """
    load_gguf_tokenizer(file, where=where).save_pretrained(folder)
    load_gguf_model(file, where=where, dtype=torch.bfloat16).save_pretrained(folder)


@contextmanager
def _by_itself(file: Path) -> Iterator[tuple[str, str]]:
    """A folder in which the file lies with no other: transformers would mix in what is beside it.

    Inside, its progress bar stays silent.
    """
    with (
        tempfile.TemporaryDirectory(prefix="opd-gguf-") as folder,
        without_bars(modeling_gguf_pytorch_utils),
    ):
        (Path(folder) / file.name).symlink_to(file.resolve())
        yield folder, file.name


def _check_complete(file: Path, header: GgufHeader, model: Any, where: str) -> None:
    """Refuses a file that holds more numbers, or fewer, than the model that was made of it."""
    layers = model.config.get_text_config().num_hidden_layers
    extra = {f"blk.{n}." for n in range(layers, header.of_model("block_count") or layers)}
    tied = model.config.get_text_config().tie_word_embeddings and "output.weight" in header.tensors
    held = {
        name: shape
        for name, shape in header.tensors.items()
        if not name.startswith(tuple(extra)) and not (tied and name == "output.weight")
    }
    stored = GgufHeader({}, held).parameters
    loaded = sum(p.numel() for p in model.parameters())
    if stored != loaded:
        raise _refused(
            file,
            f"holds {stored:,} numbers, of which transformers makes a model of {loaded:,}; give "
            "the model's folder or hub id instead",
            where,
        )


def _as_plain_model(model: Any, file: Path, header: GgufHeader) -> None:
    """Makes it a model like any other, which can be trained and saved, and knows all its ends."""
    model.hf_quantizer, model.is_quantized = None, False
    for holder in (model, model.config):
        for name in ("quantization_method", "quantization_config"):
            if hasattr(holder, name):
                delattr(holder, name)
    model.config._name_or_path = model.name_or_path = str(file)
    ends = header.stop_ids()
    if ends:
        model.generation_config.eos_token_id = ends if len(ends) > 1 else ends[0]


def _split_text(tokenizer: Any, header: GgufHeader) -> None:
    """Splits text before it is merged as the file says, where transformers does not heed it."""
    backend = tokenizer.backend_tokenizer
    if header.of_tokenizer("model") == "gpt2" and header.of_tokenizer("pre") in DIGIT_SPLITS:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    unprefixed = header.of_tokenizer("add_space_prefix") is False
    if unprefixed and isinstance(backend.pre_tokenizer, pre_tokenizers.Metaspace):
        backend.pre_tokenizer.prepend_scheme = "never"


def _refused(file: Path, reason: str, where: str) -> UserError:
    return UserError(f"{file} {reason}", where=where, kind=ErrorKind.REFUSED_MODEL)
