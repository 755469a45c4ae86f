"""What went wrong in a job, named, with what to change."""

import errno
import os
import re
from dataclasses import dataclass

from opd.errors import UserError

OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|alloc_cpu|bad_alloc", re.I)
SECRET_NAMES = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|DATABASE_URL|WEBHOOK", re.I)
NO_FAULT = ("nan loss", "disk full", "damaged checkpoint", "lease lost", "locked")
HINTS = {
    "out of memory": "Lower optimizer.micro_batch_tokens or sampling.batch_size, shorten "
    "sampling.max_new_tokens, train an adapter (student.lora), or take smaller models.",
    "disk full": "Free space on the disk that holds the data directory, or keep less "
    "(records.budget_mb, records.top_k, checkpoints.keep); then resume the run.",
    "missing model": "Give a folder with config.json and safetensors weights, a hub id, "
    "bundled/student, bundled/teacher, or a run that has a checkpoint (run-…, run-…@STEP).",
    "refused model": "Take a model that transformers knows without code of its own, saved with "
    "save_pretrained.",
    "no teacher": "Let the student go on, or take a run whose coach is a model of its own.",
    "missing extra": "Install the extra that the text names, where the jobs run; then resume.",
    "missing data": "Give a file that is there, or a data set that this machine can reach.",
    "refused data": "Take data without code of its own: JSON lines or Parquet.",
    "bad data": "Mend the named line, column or field; each line of a file is one JSON object.",
    "bad input": "Correct the named field.",
    "bad configuration": "Correct the named field.",
    "tokenizer mismatch": "Take a teacher of the student's family: token by token, both must "
    "read the same ids.",
    "teacher server": "See that the teacher's server runs, answers at teacher.url and serves "
    "teacher.model; then resume the run.",
    "grader failed": "Correct the grader's settings (prompts.grader and those beside it), or take "
    "out the row; then resume the run.",
    "nan loss": "Lower optimizer.learning_rate or optimizer.max_grad_norm, add "
    "optimizer.warmup_steps, and resume from the last checkpoint.",
    "damaged checkpoint": "Resume the run: it goes on from the checkpoint before, or begins anew.",
    "damaged record": "The rest of the run can be read; this rollout cannot be restored.",
    "not found": "See what there is with opd runs.",
    "not our database": "Give another data directory (--data-dir) or database (--database-url).",
    "newer schema": "Update OPD Studio to the version that wrote the database.",
    "locked": "End the other program that holds the database; then resume the run.",
    "busy": "Wait until what was asked before is answered.",
    "lease lost": "Nothing is to be done: another process goes on with the run.",
    "running": "Cancel the run first.",
    "not running": "Resume the run, or start another.",
    "not resumable": "Only an interrupted, failed or cancelled run can be resumed.",
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
    own_fault = isinstance(error, UserError) and kind not in NO_FAULT
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
