"""Which field is wrong, as data: for checks over several fields of a configuration."""

from typing import Any


class FieldError(ValueError):
    """Raised in a validator; `field` is the dotted path from the section that is validated."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def located(error: Any) -> tuple[str, str]:
    """Field and message of one entry of pydantic's `ValidationError.errors()`."""
    path = [str(part) for part in error["loc"]]
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, FieldError):
        path.append(cause.field)
    return ".".join(path), str(error["msg"]).removeprefix("Value error, ")


def names_a_field(error: Any) -> bool:
    """Whether the check said itself which field is wrong."""
    return isinstance(error.get("ctx", {}).get("error"), FieldError)
