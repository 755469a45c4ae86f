"""The training that an attempt drives, and the libraries that it is made with."""

import logging
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from opd.config.run import RunConfig
from opd.ranks.group import Ranks
from opd.sampling.vllm.serving import Serve
from opd.teachers.serving import ServeTeacher
from opd.types import CheckpointEvent, EarlierAttempts, Event

log = logging.getLogger(__name__)


class TrainingLike(Protocol):
    def events(self) -> Iterator[Event]: ...
    def save_checkpoint(self) -> CheckpointEvent | None: ...
    def save_aside(self, folder: Path) -> CheckpointEvent | None: ...
    def vocabulary(self, ids: Sequence[int], /) -> dict[int, tuple[bytes, bool]]: ...


class TrainingFactory(Protocol):
    def __call__(
        self,
        config: RunConfig,
        folder: Path,
        *,
        stop: Callable[[], bool],
        resume_from: Path | None,
        say: Callable[[str], None],
        moment: datetime,
        earlier: EarlierAttempts,
        ranks: Ranks,
        serve: Serve,
        serve_teacher: ServeTeacher,
    ) -> TrainingLike: ...


def training_factory() -> TrainingFactory:
    # Read when torch loads: threads that wait for each other sleep early instead of spinning, which
    # on a machine with a browser open too makes small models several times faster.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # With more than one thread, MKL else splits a product as memory happens to lie, and two equal
    # runs part in the last bit of a loss.
    os.environ.setdefault("MKL_CBWR", "AUTO")
    os.environ.setdefault("TQDM_DISABLE", "1")  # bars would fill the log
    from opd.training.trainer import Training  # noqa: PLC0415 - loads torch, after the claim

    return Training


def check_device(config: RunConfig) -> None:
    """Raises UserError for a run that its device cannot do; logs what may go wrong there."""
    from opd.doctor.machine.device import before_loading  # noqa: PLC0415 - loads torch

    before_loading(config, lambda text: log.warning("%s", text))


def load_libraries() -> None:
    """What nearly every run imports; nothing here starts a GPU, or asks torch for one.

    Once it is asked, the GPU that a run is then given is not the one it sees. peft imports
    bitsandbytes where that is installed, which asks.
    """
    training_factory()
    for name in (
        "opd.doctor.machine.device",
        "transformers.models.llama.modeling_llama",
        "transformers.models.qwen3.modeling_qwen3",
    ):
        import_module(name)
    if find_spec("bitsandbytes") is None:
        import_module("opd.models.folders.adapters")


def library_versions() -> dict[str, str]:
    """What the run was made with."""
    versions = {"python": platform.python_version()}
    for name in ("torch", "transformers", "peft", "opd-studio"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
