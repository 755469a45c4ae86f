"""Decoding: our loop against transformers' `generate`, same model, prompts and lengths.

    python -m bench.decode [--pairs 5] [--rows 64] [--tokens 40]

Interleaved A B A B; prints the median ratio and its range. Every row gets the same number of new
tokens: no early stop, temperature 1, full softmax.
"""

import argparse
import os
import statistics
import time
from dataclasses import dataclass, replace

import torch

from opd.bundled.problems import problems
from opd.models.load import Pair, load_pair
from opd.sampling.sample import Limits, Request, sample


@dataclass(frozen=True)
class Size:
    rows: int
    tokens: int  # new ones of each row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--rows", type=int, default=64, help="a multiple of 4")
    parser.add_argument("--tokens", type=int, default=40, help="new tokens per row")
    options = parser.parse_args()
    size = Size(options.rows, options.tokens)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    pair = load_pair("bundled/student", "bundled/student", device=torch.device("cpu"))
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


def compare(
    pair: Pair, texts: list[str], size: Size, pairs: int
) -> tuple[list[float], list[float]]:
    """Their time over ours, pair by pair, and our seconds."""
    encoded = pair.tokenizer(texts, padding=True, padding_side="left", return_tensors="pt")
    requests = [
        Request(ids, (0, 0, i, 0)) for i, ids in enumerate(pair.tokenizer(texts)["input_ids"])
    ]
    limits = Limits(size.tokens, 1.0, size.rows)

    def theirs() -> None:
        out = pair.student.generate(
            **encoded,
            do_sample=True,
            top_k=0,
            top_p=1.0,
            temperature=1.0,
            min_new_tokens=size.tokens,
            max_new_tokens=size.tokens,
        )
        assert out.shape == (size.rows, encoded["input_ids"].shape[1] + size.tokens)

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
