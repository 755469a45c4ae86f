"""Ranks as torch.distributed connects them."""

import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import FileStore, PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from opd.errors import ErrorKind, UserError, one_line
from opd.ranks.group import LostProcessError, Ranks
from opd.sampling.sample import Stopped

log = logging.getLogger(__name__)
A = TypeVar("A")
PATIENCE = timedelta(minutes=30)  # for what another process computes, loads or saves
LOOK_EVERY = 0.2  # seconds between two looks whether the run is to stop
STOP = "stop"  # the key that the first process sets for all
BUCKET = 1 << 24  # numbers that are added up at once
CONNECTION = re.compile(r"gloo|nccl|connection", re.I)  # in what a lost process makes others raise


def file_store(path: Path, size: int) -> Store:
    """Where processes of one machine find each other; the folder belongs to one user."""
    return FileStore(str(path), size)


def torchrun_store(rank: int, size: int) -> Store:
    """Where the processes that torchrun has started find each other."""
    store, _, _ = next(rendezvous("env://", rank, size))
    return PrefixStore("opd", store)


@dataclass(frozen=True)
class _PeerError:
    """What an exception on one process is to the others."""

    rank: int
    text: str
    where: str = ""
    kind: ErrorKind = ErrorKind.ERROR
    stopped: bool = False
    left: bool = False

    @classmethod
    def of(cls, rank: int, error: Exception) -> "_PeerError":
        if isinstance(error, Stopped):
            return cls(rank, "", stopped=True)
        if isinstance(error, UserError):
            return cls(rank, error.message, error.where or "", error.kind)
        return cls(rank, f"{type(error).__name__}: {one_line(error)}")

    def raised(self, size: int) -> Exception:
        if self.stopped:
            return Stopped()
        text = f"{self.text} (in process {self.rank + 1} of {size})"
        return UserError(text, where=self.where or "devices", kind=self.kind)


@dataclass(frozen=True)
class _Turn:
    """What a process wants all of them to do next; nothing where it has done its work."""

    name: str | None


class ProcessRanks(Ranks):
    """One of several processes that torch.distributed connects.

    Tensors are exchanged by the device's own backend, everything else by gloo.

    What all must do at once, while one has more of it to do than another, is done in turns
    (`offer`, `in_step`): before each they say what they want, all do the first of it by the order
    in which it was offered, and who wants nothing or something else takes part in its own way.
    """

    def __init__(self, rank: int, size: int, store: Store, device: torch.device) -> None:
        """Joins the others. Raises UserError where they do not all come."""
        self.rank, self.size = rank, size
        self._store, self._left = store, False
        self._offers: dict[str, Callable[[], object]] = {}
        self._at: str | None = None  # the turn that has begun and not ended
        self._heard: Exception | None = None  # what another process told, on its way through here
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        try:
            dist.init_process_group(
                backend, store=store, rank=rank, world_size=size, timeout=PATIENCE
            )
            self._control = dist.new_group(backend="gloo", timeout=PATIENCE)
        except RuntimeError as error:
            raise UserError(
                f"{size} processes could not be connected: {one_line(error)}", where="devices"
            ) from error

    def together(self, work: Callable[[], A]) -> A:
        value, _ = self._exchanged(work, lambda _: None)
        return value

    def each(self, work: Callable[[], A]) -> list[A]:
        _, values = self._exchanged(work, lambda value: value)
        return values

    def first(self, value: A) -> A:
        return self.each(lambda: value)[0]

    def check_same(self, name: str, value: Callable[[], object]) -> None:
        values = self.each(value)
        if any(v != values[0] for v in values):
            shown = ", ".join(str(v) for v in values)
            raise UserError(
                f"the processes of the run have parted: {name} is {shown}; the last checkpoint is "
                "from before",
                where="devices",
                kind=ErrorKind.ERROR,
            )

    def add_gradients(self, parameters: Iterable[Tensor]) -> None:
        trained = list(parameters)
        has = [p.grad is not None for p in trained]
        anywhere = [any(one) for one in zip(*self.each(lambda: has), strict=True)]
        reached = [p for p, some in zip(trained, anywhere, strict=True) if some]
        for p in reached:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        for bucket in _buckets([p.grad for p in reached]):
            self._connected(partial(_add_up, bucket))

    def stop(self, stop: Callable[[], bool]) -> Callable[[], bool]:
        return _StopSender(self._store, stop) if self.leads else _StopReader(self._store)

    def halt(self) -> None:
        if self.leads and not self._left:
            self._connected(lambda: self._store.set(STOP, "1"))

    def offer(self, name: str, follow: Callable[[], object]) -> None:
        """From now on turns may be of this name; `follow` is how a process takes part that did not
        ask for it. All offer the same, in one order."""
        self._offers[name] = follow

    @contextmanager
    def in_step(self, name: str) -> Iterator[None]:
        """Inside, all processes do what they do in a turn of this name."""
        self.begin(name)
        yield
        self.done()

    def begin(self, name: str) -> None:
        """Returns where a turn of this name begins, which lasts until `done`."""
        while (chosen := self._next(name)) != name:
            self._take_part(chosen)
        self._at = name

    def done(self) -> None:
        """The end of a turn; where it is never reached, this process is out of step."""
        self._at = None

    @property
    def broken(self) -> bool:
        """Whether this process failed within a turn: the others wait where it never arrives."""
        return self._at is not None

    def attend(self) -> None:
        if not self._offers or self.leads:
            return
        while not self._left and not self.broken:
            try:
                self._accompany()
            except (Stopped, UserError) as error:
                if isinstance(error, LostProcessError):
                    return
                log.info("another process has ended: %s", one_line(error))

    def leave(self) -> None:
        if self._left:
            return
        self._left = True
        if self.broken:  # the others hear it from the connection
            dist.destroy_process_group()
            return
        try:
            self._gather(_PeerError(self.rank, "", stopped=True, left=True))
        except (RuntimeError, UserError) as error:  # they may be gone already
            log.info("the other processes have ended before: %s", one_line(error))

    def _exchanged(self, work: Callable[[], A], shown: Callable[[A], Any]) -> tuple[A, list[Any]]:
        failed: Exception | None = None
        value: Any = None
        try:
            value = work()
            self._accompany()
        except Exception as error:
            if self.broken:
                raise _lost_within(error) from error
            if error is self._heard:  # the others know
                raise
            failed = error  # raised once the others know
        message = shown(value) if failed is None else _PeerError.of(self.rank, failed)
        answers = self._gather(message)
        if failed is not None:
            raise failed
        self._raise_first(answers)
        return value, answers

    def _raise_first(self, answers: Sequence[Any]) -> None:
        for answer in answers:
            if isinstance(answer, _PeerError):
                self._left |= answer.left
                self._heard = answer.raised(self.size)
                raise self._heard

    def _accompany(self) -> None:
        """Takes part in the others' turns until none of them wants one."""
        while self._offers and (chosen := self._next(None)) is not None:
            self._take_part(chosen)

    def _next(self, turn: str | None) -> str | None:
        """The turn that all take now, of those that they want; None where none wants one."""
        if self.broken:
            raise LostProcessError("this one failed where all have to arrive")
        answers = self._gather(_Turn(turn))
        self._raise_first(answers)
        turns = {answer.name for answer in answers}
        return next((name for name in self._offers if name in turns), None)

    def _take_part(self, name: str | None) -> None:
        assert name is not None
        self._at = name
        self._offers[name]()
        self.done()

    def _gather(self, value: object) -> list[Any]:
        answers: list[Any] = [None] * self.size
        self._connected(lambda: dist.all_gather_object(answers, value, group=self._control))
        return answers

    def _connected(self, call: Callable[[], object]) -> None:
        try:
            call()
        except RuntimeError as error:
            raise LostProcessError(one_line(error)) from error


def _lost_within(error: Exception) -> Exception:
    """A connection that was lost within a turn, by its name; else the error itself."""
    lost = isinstance(error, RuntimeError) and (
        isinstance(error, dist.DistError) or CONNECTION.search(str(error))
    )
    return LostProcessError(one_line(error)) if lost else error


def _add_up(gradients: list[Tensor]) -> None:
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    sums = torch.split(flat, [g.numel() for g in gradients])
    for gradient, added in zip(gradients, sums, strict=True):
        gradient.copy_(added.view_as(gradient))


class _StopSender:
    """Whether to stop, and if so the others are told."""

    def __init__(self, store: Store, stop: Callable[[], bool]) -> None:
        self._store, self._stop, self._sent = store, stop, False

    def __call__(self) -> bool:
        stops = self._stop()
        if stops and not self._sent:
            self._sent = True
            self._store.set(STOP, "1")
        return stops


class _StopReader:
    """Whether the first process has said so, asked now and then."""

    def __init__(self, store: Store) -> None:
        self._store, self._stops, self._looked = store, False, 0.0

    def __call__(self) -> bool:
        if not self._stops and time.monotonic() > self._looked + LOOK_EVERY:
            self._stops = bool(self._store.check([STOP]))
            self._looked = time.monotonic()
        return self._stops


def _buckets(gradients: Sequence[Any]) -> list[list[Tensor]]:
    """Gradients of one dtype, about BUCKET numbers at a time."""
    buckets: list[list[Tensor]] = []
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for gradient in gradients:
        bucket = by_dtype.setdefault(gradient.dtype, [])
        bucket.append(gradient)
        if sum(g.numel() for g in bucket) >= BUCKET:
            buckets.append(by_dtype.pop(gradient.dtype))
    return [*buckets, *by_dtype.values()]
