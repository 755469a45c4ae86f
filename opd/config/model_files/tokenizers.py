"""The files of a tokenizer: which folder of a model has them, and which are missing.

Free of torch. transformers makes an empty tokenizer of a class's name where its files are missing.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from opd.config.model_files.adapters import is_adapter, local_chain
from opd.errors import ErrorKind, UserError

WHOLE = (
    *("tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
    *("sentencepiece.model", "spm.model", "bpe.model", "vocab.txt"),
)
PAIRS = {"vocab.json": "merges.txt", "merges.txt": "vocab.json"}
FILES = (
    *WHOLE,
    *PAIRS,
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "chat_template.json", "vocab.bpe"),
)
WITHOUT_FILES = ("ByT5Tokenizer", "CanineTokenizer", "PerceiverTokenizer")
MISTRAL = "tekken.json"


def missing_file(folder: Path) -> str | None:
    """What a folder's tokenizer lacks, in words; None where it is complete, as in a GGUF file."""
    if (
        folder.is_file()
        or any((folder / name).is_file() for name in WHOLE)
        or any(folder.glob("*.tiktoken"))
    ):
        return None
    there = [name for name in PAIRS if (folder / name).is_file()]
    if len(there) == 2 or _needs_none(folder):
        return None
    if there:
        return f"has {there[0]} but no {PAIRS[there[0]]} (nor tokenizer.json)"
    if (folder / MISTRAL).is_file():
        return f"has {MISTRAL}, Mistral's own format, but no tokenizer.json"
    return "has no tokenizer.json (nor tokenizer.model, nor vocab.json with merges.txt)"


def files_of(folder: Path) -> list[Path]:
    """All files of a folder's tokenizer, chat templates included; none of a GGUF file."""
    named = [folder / name for name in FILES if (folder / name).is_file()]
    more = ("*.tiktoken", "additional_chat_templates/*.jinja")
    return named + sorted(path for pattern in more for path in folder.glob(pattern))


def _needs_none(folder: Path) -> bool:
    try:
        text = (folder / "tokenizer_config.json").read_text(encoding="utf-8")
        return json.loads(text).get("tokenizer_class") in WITHOUT_FILES
    except (OSError, ValueError, AttributeError):
        return False


def tokenizer_folder(chain: Sequence[Path], *, where: str) -> Path:
    """The first of a model and its bases with a tokenizer. Raises UserError, naming the file."""
    faults = {folder: missing_file(folder) for folder in chain}
    for folder, fault in faults.items():
        if fault is None:
            return folder
    named = "; ".join(f"{folder} {fault}" for folder, fault in faults.items())
    raise UserError(
        f"{named}; copy the missing file from where the model comes from",
        where=where,
        kind=ErrorKind.MISSING_MODEL,
    )


def check_tokenizer(folder: Path, *, where: str) -> None:
    """Refuses a folder without a tokenizer, unless its base is on the hub, which may have one."""
    chain = local_chain(folder, where=where)
    if not is_adapter(chain[-1]):
        tokenizer_folder(chain, where=where)
