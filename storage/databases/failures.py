"""What befalls a database while it is used, by name."""

from opd.errors import ErrorKind, UserError


class DiskFullError(UserError):
    """There is no room for what was to be written; nothing of that transaction was kept."""

    def __init__(self, where: str) -> None:
        super().__init__(
            "the disk is full: free some space, then resume the run",
            where=where,
            kind=ErrorKind.DISK_FULL,
        )


class DatabaseGoneError(UserError):
    """The database server does not answer; whether the transaction was kept is not known."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(
            f"the database cannot be reached: {why}", where=where, kind=ErrorKind.DATABASE_GONE
        )


def read_only(where: str) -> UserError:
    return UserError("can only be read: nothing was stored", where=where, kind=ErrorKind.READ_ONLY)
