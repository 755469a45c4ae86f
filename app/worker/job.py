"""The job: one attempt at one run, from claim to recorded end.

    python -m app.worker.job RUN_ID --data-dir DIR --slot cpu
    python -m app.worker.job --standby --data-dir DIR

The supervisor starts it in a process group of its own; `opd train` runs the same code in place.
With --standby it loads its libraries and waits for a run on its input (`app.worker.standby`).
"""

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from app.worker import process
from app.worker.attempts import reserve
from app.worker.attempts.checkpoints import discard_checkpoints, start_of, sweep
from app.worker.attempts.progress import Attempt, JobProgress
from app.worker.attempts.training import (
    TrainingFactory,
    check_device,
    load_libraries,
    training_factory,
)
from app.worker.devices.holds import wait_for_device
from app.worker.devices.out_of_memory import explained, rescued
from app.worker.devices.slots import on_slot, seen_by_torch
from app.worker.devices.system_usage import SystemUsageSampler
from app.worker.engines.student_server import StudentServer, check_engine
from app.worker.engines.teacher_servers import TeacherServers, check_teacher_engines
from app.worker.errors import describe
from app.worker.launchers.database import address_of, data_dir_at
from app.worker.launchers.on_node import ClusterJob, open_shared, slot_here
from app.worker.lease import Lease, Reason
from app.worker.logs import line_of, start_log
from app.worker.owners.place import Place
from app.worker.ranks.companions import Companions
from app.worker.ranks.follower import follow_torchrun
from app.worker.ranks.order import Order, TorchrunPlace, process_slots
from app.worker.references import resolved
from app.worker.run_files.choice import run_files
from app.worker.run_inputs import settle
from app.worker.signals import ENDING, listening
from app.worker.standby import handed_run
from app.worker.webhook import notification
from opd.config.run import RunConfig, parse
from opd.errors import ErrorKind, LackOfMemoryError, UserError
from opd.types import Event, PhaseEvent, RunStatus
from storage.data_dir import DataDir, RunDir
from storage.databases.failures import DatabaseGoneError, DiskFullError
from storage.engine import open_database, patient
from storage.queue import jobs
from storage.queue.failure import Failure
from storage.read.runs import read_earlier_attempts, read_run
from storage.write.records import RunWriter

log = logging.getLogger(__name__)
EXIT_FAILED = 1
EXIT_NOT_CLAIMED = 3
EXIT_UNRECORDED = 4  # ended, but the disk had no room to say so
EXIT_CUT_OFF = 5  # ended, but the database server did not answer
UNRECORDED = {
    ErrorKind.DIRECTORY_GONE: EXIT_UNRECORDED,
    ErrorKind.DATABASE_GONE: EXIT_CUT_OFF,
}
RECORD_SECONDS = 60.0  # for a database server that is gone when the attempt ends


@dataclass(frozen=True)
class Job(Attempt):
    """A claimed run and where its things are."""

    slot: str
    patience: float | None = None  # seconds after SIGTERM, where a launcher gives them
    in_hand: list[JobProgress] = field(default_factory=list, compare=False)

    @property
    def folder(self) -> RunDir:
        return self.data_dir.run(self.run_id)

    @property
    def checkpoints(self) -> Path:
        return self.folder.checkpoints


@dataclass(frozen=True)
class Outcome:
    """How the attempt ended; `lost` when the run belongs to another process by now."""

    status: RunStatus | None
    failure: Failure | None = None
    unrecorded: int = 0  # the exit code that says why the end was not recorded
    end_reason: str = ""  # of a run that ended before its last step, by its own setting


def claim(
    engine: Engine, data_dir: DataDir, run_id: str, slot: str, cluster: ClusterJob | None = None
) -> Job | None:
    """Makes this process the run's owner; None where it cannot be had now."""
    pool, names = (cluster.name, cluster.names) if cluster else (None, ())
    attempt = jobs.claim(engine, run_id, slot, process.this_process(data_dir), pool, names)
    if attempt is None:
        return None
    # Whatever this job starts inherits it.
    os.environ[process.MARK] = Place.of(data_dir).mark(run_id, attempt)
    return Job(engine, data_dir, run_id, attempt, slot, cluster.patience if cluster else None)


def run(
    job: Job,
    training: TrainingFactory | None = None,
    watch: Callable[[Event], None] = lambda _: None,
) -> Outcome:
    """Trains, stores what happens, and records how it ended. To be called on the main thread."""
    with run_files(job.data_dir).mirrored(job.run_id, job.attempt):
        return _run(job, training, watch)


def _run(job: Job, training: TrainingFactory | None, watch: Callable[[Event], None]) -> Outcome:
    overdue = partial(_give_up, job)
    lease = Lease(job.engine, job.run_id, job.attempt, overdue, patience=job.patience)
    with lease, listening(ENDING, lambda n: _on_signal(job, lease, n)):
        try:
            reserve.keep(job.folder)
            with Companions(job.folder) as companions:
                outcome = _ended(job, lease, _work(job, lease, companions, training, watch))
        except jobs.LeaseLost:
            outcome = Outcome(None)
        except Exception as error:
            failure = describe(error)
            log.exception("%s: %s", failure.kind, failure.text)
            outcome = Outcome("failed", failure)
        if lease.reason == "lost":
            outcome = Outcome(None)
        if outcome.status is not None:
            with suppress(UserError, SQLAlchemyError):  # tidiness must not hide the outcome
                sweep(job.engine, job.data_dir, job.run_id, job.attempt)
        unrecorded = 0 if outcome.status is None else _record(job, outcome)
    log.info("%s", f"run {outcome.status}" if outcome.status else "the run was taken over")
    return replace(outcome, unrecorded=unrecorded)


def _work(
    job: Job,
    lease: Lease,
    companions: Companions,
    training: TrainingFactory | None,
    watch: Callable[[Event], None],
) -> JobProgress:
    def say(text: str) -> None:
        jobs.set_phase(job.engine, job.run_id, job.attempt, text)
        watch(PhaseEvent(text))

    writer = RunWriter(job.engine, job.run_id, job.attempt)
    info = read_run(job.engine, job.run_id)
    config, step, order = _begin(job, info, writer, say)
    here = on_slot(config, order.slots[0])
    wait_for_device(job.data_dir, job.slot, lease.stop, say)
    check_engine(config, say)
    check_teacher_engines(config)
    make = training or training_factory()
    if training is None:
        check_device(here)
    server = StudentServer(job.folder, lease.stop, say)
    teachers = TeacherServers(job.folder, lease.stop, say)
    session = make(
        here,
        job.checkpoints,
        stop=lease.stop,
        resume_from=order.resume_from,
        say=say,
        moment=order.moment,
        earlier=order.earlier,
        ranks=companions.gather(order, here.device, lease.stop),
        serve=server.start,
        serve_teacher=teachers.serve,
    )
    progress = JobProgress(job, session, writer, saved=step)
    job.in_hand.append(progress)
    progress.begin(info["checkpoints"], order.resume_from)
    try:
        with (
            progress,
            server,
            teachers,
            SystemUsageSampler(job.folder, seen_by_torch(here, order.slots[0])),
        ):
            _train(progress, config.steps, watch, lease.stop)
    except jobs.LeaseLost:
        progress.keep_aside()
        raise
    except LackOfMemoryError as error:
        rescued(error, progress.save)
        raise explained(error, config, job.run_id, progress.saved) from error
    except UserError as error:
        if error.kind in (ErrorKind.SAMPLING_SERVER, ErrorKind.TEACHER_SERVER, ErrorKind.FILES):
            with suppress(UserError, OSError):  # the student is whole, and may have come far
                progress.save()
        raise server.explained(teachers.explained(companions.explained(error))) from error
    return progress


def _train(
    progress: JobProgress, steps: int, watch: Callable[[Event], None], stop: Callable[[], bool]
) -> None:
    """Stores what the training tells, until it ends or is to stop."""
    with closing(progress.training.events()) as events:  # type: ignore[type-var]
        for event in events:
            progress.store(event)
            log.info("%s", line_of(event, steps))
            watch(event)
            if stop():
                break


def _begin(
    job: Job, info: dict[str, Any], writer: RunWriter, say: Callable[[str], None]
) -> tuple[RunConfig, int, Order]:
    """Of a run as read_run gives it: the configuration, the step from which the attempt goes on
    (-1: from the start), and what all of the run's processes are told. What an earlier attempt did
    after that step is removed."""
    run_files(job.data_dir).check()
    config = resolved(job.engine, job.data_dir, parse(info["config"]), job.run_id, say)
    step, resume_from = start_of(job.data_dir, info)
    moment = settle(job.engine, info, config, step if resume_from else None)
    if job.attempt > 1:
        writer.truncate_after(step)
        sweep(job.engine, job.data_dir, job.run_id, job.attempt)
        log.info("attempt %d, from %s", job.attempt, f"step {step}" if resume_from else "the start")
    earlier = read_earlier_attempts(job.engine, job.run_id, step)
    order = Order(
        config.model_dump(mode="json"),
        *(job.checkpoints, resume_from, moment, earlier),
        process_slots(config, job.slot),
    )
    return config, step, order


def _ended(job: Job, lease: Lease, progress: JobProgress) -> Outcome:
    """The outcome of a training that raised nothing, with the checkpoint that was asked for."""
    reason = lease.reason
    if reason is None:
        progress.settle(wait=True)
        return Outcome("finished", end_reason=progress.end_reason)
    if reason == "discard":
        discard_checkpoints(job.engine, job.data_dir, job.run_id)
    elif reason == "lost":
        progress.keep_aside()
    else:
        if progress.stepped > progress.saved:
            log.info("saving a checkpoint before stopping")
            try:
                jobs.heartbeat(job.engine, job.run_id, job.attempt)
            except jobs.LeaseLost:  # and not heard of it yet
                progress.keep_aside()
                raise
        progress.save()
    return _stopped(reason)


def _stopped(reason: Reason) -> Outcome:
    match reason:
        case "save" | "discard":
            return Outcome("cancelled")
        case "terminated":
            text = "terminated: the process was asked to end (SIGTERM)"
            return Outcome("interrupted", Failure(ErrorKind.TERMINATED, text))
        case "hangup":
            text = "terminated: the terminal was closed (SIGHUP)"
            return Outcome("interrupted", Failure(ErrorKind.TERMINATED, text))
        case "interrupt":
            text = "stopped with Ctrl-C"
            return Outcome("interrupted", Failure(ErrorKind.INTERRUPTED, text))
        case "lost":
            return Outcome(None)


def _on_signal(job: Job, lease: Lease, number: signal.Signals) -> None:
    if number in (signal.SIGTERM, signal.SIGHUP):
        lease.ask("terminated" if number == signal.SIGTERM else "hangup")
    elif lease.reason == "interrupt":
        _give_up(job, "interrupt")
    else:
        lease.ask("interrupt")


def _give_up(job: Job, reason: Reason) -> None:
    """Ends the process where the training does not end by itself; what is stored is whole."""
    outcome = _stopped(reason)
    log.warning("did not stop in time (%s); ending the process", reason)
    if reason == "discard":
        discard_checkpoints(job.engine, job.data_dir, job.run_id)
    elif reason != "lost":
        for progress in job.in_hand:
            progress.record_as_it_is()
    unrecorded = 0 if outcome.status is None else _record(job, outcome)
    logging.shutdown()
    os._exit(unrecorded or EXIT_FAILED)


def _record(job: Job, outcome: Outcome) -> int:
    """Writes the end of the attempt; gives up the reserve where the disk is full, and waits for a
    database server that is gone. The exit code of an end that cannot be recorded, or 0."""
    failure = outcome.failure
    assert outcome.status is not None
    for pause in (0.0, 0.2, 0.5):
        time.sleep(pause)
        try:
            ended = patient(jobs.finish, RECORD_SECONDS)(
                *(job.engine, job.run_id, job.attempt, outcome.status, failure),
                end_reason=outcome.end_reason,
            )
        except DiskFullError:
            reserve.give_up(job.folder)
            continue
        except UserError as error:
            code = UNRECORDED.get(error.kind)
            if code is None:
                raise
            log.error("%s", error)
            return code
        reserve.give_up(job.folder)
        if ended:
            notification.notify(job.engine, job.data_dir, job.run_id)
        return 0
    return EXIT_UNRECORDED


def main(arguments: list[str] | None = None, training: TrainingFactory | None = None) -> int:
    parser = argparse.ArgumentParser(prog="app.worker.job")
    parser.add_argument("run_id", nargs="?")
    parser.add_argument("--standby", action="store_true")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--slot", default="cpu")
    parser.add_argument("--cluster-job", default=None, help="what a launcher was given it as")
    parser.add_argument("--grace", type=float, default=0.0, help="the launcher's, in seconds")
    parser.add_argument("--version", default="", help="of the server that submitted the job")
    options = parser.parse_args(arguments)
    if options.standby:
        if training is None:
            load_libraries()
        handed = handed_run()
        if handed is None:
            return 0
        options.run_id, options.slot = handed
    if options.run_id is None:
        parser.error("a run is needed, or --standby")
    torchrun = TorchrunPlace.here()
    if options.cluster_job is not None and torchrun is not None:
        process.end_with_parent(signal.SIGKILL if torchrun.rank > 0 else signal.SIGTERM)
        if torchrun.rank > 0:
            return follow_torchrun(torchrun, anywhere=True)
    start_log()
    try:
        job = _claimed(options)
    except DatabaseGoneError as error:
        log.error("%s", error)  # the run stays queued
        return EXIT_NOT_CLAIMED
    except UserError as error:
        if options.cluster_job is None:
            raise
        log.error("%s", error)
        return error.kind.exit_code
    if job is None:
        log.info("%s cannot be claimed right now", options.run_id)
        return EXIT_NOT_CLAIMED
    outcome = run(job, training)
    if outcome.unrecorded:
        return outcome.unrecorded
    return EXIT_FAILED if outcome.status == "failed" else 0


def _claimed(options: argparse.Namespace) -> Job | None:
    if options.cluster_job is None:
        data_dir = data_dir_at(options.data_dir)
        engine = open_database(address_of(data_dir))
        return claim(engine, data_dir, options.run_id, options.slot)
    data_dir, engine = open_shared(options.data_dir, options.version)
    slot = slot_here(engine, options.run_id)
    cluster = ClusterJob(options.cluster_job, options.grace)
    return claim(engine, data_dir, options.run_id, slot, cluster)


if __name__ == "__main__":
    sys.exit(main())
