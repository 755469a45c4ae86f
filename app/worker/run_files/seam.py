"""What a run leaves in files, for every host that has to do with it: the seam between the worker
and the file system or store that keeps them.

A job always trains in its own data directory. Where hosts do not share that, `--files ADDRESS`
names a store that all of them reach.
"""

from collections.abc import Collection, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from opd.types import CheckpointEvent

SavedRow = Mapping[str, Any]  # a checkpoint as `read_run` gives it: step, path, manifest


class GrowingFile(Protocol):
    """A file that is still written to; what was once read at a byte stays there."""

    size: int

    def read(self, start: int, limit: int) -> bytes: ...


@dataclass(frozen=True)
class ListedFile:
    """`modified`: when it was last written, in seconds since 1970."""

    size: int
    modified: float


class RunFiles(Protocol):
    """Names are paths relative to the data directory, with slashes. What a store does not do,
    because it does not answer, refuses or is full, raises UserError of kind "files"."""

    def check(self) -> None:
        """Before time is spent: whether the store can be written and read. Raises UserError at
        `--files`."""

    def keep(self, run_id: str, attempt: int, saved: CheckpointEvent) -> "Future[str]":
        """The path to record of a checkpoint that was saved here, once it is whole where all hosts
        find it. Until then nothing may be recorded of it, and its folder must stay."""

    def has(self, saved: SavedRow) -> bool:
        """Whether a recorded checkpoint is where all hosts find it: not so where sending it failed,
        or the run had no store before."""

    def bring(self, run_id: str, saved: SavedRow, without: Collection[str] = ()) -> Path:
        """The folder of a recorded checkpoint on this host, every file as its manifest says, but
        for files of the names `without`. Raises UserError of kind "damaged checkpoint" too."""

    def go_on(self, run_id: str, recorded: Collection[SavedRow], saved: SavedRow) -> Path:
        """`bring` for an attempt that goes on from there: the run's folder of checkpoints is as if
        those recorded up to it had been saved here, as far as choosing what to keep needs it."""

    def sizes(self, run_id: str, saved: SavedRow) -> dict[str, int]:
        """Bytes of a recorded checkpoint's files by name."""

    def sweep(self, run_id: str, recorded: Collection[SavedRow], attempt: int) -> None:
        """Removes what attempts up to this one left of checkpoints that no record names."""

    def prune(self, run_id: str, recorded: Collection[SavedRow], attempt: int) -> None:
        """`sweep` of the store and not of this host, where one that was saved may be on its way.
        Done later, with a warning in the log where it fails."""

    def send(self, name: str) -> None:
        """Makes a file of this host one for all."""

    def listed(self, folder: str) -> dict[str, ListedFile]:
        """The files of a folder by their names, from whichever host they were sent; what only this
        one has counts, too."""

    def fetch(self, name: str) -> Path | None:
        """The file on this host; None where there is none. One that is here is not asked for."""

    def content(self, name: str) -> bytes:
        """What a file holds now, also one that another host still writes to; empty where there is
        none."""

    def delete(self, name: str) -> None:
        """Here and for all; nothing where there is none."""

    def remove(self, run_id: str) -> None:
        """All that a run left in files, here and for all. Raises OSError too."""

    def mirrored(self, run_id: str, attempt: int) -> AbstractContextManager[object]:
        """While the block lasts, what this attempt writes to the run's log is seen by all hosts,
        a few seconds later; as is what the machine did meanwhile."""

    def send_rest(self, run_id: str, attempt: int) -> None:
        """What an attempt of this host that was killed had written to its log, later."""

    def log(self, run_id: str, within: float = 0.0) -> GrowingFile | None:
        """The log of all attempts; None where there is none yet. What it has may be as old as
        `within` seconds."""
