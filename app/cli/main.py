"""The `opd` command: puts right what shell and system left open, then loads the commands.

What is imported here is in memory in every interpreter: whoever presses Ctrl-C early meets no more
of our own than this file.
"""

import os
import sys

FILES = 10_000  # open at a time, where the system allows it; macOS refuses more than 10,240


def app() -> None:
    """Never returns. Exit codes are those of docs/cli.md."""
    try:
        _open_standard_streams()
        _use_unicode()
        _raise_file_limit()
        _name_user()
        from app.cli.commands import commands

        commands()
    except KeyboardInterrupt:
        os.write(2, b"Error: stopped\n")
        sys.exit(130)


def _open_standard_streams() -> None:
    """A closed stream leads nowhere from now on: else the next file that is opened, a database or a
    log, would get its number, and then what is printed."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


def _use_unicode() -> None:
    """Starts again in UTF-8 mode where the locale knows only ASCII, as Python does by itself unless
    it was told not to. A stream whose encoding was asked for keeps it, and shows what it cannot
    write as an escape."""
    if os.name == "posix" and sys.getfilesystemencoding() == "ascii":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "encoding", None) != "utf-8" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _raise_file_limit() -> None:
    """To what the system allows: a server with many pages open needs more than 256."""
    try:
        import resource  # not on Windows
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < limit:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        except (OSError, ValueError):
            return


def _name_user() -> None:
    """Libraries ask for the user's name, and fail for one that has no entry, as in a container
    that is started with a bare number."""
    import getpass

    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):
        os.environ["USER"] = f"uid-{os.getuid()}" if hasattr(os, "getuid") else "user"


if __name__ == "__main__":
    app()
