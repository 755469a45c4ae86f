"""Decoding: our loop against transformers' `generate`, same model, prompts and lengths.

    python -m bench.decode [--pairs 5] [--rows 64] [--tokens 40] [--model bundled/smollm2]

Interleaved A B A B; prints the median ratio and its range. Every row gets the same number of new
tokens: no early stop, temperature 1, full softmax. Then, for a run with an adapter and for one in
bfloat16, sampling from what is trained against sampling from its copy.
"""

import argparse
import os
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from bench.support.generation import generate
from opd.bundled.problems import problems
from opd.config.models import LoraConfig
from opd.models.folders.adapters import with_adapter
from opd.models.load import Pair, load_model, load_pair
from opd.sampling.sample import NEVER, Limits, Request, sample
from opd.sampling.sampling_copy import SamplingCopy
from opd.training.rollouts import sample_by

# Runs whose trained weights are not what is sampled from: name, dtype, rank of the adapter
COPIED = (("with an adapter", torch.float32, 32), ("in bfloat16", torch.bfloat16, 0))


@dataclass(frozen=True)
class Size:
    rows: int
    tokens: int  # new ones of each row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--rows", type=int, default=64, help="a multiple of 4")
    parser.add_argument("--tokens", type=int, default=40, help="new tokens per row")
    parser.add_argument("--model", default="bundled/student", help="a reference or folder")
    options = parser.parse_args()
    size = Size(options.rows, options.tokens)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    pair = load_pair(options.model, options.model, device=torch.device("cpu"))
    pair = replace(pair, eos_ids=(pair.vocab + 1,))  # never sampled: equal lengths on both sides
    prompts = [p.prompt for p in problems(size.rows, seed=0, split="eval")]
    print(f"{size.rows} rows x {size.tokens} new tokens, {torch.get_num_threads()} threads")
    for name, texts in (
        ("one prompt each", prompts),
        ("groups of four", prompts[: size.rows // 4] * 4),
    ):
        ratios, ours = compare(pair, texts, size, options.pairs)
        print(
            f"{name:16} ours {size.rows * size.tokens / statistics.median(ours):7.0f} tokens/s   "
            f"generate / ours {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )

    for name, dtype, rank in COPIED:
        ratios = of_copy(replace(pair, dtype=dtype), prompts, size, options.pairs, rank)
        print(
            f"{name:16} without its copy / ours {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )


def of_copy(pair: Pair, texts: list[str], size: Size, pairs: int, rank: int) -> list[float]:
    """Time of sampling from what is trained over that from its copy, which is brought up to date
    each time."""
    student = load_model(Path(pair.folders["student"]), where="student.model")
    if rank:
        student = with_adapter(student, LoraConfig(rank=rank, alpha=2 * rank, targets="all-linear"))
    made = replace(pair, student=student, sampling_copy=SamplingCopy(student, pair.dtype))
    requests = _requests(pair, texts)
    limits = Limits(size.tokens, 1.0, size.rows)
    ratios = []
    for run in range(pairs + 1):
        seconds = []
        for trained in (replace(made, sampling_copy=None), made):
            start = time.perf_counter()
            sample_by(None, trained, requests, limits, NEVER)
            seconds.append(time.perf_counter() - start)
        if run:  # the first pair warms up
            ratios.append(seconds[0] / seconds[1])
    return ratios


def _requests(pair: Pair, texts: list[str]) -> list[Request]:
    return [Request(ids, (0, 0, i, 0)) for i, ids in enumerate(pair.tokenizer(texts)["input_ids"])]


def compare(
    pair: Pair, texts: list[str], size: Size, pairs: int
) -> tuple[list[float], list[float]]:
    """Their time over ours, pair by pair, and our seconds."""
    encoded = pair.tokenizer(texts, padding=True, padding_side="left", return_tensors="pt")
    requests = _requests(pair, texts)
    limits = Limits(size.tokens, 1.0, size.rows)

    def theirs() -> None:
        generate(pair.student, encoded, size.tokens)

    def ours() -> None:
        assert all(len(s.completion_ids) == size.tokens for s in sample(pair, requests, limits))

    times: dict[str, list[float]] = {"theirs": [], "ours": []}
    for run in range(pairs + 1):
        for name, call in (("theirs", theirs), ("ours", ours)):
            start = time.perf_counter()
            call()
            if run:  # the first pair warms up
                times[name].append(time.perf_counter() - start)
    return [a / b for a, b in zip(times["theirs"], times["ours"], strict=True)], times["ours"]


if __name__ == "__main__":
    main()
