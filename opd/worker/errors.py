"""What went wrong in a job, named, with what to change."""

import errno
import os
import re
from dataclasses import dataclass

from opd.types import UserError

OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|alloc_cpu|bad_alloc", re.I)
SECRET_NAMES = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|DATABASE_URL", re.I)
HINTS = {
    "out of memory": "Lower optimizer.micro_batch_tokens or sampling.batch_size, shorten "
    "sampling.max_new_tokens, train an adapter (student.lora), or take smaller models.",
    "disk full": "Free space on the disk that holds the data directory, or keep less "
    "(records.budget_mb, records.top_k, checkpoints.keep); then resume the run.",
    "missing model": "Give a folder with config.json and safetensors weights, a hub id, "
    "bundled/student or bundled/teacher.",
    "bad data": "Mend the named line of the file; each line is one JSON object with a prompt.",
    "tokenizer mismatch": "Take a teacher of the student's family: token by token, both must "
    "read the same ids.",
    "nan loss": "Lower optimizer.learning_rate or optimizer.max_grad_norm, add "
    "optimizer.warmup_steps, and resume from the last checkpoint.",
    "bad configuration": "Correct the named field.",
    "error": "The log holds the traceback; the run can be resumed from its last checkpoint.",
}


@dataclass(frozen=True)
class Failure:
    kind: str
    text: str
    hint: str
    by_input: bool  # whether the user's own input is the cause


def describe(error: BaseException) -> Failure:
    kind = _kind(error)
    text = str(error)
    if not isinstance(error, UserError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    hint = HINTS.get(kind, "")
    own_fault = isinstance(error, UserError) and kind not in ("nan loss", "disk full")
    return Failure(kind, redact(" ".join(text.split()))[:600], hint, own_fault)


def redact(text: str) -> str:
    """The text without the value of any environment variable that names a secret."""
    for name, value in os.environ.items():
        if len(value) >= 8 and SECRET_NAMES.search(name):
            text = text.replace(value, f"<{name}>")
    return text


def _kind(error: BaseException) -> str:
    if isinstance(error, UserError):
        return error.kind
    if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error)):
        return "out of memory"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "disk full"
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return "out of memory"
    return "error"
