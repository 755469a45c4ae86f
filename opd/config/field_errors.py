"""Which fields are wrong, as data: for checks over several fields of a configuration."""

from collections.abc import Iterable
from typing import Any


class FieldError(ValueError):
    """Raised in a validator; `field` is the dotted path from the section that is validated."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class FieldErrors(ValueError):
    """Several at once."""

    def __init__(self, errors: list[FieldError]) -> None:
        super().__init__("; ".join(f"{e.field}: {e}" for e in errors))
        self.errors = errors


def raise_all(errors: Iterable[FieldError]) -> None:
    """Raises FieldErrors where there is any."""
    if listed := list(errors):
        raise FieldErrors(listed)


def located(error: Any) -> tuple[str, str]:
    """Field and message of one entry of pydantic's `ValidationError.errors()`, the first where a
    check found several."""
    return (checked(error) or [(_path(error), str(error["msg"]).removeprefix("Value error, "))])[0]


def checked(error: Any) -> list[tuple[str, str]]:
    """Field and message of each mistake that a check of ours named in one entry; else none."""
    cause = error.get("ctx", {}).get("error")
    errors = cause.errors if isinstance(cause, FieldErrors) else [cause]
    return [(_path(error, e.field), str(e)) for e in errors if isinstance(e, FieldError)]


def _path(error: Any, *more: str) -> str:
    return ".".join([*(str(part) for part in error["loc"]), *more])
