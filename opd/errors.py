"""What can go wrong, by name, and what a user can fix, as exceptions."""

import errno
import re
from enum import StrEnum
from typing import Any

MEMORY_ERROR = re.compile(
    r"out of memory|can't allocate memory|alloc_cpu|bad_alloc|ALLOC_FAILED", re.I
)
DISK_ERROR = re.compile(r"No space left on device|Disk quota exceeded|os error (28|122)\b")
RESUME = "Resume the run: it continues from its last checkpoint."


class ErrorKind(StrEnum):
    """A kind of error with what follows from it: the one table of all of them.

    Values are stored and sent; stored strings of other versions are shown as they are.

    hint: what to do about it. by_input: whether the user's own input is the cause.
    status: of a REST reply. exit_code: of a command.
    """

    hint: str
    by_input: bool
    status: int

    def __new__(
        cls, value: str, hint: str, status: int = 422, by_input: bool = True
    ) -> "ErrorKind":
        kind = str.__new__(cls, value)
        kind._value_ = value
        kind.hint, kind.status, kind.by_input = hint, status, by_input
        return kind

    @property
    def exit_code(self) -> int:
        return 2 if self.by_input else 1

    BAD_INPUT = "bad input", "Correct the field named above."
    BAD_CONFIGURATION = "bad configuration", "Correct the field named above."
    BAD_DATA = (
        "bad data",
        "Fix the row, column or field named above; `opd data FILE` shows how a file is read.",
    )
    MISSING_DATA = (
        "missing data",
        "Give a file that exists, or a data set that this machine can reach.",
    )
    REFUSED_DATA = "refused data", "Use data without code of its own: JSON, CSV or Parquet."
    MISSING_MODEL = (
        "missing model",
        "Give a folder with config.json and safetensors weights, a hub id, bundled/student, "
        "bundled/teacher, or a run that has a checkpoint (run-…, run-…@STEP).",
    )
    REFUSED_MODEL = (
        "refused model",
        "Use a model that transformers knows without code of its own, saved with save_pretrained.",
    )
    MISSING_EXTRA = (
        "missing extra",
        "Install the extra named above where the jobs run; then resume the run.",
    )
    NO_TEACHER = (
        "no teacher",
        "Let the student continue, or choose a run whose teacher is a separate model.",
    )
    TOKENIZER_MISMATCH = (
        "tokenizer mismatch",
        "Use a teacher of the student's family: both must share the same token ids.",
    )
    TEACHER_SERVER = (
        "teacher server",
        "Check that the teacher's server is running, answers at teacher.url and serves "
        "teacher.model; the log of one that the run starts is vllm-teacher.txt in its folder. Then "
        "resume the run.",
    )
    SAMPLING_SERVER = (
        "sampling server",
        "Read vllm.txt in the run's folder, the log of the vLLM server; then resume the run, or "
        "start one with sampling.engine local.",
        500,
        False,
    )
    GRADER_FAILED = (
        "grader failed",
        "Remove the row and resume the run with the change (opd resume RUN --accept-changes), or "
        "correct the grader's settings (prompts.grader and those beside it) in a new run.",
    )
    NOT_FOUND = "not found", "List the runs with opd runs.", 404
    RUNNING = "running", "Cancel the run first.", 409
    NOT_RUNNING = "not running", "Resume the run, or start another.", 409
    NOT_RESUMABLE = (
        "not resumable",
        "Only an interrupted, failed or cancelled run can be resumed.",
        409,
    )
    STALE_EDIT = (
        "stale edit",
        "Look at what the other edit made of it, then make yours again.",
        409,
    )
    CHANGED_INPUTS = (
        "changed inputs",
        "Restore what changed, or resume the run with the changes: opd resume RUN "
        "--accept-changes, or the button on its page.",
        409,
    )
    DAMAGED_RECORD = (
        "damaged record",
        "The rest of the run can be read; this rollout cannot be restored.",
        409,
    )
    BUSY = "busy", "Wait until the earlier requests have finished.", 429
    DEVICE_BUSY = (
        "device busy",
        "Wait until the run named above has ended, or answer on the processor (device: cpu).",
        409,
    )
    CANCELLED = "cancelled", "Send the request again."
    NOT_OUR_DATABASE = (
        "not our database",
        "Give another data directory (--data-dir) or database (--database-url).",
    )
    NEWER_SCHEMA = "newer schema", "Update OPD Studio to the version that wrote the database."

    # Not the user's fault
    KILLED = "killed", RESUME, 500, False
    TERMINATED = "terminated", RESUME, 500, False
    INTERRUPTED = "interrupted", RESUME, 500, False
    HUNG = "hung", RESUME, 500, False
    LOST = (
        "lost",
        "If its process still runs elsewhere, it leaves by itself and keeps a checkpoint aside. "
        + RESUME,
        500,
        False,
    )
    OUT_OF_MEMORY = (
        "out of memory",
        "Lower optimizer.micro_batch_tokens or sampling.batch_size, shorten "
        "sampling.max_new_tokens, train an adapter (student.lora), or use smaller models, first "
        "what the error names; or end the program that took the memory, and resume the run.",
        500,
        False,
    )
    DEVICE_LOST = (
        "device lost",
        "The driver or the GPU failed: see nvidia-smi and the system's log; the machine may need a "
        "restart. Then resume the run: it continues from its last checkpoint.",
        500,
        False,
    )
    DISK_FULL = (
        "disk full",
        "Free space on the disk that holds the data directory, or keep less "
        "(records.budget_mb, records.top_k, checkpoints.keep); then resume the run.",
        507,
        False,
    )
    READ_ONLY = (
        "read only",
        "Copy the data directory to a disk that can be written, and use the copy.",
        409,
    )
    DIRECTORY_GONE = (
        "directory gone",
        "Put the data directory back, or mount its disk; then start the server again.",
        503,
        False,
    )
    DATABASE_GONE = (
        "database gone",
        "Start the database server, or restore the network to it. A running job waits for ten "
        "minutes; after that, resume the run.",
        503,
        False,
    )
    FILES = (
        "files",
        "Check that the address of --files answers, may be written and has room; then resume the "
        "run: what it had saved where it ran is still there.",
        503,
        False,
    )
    NAN_LOSS = (
        "nan loss",
        "Lower optimizer.learning_rate or optimizer.max_grad_norm, add optimizer.warmup_steps, "
        "and resume from the last checkpoint.",
        500,
        False,
    )
    DAMAGED_CHECKPOINT = (
        "damaged checkpoint",
        "Resume the run: it continues from the checkpoint before, or starts again.",
        422,
        False,
    )
    LEASE_LOST = "lease lost", "Nothing to do: another process has taken over this run.", 409, False
    LOCKED = (
        "locked",
        "Stop the other program that holds the database; then resume the run.",
        503,
        False,
    )
    ERROR = (
        "error",
        "The log holds the traceback; the run can be resumed from its last checkpoint.",
        500,
        False,
    )


class UserError(Exception):
    """Something a user can fix: `where` names the field or file, the text says what to do."""

    def __init__(
        self, message: str, *, where: str = "", kind: ErrorKind = ErrorKind.BAD_INPUT
    ) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.kind = kind

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


class StaleEditError(UserError):
    """Somebody else has edited a run or a mark since; `current` is what it is now: of a run
    {"version", "name", "notes", "tags"}, of a mark what REST shows of it."""

    def __init__(
        self,
        name: str,
        current: dict[str, Any],
        message: str = "was edited by somebody else meanwhile: nothing was changed",
    ) -> None:
        self.current = current
        super().__init__(message, where=name, kind=ErrorKind.STALE_EDIT)


class ChangedInputsError(UserError):
    """What a run depends on is not what it was at the run's start; `changes` says what, by field.

    `changes` are {"field", "text"}.
    """

    def __init__(self, run_id: str, changes: list[dict[str, str]]) -> None:
        self.changes = changes
        listed = "; ".join(f"{c['field']}: {c['text']}" for c in changes)
        super().__init__(
            f"changed since the run started: {listed}. Restore this, or go on with it: "
            f"opd resume {run_id} --accept-changes",
            where=run_id,
            kind=ErrorKind.CHANGED_INPUTS,
        )


def one_line(error: BaseException, limit: int = 300) -> str:
    """Another library's error as ours quote it: on one line, cut, never empty."""
    return " ".join(str(error).split())[:limit] or type(error).__name__


def raise_lack_of_memory(error: BaseException) -> None:
    """Raises the error again where memory ran out: that says nothing of what was being read."""
    if lacks_memory(error) or re.search(r"\bmemory\b", str(error)):
        raise error


def lacks_memory(error: BaseException) -> bool:
    """Whether another library's error says that memory ran out, of the machine or of a device."""
    return isinstance(error, MemoryError) or MEMORY_ERROR.search(str(error)) is not None


def lacks_room(error: BaseException) -> bool:
    """Whether an error, another library's too, says that a disk or a quota is full."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return DISK_ERROR.search(str(error)) is not None


class LackOfMemoryError(UserError):
    """Memory ran out during a run. `phase`: "loading", "evaluation", "checkpoint", of a step
    "sample", "teacher", "student" or "optimizer", or empty."""

    def __init__(self, message: str, *, phase: str) -> None:
        super().__init__(message, kind=ErrorKind.OUT_OF_MEMORY)
        self.phase = phase


class ConfigError(UserError):
    """A configuration that cannot run; `problems` has one entry a field: {"field", "message"}."""

    def __init__(self, problems: list[dict[str, str]]) -> None:
        self.problems = problems
        text = "; ".join(
            f"{p['field']}: {p['message']}" if p["field"] else p["message"] for p in problems
        )
        super().__init__(text, kind=ErrorKind.BAD_CONFIGURATION)
