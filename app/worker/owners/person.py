"""Who gives a command."""

import getpass
import os

from app.worker.owners.place import host_name


def command_user() -> str:
    """`user@host`, of the operating system; of a user without a name, its number."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # as in a container, with no entry and no variable
        user = f"user-{os.getuid()}" if hasattr(os, "getuid") else "user"
    return f"{user}@{host_name()}"
