"""GGUF files: what their header says, and which of them are refused for it. Free of torch.

A header is metadata (`general.architecture`, `llama.block_count`, `tokenizer.ggml.tokens`, …) and
a table of tensors, in front of the weights. It is read with no library at all, so that a
configuration is checked in milliseconds.
"""

import math
import mmap
import struct
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from opd.errors import ErrorKind, UserError

ENDING = ".gguf"
MAGIC, VERSIONS = b"GGUF", (2, 3)
NUMBERS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
TEXT, ARRAY = 8, 9
MAX_ENTRIES = 10_000_000  # of an array, or of a table: more is a damaged file
# llama.cpp's names of the causal models that transformers reads.
ARCHITECTURES = frozenset(
    [
        "bloom",
        "deci",
        "falcon",
        "gemma2",
        "gemma3",
        "gemma4",
        "gpt-oss",
        "gpt2",
        "lfm2",
        "llama",
        "mamba",
        "minimax-m2",
        "mistral",
        "nemotron",
        "phi3",
        "qwen2",
        "qwen2moe",
        "qwen3",
        "qwen35",
        "qwen35moe",
        "qwen3moe",
        "stablelm",
        "starcoder2",
    ]
)
# How byte-level vocabularies split text before it is merged. Those of the first group split as
# GPT-2 does, those of the second each digit apart and then so; transformers knows the third.
GPT2_SPLITS = frozenset(["default", "gpt-2", "gpt2", "phi-2", "mpt", "olmo", "jais", "trillion"])
DIGIT_SPLITS = frozenset(
    ["smollm", "starcoder", "refact", "command-r", "exaone", "codeshell", "minerva-7b"]
)
OTHER_SPLITS = frozenset(
    [
        "dbrx",
        "deepseek-r1-qwen",
        "falcon-h1",
        "falcon3",
        "gpt-4o",
        "lfm2",
        "llama-bpe",
        "llama-v3",
        "llama3",
        "llama4",
        "midm-2.0",
        "minimax-m2",
        "pixtral",
        "qwen2",
        "qwen35",
        "smaug-bpe",
        "tekken",
    ]
)
INSTALL = "python -m pip install 'opd-studio[smollm]' (it holds gguf and nothing else)"


@dataclass(frozen=True)
class GgufHeader:
    """`metadata` by llama.cpp's keys, arrays of text as how many they are; shapes by tensor."""

    metadata: dict[str, Any]
    tensors: dict[str, tuple[int, ...]]

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ""))

    @property
    def parameters(self) -> int:
        """How many numbers the file's tensors hold."""
        return sum(math.prod(shape) for shape in self.tensors.values())

    def of_model(self, key: str) -> Any:
        """A value of the model's own keys, such as block_count; None where it is not there."""
        return self.metadata.get(f"{self.architecture}.{key}")

    def of_tokenizer(self, key: str) -> Any:
        return self.metadata.get(f"tokenizer.ggml.{key}")

    def as_config(self) -> dict[str, Any]:
        """As much of a config.json as decides the model's size."""
        feed_forward = self.of_model("feed_forward_length")
        values = {
            "model_type": self.architecture,
            "hidden_size": self.of_model("embedding_length"),
            "num_hidden_layers": self.of_model("block_count"),
            "num_attention_heads": self.of_model("attention.head_count"),
            "num_key_value_heads": self.of_model("attention.head_count_kv"),
            "head_dim": self.of_model("attention.key_length"),
            "intermediate_size": feed_forward,
            "max_position_embeddings": self.of_model("context_length"),
            "vocab_size": self.of_model("vocab_size") or self.of_tokenizer("tokens"),
        }
        return {k: v for k, v in values.items() if v is not None} | {
            "tie_word_embeddings": "output.weight" not in self.tensors
        }

    def stop_ids(self) -> list[int]:
        """The ids that end an answer: of a turn and of a text, where the file names them."""
        named = (self.of_tokenizer(f"{end}_token_id") for end in ("eos", "eot", "eom"))
        return list(dict.fromkeys(i for i in named if isinstance(i, int)))


def is_gguf(path: Path) -> bool:
    """Whether a model's path is meant as a GGUF file."""
    return path.suffix.lower() == ENDING and not path.is_dir()


def check_file(path: Path, *, where: str) -> GgufHeader:
    """The header of a file that can be loaded. Raises UserError for any other, naming why."""
    header = read_header(path, where=where)
    reason = _refusal(header)
    if reason is not None:
        raise UserError(f"{path} {reason}", where=where, kind=ErrorKind.REFUSED_MODEL)
    if find_spec("gguf") is None:
        raise UserError(
            f"{path} is a GGUF file, which needs gguf: {INSTALL}",
            where=where,
            kind=ErrorKind.MISSING_EXTRA,
        )
    return header


def _refusal(header: GgufHeader) -> str | None:
    """Why transformers would not load the file, or load it as something else; None if neither."""
    name, parts = header.architecture, header.metadata.get("split.count", 0)
    if name not in ARCHITECTURES or header.metadata.get("general.type", "model") != "model":
        what = name or "nothing"
        return (
            f"holds {what} ({header.metadata.get('general.type', 'model')}), which cannot be read "
            f"from GGUF; possible: {', '.join(sorted(ARCHITECTURES))}; give the model's folder or "
            "hub id instead"
        )
    if parts > 1:
        return f"is one of {parts} parts; join them with llama-gguf-split --merge first"
    if not header.tensors:
        return "holds a vocabulary but no weights"
    scaling = header.of_model("rope.scaling.type")
    factors = sorted(t for t in header.tensors if t.startswith(("rope_freqs", "rope_factors")))
    if factors or scaling not in (None, "none"):
        return (
            f"scales its rotary positions ({factors[0] if factors else scaling}), which "
            "transformers does not read from GGUF: every later token would be judged wrongly; "
            "give the model's folder or hub id instead"
        )
    split = header.of_tokenizer("pre")
    if header.of_tokenizer("model") == "gpt2" and split not in {
        None,
        *GPT2_SPLITS,
        *DIGIT_SPLITS,
        *OTHER_SPLITS,
    }:
        return (
            f"splits text as {split!r}, which is not known here, so words would become other ids "
            "than the model learnt; give the model's folder or hub id instead"
        )
    return None


def read_header(path: Path, *, where: str) -> GgufHeader:
    """The header. Raises UserError for a file that cannot be read or is not GGUF."""
    try:
        stat = path.stat()
        return _header(path, stat.st_mtime_ns, stat.st_size)
    except (OSError, ValueError, struct.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"{path} cannot be read as a GGUF file: {reason}",
            where=where,
            kind=ErrorKind.MISSING_MODEL,
        ) from None


@lru_cache(maxsize=8)
def _header(path: Path, changed: int, size: int) -> GgufHeader:
    """Read once while the file stays as it is."""
    del changed
    if size < 24:
        raise ValueError(f"only {size} bytes")
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        return _HeaderReader(data).header()


class _HeaderReader:
    """Walks a header. Raises ValueError or struct.error where it breaks off."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._at = data, 0

    def header(self) -> GgufHeader:
        if self._data[:4] != MAGIC:
            raise ValueError("it does not begin with GGUF")
        self._at = 4
        version, tensors, entries = self._numbers("IQQ")
        if version not in VERSIONS:
            raise ValueError(f"version {version}, must be {' or '.join(map(str, VERSIONS))}")
        metadata = {}
        for _ in range(_sane(entries)):
            key = self._text()
            metadata[key] = self._value(self._numbers("I")[0])
        return GgufHeader(metadata, dict(self._tensor() for _ in range(_sane(tensors))))

    def _tensor(self) -> tuple[str, tuple[int, ...]]:
        name = self._text()
        (dimensions,) = self._numbers("I")
        if dimensions > 8:
            raise ValueError(f"tensor {name[:80]!r} has {dimensions} dimensions")
        shape = self._numbers(f"{dimensions}Q")
        self._numbers("IQ")
        return name, tuple(reversed(shape))

    def _value(self, kind: int) -> Any:
        if kind in NUMBERS:
            return self._numbers(NUMBERS[kind])[0]
        if kind == TEXT:
            return self._text()
        if kind != ARRAY:
            raise ValueError(f"a value of type {kind}")
        kind, count = self._numbers("IQ")
        _sane(count)
        if kind in NUMBERS:
            return list(self._numbers(f"{count}{NUMBERS[kind]}"))
        if kind != TEXT:
            raise ValueError(f"an array of type {kind}")
        for _ in range(count):
            self._skip_text()
        return count

    def _text(self) -> str:
        start, self._at = self._skip_text()
        return self._data[start : self._at].decode("utf-8")

    def _skip_text(self) -> tuple[int, int]:
        """Start and end of a text, and goes on behind it."""
        (length,) = self._numbers("Q")
        start, self._at = self._at, self._at + length
        if self._at > len(self._data):
            raise ValueError("it breaks off")
        return start, self._at

    def _numbers(self, form: str) -> tuple[Any, ...]:
        values = struct.unpack_from(f"<{form}", self._data, self._at)
        self._at += struct.calcsize(f"<{form}")
        return values


def _sane(count: int) -> int:
    if count > MAX_ENTRIES:
        raise ValueError(f"{count} entries")
    return count
