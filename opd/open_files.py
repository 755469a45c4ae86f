"""How many files a process may have open, and what share of them connections get, so that many
requests at once become slow where they would fail."""

PLENTY = 1024  # with so many, nothing needs a share
KEPT = 24  # for the program itself: its streams, logs, locks, and files that are read and closed
OF_DATABASE = 3  # a connection's file and log, and its share of what is made for a moment
LEAST = 2


def limit() -> int | None:
    """Of this process; None where it has plenty."""
    try:
        import resource  # noqa: PLC0415 - not on Windows
    except ImportError:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY or soft >= PLENTY else soft


def database_connections(most: int) -> int:
    """How many at a time, of which each takes some files: half of what can be shared."""
    files = limit()
    share = most if files is None else (files - KEPT) // (2 * OF_DATABASE)
    return max(LEAST, min(most, share))


def network_connections() -> int | None:
    """How many a server accepts at a time; others wait. None: as many as come."""
    files = limit()
    return None if files is None else max(LEAST, (files - KEPT) // 2 - OF_DATABASE)
