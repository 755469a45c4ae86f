"""What went wrong in a job, by its kind."""

import errno
import os
import re

from opd.errors import ErrorKind, UserError, lacks_memory, lacks_room
from storage.queue.failure import Failure

# What a driver says of itself, not of a mistake in what it was given.
DEVICE_ERROR = re.compile(
    r"CUDA error: (unknown error|unspecified launch failure|uncorrectable ECC|driver shutting down"
    r"|no CUDA-capable device|system not yet initialized|the launch timed out|.*hardware)",
    re.I,
)
SECRET_NAMES = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|DATABASE_URL|WEBHOOK", re.I)


def describe(error: BaseException) -> Failure:
    text = str(error)
    if not isinstance(error, UserError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return Failure(_kind(error), redact(" ".join(text.split()))[:600])


def redact(text: str) -> str:
    """The text without the value of any environment variable that names a secret."""
    for name, value in os.environ.items():
        if len(value) >= 8 and SECRET_NAMES.search(name):
            text = text.replace(value, f"<{name}>")
    return text


def _kind(error: BaseException) -> ErrorKind:
    if isinstance(error, UserError):
        return error.kind
    if lacks_memory(error):
        return ErrorKind.OUT_OF_MEMORY
    if isinstance(error, RuntimeError) and DEVICE_ERROR.search(str(error)):
        return ErrorKind.DEVICE_LOST
    if lacks_room(error):
        return ErrorKind.DISK_FULL
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return ErrorKind.OUT_OF_MEMORY
    return ErrorKind.ERROR
