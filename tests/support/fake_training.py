"""A training without models, and the real job, supervisor and command line running it.

    python tests/support/fake_training.py job|supervisor|cli ARGUMENTS…

The run's name says what is to happen: see `Training._act`.
"""

import ctypes
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

import numpy as np
from sqlalchemy import Engine, event

from app.cli import foreground
from app.cli import main as cli
from app.worker import job, standby, supervisor
from app.worker.lease import Lease
from app.worker.owners import standing
from opd.config.run import RunConfig
from opd.errors import ErrorKind, UserError
from opd.ranks.group import ALONE, Ranks
from opd.sampling.vllm.serving import Serve
from opd.teachers.serving import ServeTeacher
from opd.types import (
    CheckpointEvent,
    EarlierAttempts,
    EvaluationEvent,
    Event,
    ModelsEvent,
    PhaseEvent,
    Rollout,
    Score,
    StepEvent,
    TokenRecord,
)

SCRIPT = Path(__file__).resolve()
ROOT = SCRIPT.parents[2]
TOKENS = 20
HEARTBEAT = 0.5  # seconds in place of two: so long a cancellation is not heard


class Training:
    """The trainer's interface; a step takes 20 ms and knows nothing but its number."""

    def __init__(
        self,
        config: RunConfig,
        folder: Path,
        *,
        stop: Callable[[], bool] = lambda: False,
        resume_from: Path | None = None,
        say: Callable[[str], None] = lambda _: None,
        moment: datetime | None = None,
        earlier: EarlierAttempts | None = None,
        ranks: Ranks = ALONE,
        serve: Serve | None = None,
        serve_teacher: ServeTeacher | None = None,
    ) -> None:
        self.config = config
        self.folder = folder
        self.stop = stop
        self.done = 0
        if resume_from is not None:
            self.done = int(json.loads((resume_from / "state.json").read_text())["step"])

    def events(self) -> Iterator[Event]:
        yield PhaseEvent("loading models")
        yield ModelsEvent({"student": "/s", "teacher": "/t"}, "fake", "cpu", {"student": 7})
        if self.done == 0:
            yield self.evaluation(0.25)
        while self.done < self.config.steps:
            self._act()
            if self.stop():
                return
            self.done += 1
            yield StepEvent(
                self.done,
                {"sample": 0.01},
                TOKENS,
                1e6,
                {"reverse_kl": 1 / self.done},
                [self.rollout()],
            )
            every = self.config.checkpoints.every
            if self.done == self.config.steps or (every and self.done % every == 0):
                yield self.save_checkpoint()
        yield self.evaluation(0.75)

    def _act(self) -> None:
        name = self.config.name
        if name == "deaf":  # follows nothing but SIGKILL, and so does its child
            ignore = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            subprocess.Popen([sys.executable, "-c", ignore], start_new_session=True)
            os.kill(os.getpid(), signal.SIGSTOP)
        if name == "holds the interpreter":  # so that no thread beats either
            ctypes.PyDLL(None).sleep(600)
        if name == "hangs":
            while True:
                time.sleep(0.1)
        if self.done < 2:
            return
        if name == "memory":
            raise MemoryError
        if name == "torch memory":
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] can't allocate memory")
        if name == "nan":
            raise UserError("the loss is not finite at step 3", kind=ErrorKind.NAN_LOSS)
        if name == "no model":
            raise UserError(
                "no such model folder: /x", where="student.model", kind=ErrorKind.MISSING_MODEL
            )
        if name == "bug":
            raise KeyError("secret " + os.environ.get("HF_TOKEN", ""))
        if name == "exits":
            os._exit(7)
        time.sleep(0.02 if name != "slow" else 0.1)

    def evaluation(self, value: float) -> EvaluationEvent:
        return EvaluationEvent(self.done, [Score("heldout", "pass@1", value, 4, 0.1)])

    def rollout(self) -> Rollout:
        ids = np.arange(TOKENS) + self.done
        floats = np.full(TOKENS, -0.5, np.float32)
        record = TokenRecord(ids, floats, floats, floats, -floats)
        return Rollout(
            self.done, "train", 0, 0, "1 + 1 =", np.array([1, 2]), "2" * TOKENS, "stop", 1.0, record
        )

    def save_checkpoint(self) -> CheckpointEvent:
        path = _made(self.folder, self.done)
        state = json.dumps({"step": self.done}).encode()
        (path / "state.json").write_bytes(state)
        manifest = {"state.json": hashlib.sha256(state).hexdigest()}
        earlier = sorted(int(p.name.removeprefix("step-")) for p in self.folder.glob("step-*"))
        keeps = [step for step in earlier if step < self.done][-1:]
        return CheckpointEvent(self.done, str(path), manifest, keeps)

    def save_aside(self, folder: Path) -> CheckpointEvent:
        path = _made(folder, self.done)
        return CheckpointEvent(self.done, str(path), {})

    def vocabulary(self, ids: Sequence[int]) -> dict[int, tuple[bytes, bool]]:
        return {i: (str(i).encode(), False) for i in ids}


def _made(folder: Path, step: int) -> Path:
    """A checkpoint's folder; where a run's own is not there any longer, none is made, as in a real
    training."""
    folder.mkdir(exist_ok=True)
    path = folder / f"step-{step:06d}"
    path.mkdir(exist_ok=True)
    return path


def limit_pages(pages: int) -> None:
    """Every database connection of this process meets a full disk after so many pages."""

    def connected(connection: object, _: object) -> None:
        connection.cursor().execute(f"PRAGMA max_page_count={pages}")  # type: ignore[attr-defined]

    event.listen(Engine, "connect", connected)


def main(part: str, arguments: list[str]) -> int:
    if pages := os.environ.get("FAKE_MAX_PAGES"):
        limit_pages(int(pages))
    vars(job)["Lease"] = partial(Lease, every=HEARTBEAT)
    if lost_after := os.environ.get("FAKE_LOST_AFTER"):
        vars(standing)["LOST_AFTER"] = float(lost_after)
        vars(standing)["CONFIRMED_AFTER"] = float(lost_after) / 3
    foreground.LOOK_EVERY = 0.1
    standby.FIRST_AFTER = 0.5
    if part == "job":
        return job.main(arguments, Training)
    if part == "supervisor":
        return supervisor.main(arguments, (sys.executable, str(SCRIPT), "job"))
    trainer = types.ModuleType("opd.training.trainer")
    trainer.Training = Training  # type: ignore[attr-defined]
    sys.modules["opd.training.trainer"] = trainer
    sys.argv = ["opd", *arguments]
    cli.app()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
