"""Runs killed at random moments and resumed, against the same run left alone (C1, C2).

    python -m bench.kills [--count 50] [--case NAME]… [--warm] [--break moments|seeds]
    python -m bench.kills --saving [--count 300] [--break order]

Each attempt is the job's own process, ended by SIGKILL at a moment that is uniform over what the
job does after its libraries are loaded; with --warm it is a fork of a process that has loaded them
already, which is several times faster. Compared are every file of every checkpoint by SHA-256 and
every row of the database but times, owners and attempts. `--break` switches a defence off: then
the same comparison must find differences. Exits 1 where anything differs.
"""

import argparse
import hashlib
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Engine, select

from app.worker import recovery
from app.worker.owners.standing import Judge
from bench.support.preload import SLOW
from opd.config.run import parse
from storage import schema
from storage.data_dir import DataDir
from storage.engine import open_database, read
from storage.queue import jobs
from storage.read.runs import read_run

ROOT = Path(__file__).parents[1]
SHARED = {
    "steps": 6,
    "device": "cpu",
    "threads": 1,
    "sampling": {"prompts_per_step": 4, "group_size": 2, "max_new_tokens": 16},
    "evaluation": {"prompts": 4, "every": 3, "keep": 3},
    "checkpoints": {"every": 2, "keep": 2},
}
LORA = {"rank": 4, "alpha": 8}
CASES: dict[str, dict[str, Any]] = {
    "full": {},
    "adapter": {"student": {"lora": LORA}},
    "average": {"teacher": {"kind": "ema", "ema_decay": 0.5, "prompt": "{answer} {prompt}"}},
    "policy_gradient": {"objective": {"name": "policy_gradient", "gamma": 0.5, "clip": 0.2}},
    "self": {
        "student": {"lora": LORA},
        "teacher": {"kind": "self", "prompt": "{answer} {prompt}"},
        "objective": "jsd",
        "prompts": {"probe": 2},
    },
}
# What no two attempts share.
VOLATILE = {
    "run": ("slot", "attempt", "seconds", "phase", "status", "inputs"),
    "step": ("attempt", "seconds"),
    "checkpoint": ("path",),
}
BREAK = "OPD_BREAK"
LOADED = b"loading models"
AGAIN = 1 / 3  # share of resumed attempts that are killed too
PATIENCE = 300.0


class Killable(Protocol):
    """As multiprocessing has it."""

    @property
    def exitcode(self) -> int | None: ...
    def is_alive(self) -> bool: ...
    def join(self, timeout: float | None = None) -> None: ...
    def kill(self) -> None: ...


@dataclass(frozen=True)
class Trial:
    """One data directory with one run in it."""

    data_dir: Path
    run_id: str
    broken: str = ""
    warm: bool = False

    @contextmanager
    def engine(self) -> Iterator[Engine]:
        engine = open_database(self.data_dir)
        try:
            yield engine
        finally:
            engine.dispose()

    def attempt(
        self, kill_after: float | None = None, log_line: bytes = LOADED
    ) -> tuple[bool, float]:
        """One attempt, killed so many seconds after its log has the line.

        Returns whether the run has ended, and seconds from that line until then.
        """
        self.log.touch()
        before = self.log.stat().st_size
        process = (_warm if self.warm else _Cold)(self)
        start = self._wait_for(process, before, log_line)
        process.join(PATIENCE if kill_after is None else kill_after)
        process.kill()
        process.join(PATIENCE)
        if (process.exitcode or 0) > 0:
            raise RuntimeError(self.log.read_text()[-3000:])
        now = time.time()
        with self.engine() as engine:
            data_dir = DataDir(self.data_dir)
            recovery.bury_dead(engine, data_dir, Judge(data_dir))
            run = read_run(engine, self.run_id)
        ended = run["status"] == "finished"
        return ended, (run["finished_at"] if ended else now) - start

    @property
    def log(self) -> Path:
        return self.data_dir / "log.txt"

    @property
    def arguments(self) -> list[str]:
        return [self.run_id, "--data-dir", str(self.data_dir)]

    def _wait_for(self, process: "Killable", before: int, log_line: bytes) -> float:
        """Waits until the log has the line; returns when that was."""
        end = time.monotonic() + PATIENCE
        with self.log.open("rb") as log:
            log.seek(before)
            seen = b""
            while log_line not in seen and process.is_alive() and time.monotonic() < end:
                seen += log.read()
                time.sleep(0.005)
        return time.time()

    def state(self) -> dict[str, Any]:
        """All that must not depend on how often the run was killed, by name."""
        with self.engine() as engine:
            return rows(engine) | files(self.data_dir, self.run_id) | records(engine, self)


class _Cold:
    """`python -m app.worker.job`, or the broken one."""

    def __init__(self, trial: Trial) -> None:
        module = "bench.kills" if trial.broken else "app.worker.job"
        with trial.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *trial.arguments],
                cwd=ROOT,
                stdout=log,
                stderr=log,
                env=os.environ | {BREAK: trial.broken, "OMP_NUM_THREADS": "1"},
            )

    @property
    def exitcode(self) -> int | None:
        return self._process.poll()

    def is_alive(self) -> bool:
        return self.exitcode is None

    def join(self, timeout: float | None = None) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)

    def kill(self) -> None:
        self._process.kill()


def _warm(trial: Trial) -> Killable:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["opd.training.trainer", "opd.models.folders.adapters", "app.worker.job", *SLOW]
    )
    process = context.Process(target=_forked, args=(trial,))
    process.start()
    return process


def _forked(trial: Trial) -> None:
    with trial.log.open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.exit(job_of(trial.broken, trial.arguments))


def rows(engine: Engine) -> dict[str, Any]:
    """Every row of every table, by table and key, without what no two attempts share."""
    values: dict[str, Any] = {}
    for table in schema.metadata.sorted_tables:
        left_out = VOLATILE.get(table.name, ())
        columns = [
            c
            for c in table.c
            if c.name not in left_out and not c.name.startswith("owner_") and "_at" not in c.name
        ]
        with read(engine) as connection:
            for row in connection.execute(select(*columns).order_by(*table.primary_key)).mappings():
                key = "/".join(str(row[c.name]) for c in table.primary_key)
                for column in columns:
                    values[f"{table.name}/{key}/{column.name}"] = _without_times(row[column.name])
    return values


def _without_times(value: Any) -> Any:
    """Of a run's figures, all but how long its phases took."""
    if not isinstance(value, dict):
        return value
    return {name: v for name, v in value.items() if not name.startswith("seconds_")}


def files(data_dir: Path, run_id: str) -> dict[str, str]:
    folder = DataDir(data_dir).run(run_id).checkpoints
    return {
        f"file/{path.relative_to(folder)}": hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def records(engine: Engine, trial: Trial) -> dict[str, str]:
    """How the run rests: finished, and its checkpoint rows are the folders on the disk."""
    run = read_run(engine, trial.run_id)
    folders = sorted(
        p.name for p in DataDir(trial.data_dir).run(trial.run_id).checkpoints.iterdir()
    )
    on_record = sorted(Path(c["path"]).name for c in run["checkpoints"])
    return {"status": run["status"], "rows = folders": str(folders == on_record)}


def differences(one: dict[str, Any], two: dict[str, Any]) -> list[str]:
    return sorted(k for k in one.keys() | two.keys() if one.get(k, ...) != two.get(k, ...))


def queued(data_dir: Path, changes: dict[str, Any]) -> Trial:
    with Trial(data_dir, "").engine() as engine:
        run_id = jobs.create_run(engine, parse(SHARED | changes))
        # Left empty: what is copied from here must be all there is.
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    return Trial(data_dir, run_id)


@dataclass
class Reference:
    """A run left alone: what the killed ones must equal, and how long it takes."""

    template: Trial
    state: dict[str, Any]
    seconds: float

    @classmethod
    def of(cls, folder: Path, changes: dict[str, Any], **options: Any) -> "Reference":
        template = replace(queued(folder / "template", changes), **options)
        alone = copied(template, folder / "alone")
        _, seconds = alone.attempt()
        return cls(template, alone.state(), seconds)

    def killed(self, folder: Path, chance: random.Random) -> tuple[list[str], list[float]]:
        """Kills a run at least once, lets it end; what differs, and when it was killed."""
        trial = copied(self.template, folder)
        moments: list[float] = []
        while True:
            kill = not moments or chance.random() < AGAIN
            ended, seconds = trial.attempt(chance.random() * self.seconds if kill else None)
            if ended and moments:
                break
            if ended:  # faster than the one left alone
                shutil.rmtree(folder)
                trial = copied(self.template, folder)
                continue
            moments.append(seconds / self.seconds)
        changed = differences(self.state, trial.state())
        shutil.rmtree(folder)
        return changed, moments


def copied(template: Trial, folder: Path) -> Trial:
    shutil.copytree(template.data_dir, folder)
    return replace(template, data_dir=folder)


def compare(options: argparse.Namespace, folder: Path) -> int:
    chance = random.Random(options.seed)
    names = options.case or list(CASES)
    references: dict[str, Reference] = {}
    same = 0
    start = time.monotonic()
    for number in range(options.count):
        name = names[number % len(names)]
        if name not in references:
            references[name] = Reference.of(
                folder / name, CASES[name], broken=options.broken, warm=options.warm
            )
            state = references[name].state
            kept = sorted({k.split("/", 1)[1] for k in state if k.startswith("file/")})
            print(f"{name}: {len(state)} values, {references[name].seconds:.1f} s; {kept}")
        changed, moments = references[name].killed(folder / f"killed-{number}", chance)
        same += not changed
        at = ", ".join(f"{m:.0%}" for m in moments)
        shown = f"DIFFERS in {len(changed)}: {', '.join(changed[:5])}" if changed else "identical"
        print(f"{number + 1:3} {name}, killed at {at}: {shown}", flush=True)
    print(f"{same} of {options.count} identical, {time.monotonic() - start:.0f} s")
    return 0 if same == options.count else 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.kills", description=__doc__)
    parser.add_argument("--count", type=int)
    parser.add_argument("--case", action="append", choices=list(CASES))
    parser.add_argument("--warm", action="store_true", help="forks in place of fresh processes")
    parser.add_argument("--saving", action="store_true", help="kill only while saving")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--break", dest="broken", default="", help="switches a defence off")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.saving:
            from bench.support import saves

            return saves.main(options.count or 300, options.seed, options.broken, Path(folder))
        options.count = options.count or 50
        return compare(options, Path(folder))


def job_of(broken: str, arguments: list[str]) -> int:
    """The job, or the job with one of its defences off."""
    import numpy as np

    from app.worker import job
    from opd.sampling import sample
    from opd.training import checkpoint

    if broken == "moments":  # the optimizer begins anew at every attempt
        checkpoint.restore = lambda source, *_: checkpoint.progress_of(source).step
    elif broken == "seeds":  # samples depend on what this process sampled before
        random_state = np.random.default_rng(0)
        sample.uniforms = lambda key, count: random_state.random(count)
    elif broken:
        raise ValueError(broken)
    return job.main(arguments)


if __name__ == "__main__":
    broken = os.environ.get(BREAK)
    sys.exit(job_of(broken, sys.argv[1:]) if broken else main())
