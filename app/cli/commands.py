"""The commands, and how each ends. Everything heavy is imported inside the one that needs it."""

import errno
import sys
from itertools import pairwise
from typing import Any

import typer

from app.cli import (
    checking,
    data,
    editing,
    experiments,
    inspect_runs,
    purging,
    serving,
    training,
)
from app.cli.out import copying, marks, records, reporting
from app.cli.output import OUTPUT, let_go, plain, say
from app.cli.workspace import in_workspace
from app.worker.errors import describe, redact
from opd.errors import ErrorKind, UserError

# The parents of all errors of usage, whichever package typer takes them from.
USAGE_ERROR: type[Any] = typer.BadParameter.__mro__[2]
INTERRUPTED = 130
# What the machine could not do, whatever it was asked for.
FAILED = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM),
    *(errno.ESTALE, errno.ENOTCONN),
)


class Commands(typer.Typer):
    """Ends with one clear line and exit code 2 for whatever a user can cause."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        given = sys.argv[1:] or ["--help"]
        options = {"args": given, "standalone_mode": False, **options}
        try:
            code = super().__call__(*args, **options)
            if code == INTERRUPTED:  # of typer; a command that has said so itself exits by sys.exit
                code = _said("stopped", INTERRUPTED)
        except SystemExit as end:
            left = isinstance(end.__context__, BrokenPipeError)
            code = 0 if left else end.code  # the reader of our output has seen enough
        except USAGE_ERROR as error:
            code = _said(_usage(error, given), 2)
        except (typer.Abort, KeyboardInterrupt):
            code = _said("stopped", INTERRUPTED)
        except _expected() as error:
            code = _said(_message(error), _exit_code(error))
        if (lost := let_go()) and not code:
            code = _said(lost, 1)
        sys.exit(code if isinstance(code, int) else 0)


def _usage(error: Any, given: list[str]) -> str:
    """The error of usage with the value that was given, which typer leaves out."""
    message = _one_line(error.format_message())
    for option in getattr(getattr(error, "param", None), "opts", ()):
        values = [b for a, b in pairwise(given) if a == option]
        values += [a.partition("=")[2] for a in given if a.startswith(f"{option}=")]
        if values:
            return f"{message} (got {values[-1]!r})"
    return message


def _expected() -> tuple[type[BaseException], ...]:
    """Errors with a cause outside the program; evaluated only when one is on its way."""
    from sqlalchemy.exc import SQLAlchemyError

    torch = sys.modules.get("torch")
    memory = (torch.OutOfMemoryError,) if torch is not None else ()
    return UserError, OSError, MemoryError, SQLAlchemyError, *memory


def _exit_code(error: BaseException) -> int:
    if isinstance(error, (UserError, MemoryError)):
        return describe(error).kind.exit_code
    failed = isinstance(error, OSError) and (error.filename == OUTPUT or error.errno in FAILED)
    return 1 if failed else 2  # of files and databases that the user named


def _message(error: BaseException) -> str:
    if isinstance(error, OSError):
        return f"{error.filename or 'system'}: {error.strerror or error}"
    if isinstance(error, MemoryError):
        return str(ErrorKind.OUT_OF_MEMORY)
    original = getattr(error, "orig", None)
    return redact(_one_line(f"database: {original}" if original is not None else str(error)))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _said(message: str, code: int) -> int:
    say(f"Error: {plain(message)}")
    return code


commands = Commands(
    name="opd",
    help="On-policy distillation of language models, inspected token by token.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for name, command in (
    ("demo", serving.demo),
    ("serve", serving.serve),
    ("train", training.train),
    ("resume", training.resume),
    ("cancel", training.cancel),
    ("doctor", checking.doctor),
    ("data", data.data),
    ("prompts", data.prompts),
    ("recipes", inspect_runs.recipes),
    ("runs", inspect_runs.runs),
    ("show", inspect_runs.show),
    ("log", inspect_runs.log),
    ("marks", marks.marks),
    ("rename", editing.rename),
    ("tag", editing.tag),
    ("delete", editing.delete),
    ("purge", purging.purge),
    ("export", records.export),
    ("import", records.import_file),
    ("score", records.score),
    ("save", records.save),
    ("report", reporting.report),
    ("copy", copying.copy),
    ("experiment", experiments.experiment),
):
    commands.command(name)(in_workspace(command))
