"""Rows and tables of rows, whatever they were read from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opd.errors import ErrorKind, UserError


@dataclass(frozen=True)
class Row:
    """One row; `where` names it for people: file and line, or data set and row."""

    fields: Mapping[str, Any]
    where: str


@dataclass(frozen=True)
class Table:
    """An opened source. `columns` is None where each row has its own, as in JSON lines."""

    name: str
    columns: tuple[str, ...] | None
    count: int
    take: Callable[[Sequence[int]], list[Row]]


def bad_data(where: str, message: str) -> UserError:
    return UserError(message, where=where, kind=ErrorKind.BAD_DATA)
