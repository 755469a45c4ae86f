"""Checkpoints at an address: how long sending and fetching take, and what a training notices.

    python -m bench.places.run_files [--megabytes 500]

Against moto's S3 server on the loopback, which keeps what it is sent in memory and in temporary
files: the store costs processor time of the same machine, the network nothing.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from opd.types import CheckpointEvent
from storage.data_dir import DataDir

RUN = "run-bench000"
Save = Callable[[Path], tuple[CheckpointEvent, float]]  # → with the seconds it took


def main(megabytes: int) -> None:
    from tests.support.network import object_store

    with tempfile.TemporaryDirectory() as folder, object_store.serving() as store:
        os.environ.update(store.environment)
        print("| checkpoint | size | saved here | sent | step meanwhile | fetched, checked |")
        print("|---|---|---|---|---|---|")
        _measure("demo", Path(folder) / "demo", _demo)
        name = f"of random bytes, {megabytes} MB"
        _measure(name, Path(folder) / "large", lambda at: _random(at, megabytes))


def _measure(name: str, folder: Path, save: Save) -> None:
    from app.worker.run_files.choice import run_files

    address = "s3://studio/bench"
    one, two = DataDir(folder / "one", files=address), DataDir(folder / "two", files=address)
    checkpoints = one.run(RUN).checkpoints
    checkpoints.mkdir(parents=True)
    run_files(one).check()
    alone = _work()
    event, saved = save(checkpoints)
    began = time.perf_counter()
    kept = run_files(one).keep(RUN, 1, event)
    worked: list[float] = []
    while not kept.done():
        worked.append(_work())
    sent = time.perf_counter() - began
    row = {"step": event.step, "path": kept.result(), "manifest": dict(event.manifest)}
    size = sum(run_files(one).sizes(RUN, row).values())
    began = time.perf_counter()
    run_files(two).bring(RUN, row)
    fetched = time.perf_counter() - began
    slower = f"{sum(worked) / len(worked) / alone:.1f}×"
    print(f"| {name} | {size / 1e6:.1f} MB | {saved:.2f} s | {sent:.2f} s | {slower} ", end="")
    print(f"| {fetched:.2f} s |", flush=True)


def _work() -> float:
    """Seconds of a piece of work as a step is: products of matrices, on one thread."""
    import torch

    torch.set_num_threads(1)
    matrix = torch.ones(512, 512)
    began = time.perf_counter()
    for _ in range(20):
        matrix @ matrix
    return time.perf_counter() - began


def _demo(folder: Path) -> tuple[CheckpointEvent, float]:
    import torch

    from opd.models.load import load_student
    from opd.training import checkpoint

    pair = load_student("bundled/student", device=torch.device("cpu"))
    optimizer = torch.optim.AdamW(pair.student.parameters(), lr=1e-4)
    for parameter in pair.student.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    began = time.perf_counter()
    event = checkpoint.save(
        folder, checkpoint.Progress(1), (pair.student, pair.tokenizer), optimizer
    )
    return event, time.perf_counter() - began


def _random(folder: Path, megabytes: int) -> tuple[CheckpointEvent, float]:
    """As of a model trained with AdamW: a third weights, two thirds moments."""
    from opd.training.checkpoint_manifest import OPTIMIZER, STATE, folder_of, make

    began = time.perf_counter()
    path = folder_of(folder, 1)
    path.mkdir()
    for name, share in (("model.safetensors", 1), (OPTIMIZER, 2)):
        with (path / name).open("wb") as file:
            for _ in range(megabytes * share // 3):
                file.write(os.urandom(1_000_000))
    (path / STATE).write_text('{"step": 1}')
    event = CheckpointEvent(1, str(path), make(path))
    return event, time.perf_counter() - began


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=500)
    main(parser.parse_args().megabytes)
