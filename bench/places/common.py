"""What the trials of places share: the command that they try, and patience."""

import shlex
import sys
import time
from collections.abc import Callable
from typing import Any

OPD = f"{shlex.quote(sys.executable)} -m app.cli.main"
PATIENCE = 120.0  # seconds


def wait(condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> None:
    """Raises TimeoutError."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.2)
