"""A checkpoint saver killed at random moments: what counts as the latest must always load (C2).

The child saves step after step as a run does, prints the step once its row is committed, and
removes what is no longer kept. After each kill: the checkpoint from which the job would go on is
the last one printed or a later one, all its files have their digests, and it loads.
"""

import multiprocessing
import os
import random
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from app.worker import job, recovery
from app.worker.attempts.checkpoints import start_of, sweep
from app.worker.job import Job
from app.worker.owners.standing import Judge
from bench.support.preload import SLOW
from opd.config.run import parse
from storage.data_dir import DataDir
from storage.engine import open_database
from storage.queue import jobs
from storage.read.runs import read_run

KEEP = 2
LONGEST = 0.6  # seconds until a kill, about five saves


def main(count: int, seed: int, broken: str, folder: Path) -> int:
    """`broken` "order" removes the checkpoint before as soon as the next one is begun."""
    engine = open_database(folder)
    run_id = jobs.create_run(engine, parse({"checkpoints": {"keep": KEEP}}))
    engine.dispose()
    chance = random.Random(seed)
    faults: list[str] = []
    within = 0
    start = time.monotonic()
    for number in range(count):
        fault, inside = _once(folder, run_id, chance.uniform(0, LONGEST), broken)
        within += inside
        if fault:
            faults.append(fault)
            print(f"{number + 1:3} {fault}", flush=True)
    seconds = time.monotonic() - start
    print(f"{count - len(faults)} of {count} kills left a latest checkpoint that loads; ", end="")
    print(f"{within} came amid a save; {seconds:.0f} s")
    return 1 if faults else 0


def _once(folder: Path, run_id: str, moment: float, broken: str) -> tuple[str, bool]:
    """Kills one saver; what is wrong now, and whether a half-written folder lay there."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["opd.training.checkpoint", "opd.models.load", "app.worker.job", *SLOW]
    )
    receiver, sender = context.Pipe(duplex=False)
    child: ForkServerProcess = context.Process(target=saver, args=(folder, run_id, broken, sender))
    child.start()
    sender.close()
    acknowledged = [receiver.recv()]  # from where it goes on, once it is ready
    time.sleep(moment)
    child.kill()
    child.join()
    while receiver.poll():
        try:
            acknowledged.append(receiver.recv())
        except EOFError:
            break
    return _judge(folder, run_id, acknowledged[-1])


def _judge(folder: Path, run_id: str, acknowledged: int) -> tuple[str, bool]:
    """What is wrong, and whether the kill came amid a save."""
    engine = open_database(folder)
    here = Job(engine, DataDir(folder), run_id, 0, "cpu")
    inside = any(here.checkpoints.glob(".*.partial"))
    try:
        recovery.bury_dead(engine, DataDir(folder), Judge(DataDir(folder)))
        info = read_run(engine, run_id)
        step, latest = start_of(here.data_dir, info)
        if step < acknowledged:
            return f"the latest is of step {step}, {acknowledged} was acknowledged", inside
        folders = sorted(p.name for p in here.checkpoints.glob("*"))
        if folders != [Path(c["path"]).name for c in info["checkpoints"]]:
            return f"the folders {folders} are not those on record", inside
        for row in info["checkpoints"]:
            _load(here.checkpoints / Path(row["path"]).name, row["step"])
        return "" if latest or not folders else "nothing loads", inside
    except Exception as error:  # noqa: BLE001 - whatever does not load is a fault
        return f"{type(error).__name__}: {error}", inside
    finally:
        engine.dispose()


def _load(path: Path, step: int) -> None:
    import torch

    from opd.models.load import load_model
    from opd.training import checkpoint

    model = load_model(path, where="checkpoint")
    if checkpoint.restore(path, torch.optim.AdamW(model.parameters())) != step:
        raise ValueError(f"{path} is of another step")


def saver(folder: Path, run_id: str, broken: str, acknowledge: Any) -> None:
    """Saves until it is killed, each time other weights."""
    import torch

    from opd.models.load import load_student
    from opd.training import checkpoint
    from storage.write.records import RunWriter

    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    engine = open_database(folder)
    here = job.claim(engine, DataDir(folder), run_id, "cpu")
    assert here is not None
    here.checkpoints.mkdir(parents=True, exist_ok=True)
    step, _ = start_of(here.data_dir, read_run(engine, run_id))
    sweep(engine, DataDir(folder), run_id, here.attempt)
    pair = load_student("bundled/student", device=torch.device("cpu"))
    optimizer = torch.optim.AdamW(pair.student.parameters(), lr=1e-4)
    for parameter in pair.student.parameters():
        parameter.grad = torch.ones_like(parameter)
    writer = RunWriter(engine, run_id, here.attempt)
    writer.truncate_after(step)
    saved = checkpoint.saved(here.checkpoints, up_to=step)
    acknowledge.send(step)
    while True:
        step += 1
        optimizer.step()
        progress = checkpoint.Progress(step)
        if broken == "order":
            for old in saved:
                checkpoint.remove(here.checkpoints, old.step)
            saved = []
        event = checkpoint.save(
            here.checkpoints, progress, (pair.student, pair.tokenizer), optimizer
        )
        saved.append(progress)
        gone = checkpoint.expendable(saved, keep=KEEP, best=False)
        saved = [p for p in saved if p not in gone]
        writer.checkpoint(_keeping(event, saved[:-1]))
        acknowledge.send(step)
        for old in gone:
            checkpoint.remove(here.checkpoints, old.step)


def _keeping(event: Any, stay: list[Any]) -> Any:
    from dataclasses import replace

    return replace(event, keeps=tuple(p.step for p in stay))
