"""Decoding: our loop against transformers' `generate`, same model, prompts and lengths.

    python -m bench.decode [--pairs 5]

Interleaved A B A B; prints the median ratio and its spread. 64 rows, 40 new tokens each, no early
stop, temperature 1, full softmax.
"""

import argparse
import os
import statistics
import time
from dataclasses import replace

import torch

from opd.bundled.problems import problems
from opd.models.load import Pair, load_pair
from opd.sampling.sample import Limits, Request, sample

ROWS, NEW_TOKENS = 64, 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    pairs = parser.parse_args().pairs
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    pair = load_pair("bundled/student", "bundled/student", device=torch.device("cpu"))
    pair = replace(pair, eos_ids=(pair.vocab + 1,))  # never sampled: equal lengths on both sides
    prompts = [p.prompt for p in problems(ROWS, seed=0, split="eval")]
    print(f"{ROWS} rows x {NEW_TOKENS} new tokens, {torch.get_num_threads()} threads")
    for name, texts in (("one prompt each", prompts), ("groups of four", prompts[:16] * 4)):
        ratios, ours = compare(pair, texts, pairs)
        print(
            f"{name:16} ours {ROWS * NEW_TOKENS / statistics.median(ours):7.0f} tokens/s   "
            f"generate / ours {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )


def compare(pair: Pair, texts: list[str], pairs: int) -> tuple[list[float], list[float]]:
    encoded = pair.tokenizer(texts, padding=True, padding_side="left", return_tensors="pt")
    requests = [
        Request(ids, (0, 0, i, 0)) for i, ids in enumerate(pair.tokenizer(texts)["input_ids"])
    ]
    limits = Limits(NEW_TOKENS, 1.0, ROWS)

    def theirs() -> None:
        out = pair.student.generate(
            **encoded,
            do_sample=True,
            top_k=0,
            top_p=1.0,
            temperature=1.0,
            min_new_tokens=NEW_TOKENS,
            max_new_tokens=NEW_TOKENS,
        )
        assert out.shape == (ROWS, encoded["input_ids"].shape[1] + NEW_TOKENS)

    def ours() -> None:
        assert all(len(s.completion_ids) == NEW_TOKENS for s in sample(pair, requests, limits))

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
