"""Tokens per second into the database, and bytes per token.

    python -m bench.telemetry [--quick]

Everything is kept; ids come from a vocabulary of 151,936, few of them often, and ranks are mostly
small, as in real records. "record" counts the packed arrays with their layout, "file" the database
file with texts, prompts, sums and indexes.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from opd.config.run import parse
from opd.types import ModelsEvent, Rollout, StepEvent, TokenRecord, TopK
from storage.engine import open_database
from storage.queue import jobs
from storage.read.rollouts import read_rollouts
from storage.read.runs import read_run
from storage.read.tokens import read_tokens
from storage.write.records import RunWriter

VOCABULARY = 151_936
STEPS = 5


@dataclass(frozen=True)
class StepSize:
    name: str
    rollouts: int
    tokens: int
    top_k: int


SIZES = (
    StepSize("128 × 1,000, no top-k", 128, 1000, 0),
    StepSize("128 × 1,000, top-8", 128, 1000, 8),
    StepSize("128 × 64, no top-k", 128, 64, 0),
    StepSize("128 × 64, top-8", 128, 64, 8),
    StepSize("4 × 32,000, no top-k", 4, 32_000, 0),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a 32nd of the rollouts")
    scale = 32 if parser.parse_args().quick else 1
    print(
        f"{'step':24} {'tokens/s':>12} {'record B/token':>15} {'file B/token':>13} {'open ms':>8}"
    )
    for size in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            small = replace(size, rollouts=max(1, size.rollouts // scale))
            print(_measure(small, Path(folder)))


def _measure(size: StepSize, folder: Path) -> str:
    engine = open_database(folder)
    config = parse({"steps": STEPS, "records": {"budget_mb": 10_000}})
    run_id = jobs.create_run(engine, config)
    attempt = jobs.claim(engine, run_id, "cpu", jobs.Owner(1, 0.0, ""))
    assert attempt is not None
    writer = RunWriter(engine, run_id, attempt)
    writer.models(ModelsEvent({}, "fingerprint", "cpu"), {})
    rollouts = rollouts_of(size)
    seconds = []
    for step in range(1, STEPS + 1):
        kept = [replace(rollout, step=step) for rollout in rollouts]
        event = StepEvent(step, {}, size.rollouts * size.tokens, 0.0, {}, kept)
        seconds.append(writer.step(event, lambda ids: dict.fromkeys(ids, (b"token", False))))
    opened = _open_seconds(engine, run_id)
    tokens = size.rollouts * size.tokens
    record = read_run(engine, run_id)["bytes"] / (STEPS * tokens)
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    engine.dispose()
    file = (folder / "studio.db").stat().st_size / (STEPS * tokens)
    rate = tokens / float(np.median(seconds[1:]))  # the first step stores the vocabulary
    return f"{size.name:24} {rate:12,.0f} {record:15.1f} {file:13.1f} {opened * 1000:8.1f}"


def _open_seconds(engine: object, run_id: str) -> float:
    first = read_rollouts(engine, run_id, limit=1)["items"][0]["id"]  # type: ignore[arg-type]
    start = time.perf_counter()
    read_tokens(engine, first)  # type: ignore[arg-type]
    return time.perf_counter() - start


def rollouts_of(size: StepSize) -> Sequence[Rollout]:
    random = np.random.default_rng(0)

    def nats(*shape: int) -> np.ndarray:
        return -np.abs(random.normal(0, 2, shape)).astype(np.float32)

    def ids(*shape: int) -> np.ndarray:
        return random.zipf(1.1, shape) % VOCABULARY  # as words: few of them often

    def topk(n: int) -> TopK | None:
        if not size.top_k:
            return None
        listed = ids(n, size.top_k)
        return TopK(listed, nats(*listed.shape), nats(*listed.shape), nats(n))

    def record(n: int) -> TokenRecord:
        names = ("sampler_logprobs", "student_logprobs", "teacher_logprobs", "reverse_kl")
        more = ("student_entropy", "teacher_entropy", "advantages")
        return TokenRecord(
            completion_ids=ids(n),
            teacher_rank=np.minimum(random.geometric(0.02, n), VOCABULARY) - 1,
            mask=np.ones(n, np.float32),
            student_topk=topk(n),
            teacher_topk=topk(n),
            **{name: nats(n) for name in (*names, *more)},
        )

    prompt = ids(40)
    text = "word " * size.tokens
    return [
        Rollout(1, "train", i // 4, i % 4, "p", prompt, text, "stop", 1.0, record(size.tokens))
        for i in range(size.rollouts)
    ]


if __name__ == "__main__":
    main()
