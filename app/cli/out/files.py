"""Files that commands write: whole or not there."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from opd.errors import UserError
from opd.files import written_aside


def check_ending(out: Path, endings: tuple[str, ...], option: str = "--out") -> None:
    """Raises UserError for a file whose name ends in something else."""
    if out.suffix.lower() not in endings:
        raise UserError(
            f"must end in {' or '.join(endings)} (got {out.suffix or 'no ending'})",
            where=f"{option} {out}",
        )


@contextmanager
def aside(out: Path, option: str = "--out") -> Iterator[Path]:
    """A new file beside `out` that takes its place when all went well. Raises UserError."""
    where = f"{option} {out}"
    if out.is_dir():
        raise UserError("is a folder; name a file in it", where=where)
    with ExitStack() as stack:
        try:
            path = stack.enter_context(written_aside(out, durable=True, shared=True))
        except OSError as error:
            raise UserError(
                f"cannot be written ({error.strerror}); name a file in a folder that exists and "
                "that you may write to",
                where=where,
            ) from None
        yield path
