"""What a run's vLLM server is started with. Free of torch."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from opd.sampling.vllm.share import ServerShare


@dataclass(frozen=True)
class ServerSettings:
    """A server that is to write what a student writes.

    `write_model` writes the student as it is now, with configuration and tokenizer, into a folder
    that does not exist yet: the server starts from there.
    """

    write_model: Callable[[Path], None]
    dtype: str  # "float32", "bfloat16"
    device: str  # "cpu", "cuda:1", as the training process counts
    context: int  # tokens of the longest prompt and completion
    rows: int  # completions decoded in one batch
    share: ServerShare  # of the device's memory
    seed: int
    card_bytes: float | None = None  # all of a GPU's memory
    adapter_rank: int | None = None  # --max-lora-rank: only an adapter changes; None: all weights


# The socket of a server that answers; None where the job was asked to stop before. New weights are
# put beside the socket, in a folder that ends with the server.
Serve = Callable[[ServerSettings], Path | None]


@dataclass(frozen=True)
class Surroundings:
    """What a sampler that is a server finds around it: who starts one; the run's folder, in which
    weights lie on their way to the user's own; who is told what happens."""

    serve: Serve | None = None
    folder: Path | None = None
    say: Callable[[str], None] = lambda _: None
