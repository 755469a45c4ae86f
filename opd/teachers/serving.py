"""What a teacher's vLLM server is started with, where the job starts one. Free of torch."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SERVED_NAME = "teacher"


@dataclass(frozen=True)
class TeacherServing:
    """A server that is to judge as the teacher of `field`."""

    field: str
    model: Path  # a folder of whole weights
    dtype: str  # "float32", "bfloat16"
    device: str  # "cpu", "cuda:1", as the training process counts
    context: int  # tokens of the longest sequence and the one that is written behind it
    top_k: int
    cache_bytes: int  # of keys and values
    servers: int = 1  # that share what a GPU has for teachers


# The socket of a server that answers; None where the job was asked to stop before.
ServeTeacher = Callable[[TeacherServing], Path | None]
