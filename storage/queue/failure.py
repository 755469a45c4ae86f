"""Why an attempt ended before its time. Free of the database: the command line words it, too."""

from dataclasses import dataclass

from opd.errors import ErrorKind


@dataclass(frozen=True)
class Failure:
    """Why an attempt ended before its time; the kind says what to do about it."""

    kind: ErrorKind
    text: str
