"""A run in the calling process: waits for its device, trains, shows how it goes."""

import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, cast

from sqlalchemy import Engine

from app.cli.output import Lasting, plain, say
from app.cli.workspace import Workspace
from app.worker import job as jobs_here
from app.worker import process
from app.worker.devices import slots
from app.worker.devices.holds import in_use_by, taken_here
from app.worker.job import Job, Outcome
from app.worker.logs import BriefFormatter, start_log
from app.worker.owners.person import command_user
from app.worker.owners.standing import Judge
from app.worker.recovery import bury_dead, did_not_start
from app.worker.signals import listening
from opd.devices.gpus import gpu_count
from opd.errors import UserError
from opd.types import Event, PhaseEvent, StepEvent
from storage.queue import jobs
from storage.read.runs import read_run

LOOK_EVERY = 0.5
BEAT_EVERY = 2.0  # seconds between two signs of life of a command that waits for a device
JOB = process.program("app.worker.job")


def run_to_the_end(workspace: Workspace, engine: Engine, run_id: str) -> Outcome:
    """Runs a queued run here. Ctrl-C while it waits cancels it; later, it saves and stops."""
    start_log(workspace.data_dir.run(run_id).log)
    info = read_run(engine, run_id)
    try:
        claimed = _claim(workspace, engine, run_id, info["config"])
    except KeyboardInterrupt:
        jobs.request_cancel(engine, run_id, "save", command_user())
        say(f"\n{run_id} was cancelled before it started")
        return Outcome("interrupted")
    with _shown(info["steps"]) as watch:
        return jobs_here.run(claimed, watch=watch)


def run_as_job(workspace: Workspace, engine: Engine, run_id: str) -> None:
    """Runs a queued run in a process of its own, and waits for its end. Ctrl-C reaches it too."""
    path = workspace.data_dir.run(run_id).log
    path.parent.mkdir(parents=True, exist_ok=True)
    for slot in _free_slots(workspace, engine, run_id, read_run(engine, run_id)["config"]):
        command = [*JOB, run_id, "--data-dir", str(workspace.data_dir), "--slot", slot]
        with path.open("ab") as output:
            job = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env=workspace.environment()
            )
        code = job.wait()
        if code == jobs_here.EXIT_NOT_CLAIMED:
            continue
        bury_dead(engine, workspace.data_dir, Judge(workspace.data_dir))
        if read_run(engine, run_id)["status"] == "queued":  # it died before it could begin
            if code == -signal.SIGINT:
                raise KeyboardInterrupt
            raise UserError(did_not_start(workspace.data_dir, run_id, code), where=run_id)
        return


def _claim(workspace: Workspace, engine: Engine, run_id: str, config: dict[str, Any]) -> Job:
    """The claim, once the device is free. Raises UserError where somebody else took the run."""
    for slot in _free_slots(workspace, engine, run_id, config):
        claimed = jobs_here.claim(engine, workspace.data_dir, run_id, slot)
        if claimed is not None:
            return claimed
    raise AssertionError("slots are offered for ever")


def _free_slots(
    workspace: Workspace, engine: Engine, run_id: str, config: dict[str, Any]
) -> Iterator[str]:
    """A slot whenever one is free, while the run waits. Raises UserError where it does no more.

    Ctrl-C is noticed here, where it can be raised: within a library's clean-up it would be lost."""
    announced, beat_at = "", 0.0
    judge, demand = Judge(workspace.data_dir), (config["device"], config.get("devices", 1))
    interrupts: list[signal.Signals] = []
    with listening((signal.SIGINT,), interrupts.append):
        while not interrupts:
            yield from _a_free_slot(workspace, engine, demand, judge)
            if time.monotonic() > beat_at:
                jobs.still_waiting(engine, run_id)
                beat_at = time.monotonic() + BEAT_EVERY
            if read_run(engine, run_id)["status"] not in ("queued", "interrupted"):
                raise UserError("was cancelled or taken over while waiting", where=run_id)
            others = ", ".join(sorted(set(in_use_by(engine, *demand).values())))
            if others and others != announced:
                say(f"waiting for the device, in use by {others} (to free it: opd cancel {others})")
                announced = others
            time.sleep(LOOK_EVERY)
    raise KeyboardInterrupt


def _a_free_slot(
    workspace: Workspace, engine: Engine, demand: tuple[str, int], judge: Judge
) -> Iterator[str]:
    bury_dead(engine, workspace.data_dir, judge)
    taken = taken_here(engine)
    device, count = demand
    slot = slots.choose(device, taken, gpu_count(), count=count)
    if slot is not None:
        yield slot


def wait_for(workspace: Workspace, engine: Engine, run_id: str) -> None:
    """Until a run that another process has is running no more."""
    judge = Judge(workspace.data_dir)
    while read_run(engine, run_id)["status"] == "running":
        bury_dead(engine, workspace.data_dir, judge)
        time.sleep(LOOK_EVERY)


@contextmanager
def _shown(steps: int) -> Iterator[Callable[[Event], None]]:
    """A progress bar where a person watches, else the log's lines; both on standard error."""
    if not sys.stderr.isatty():
        _log_to_stderr(logging.INFO)
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns: tuple[Any, ...] = (
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    console = Console(file=cast(IO[str], Lasting(sys.stderr)))
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("starting", total=steps)
        _log_to_stderr(logging.WARNING)

        def watch(event: Event) -> None:
            if isinstance(event, StepEvent):
                kl = event.metrics.get("reverse_kl")
                text = "" if kl is None else f"KL {kl:.3f}"
                progress.update(task, completed=event.step, description=text)
            elif isinstance(event, PhaseEvent) and not event.text.startswith("step "):
                progress.update(task, description=plain(event.text))

        yield watch


def _log_to_stderr(level: int) -> None:
    handler = logging.StreamHandler(Lasting(sys.stderr))
    handler.setLevel(level)
    handler.setFormatter(BriefFormatter())
    logging.getLogger().addHandler(handler)
