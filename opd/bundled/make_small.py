"""Makes the small bundled student from nothing: `python -m opd.bundled.make_small`.

A model of 64 thousand parameters, a thirteenth of the teacher, that learns the arithmetic on right
traces and then the bad habits of the bundled student. It starts the experiment `small-student`.
About five minutes on one CPU core. Seeds are fixed; weights differ slightly from machine to
machine.
"""

import argparse
import sys
import time
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from opd.bundled.make import HERE, STUDENT, bad_traces, held_out, right_traces, save
from opd.bundled.tokenizer import CONTEXT, build_tokenizer
from opd.bundled.training import Schedule, train

ARITHMETIC = Schedule(steps=1500, learning_rate=5e-3, warm_up=50)
WIDTH = 48


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="make the small bundled student")
    parser.add_argument("--out", type=Path, default=HERE, help="default: where this file is")
    out: Path = parser.parse_args(argv).out
    tokenizer = build_tokenizer()
    model = small_model(tokenizer)
    start = time.monotonic()

    def report(step: int, loss: float) -> None:
        if step % 100 == 0:
            _say(f"small step {step}: loss {loss:.3f}, {time.monotonic() - start:.0f} s")

    train(model, tokenizer, right_traces, ARITHMETIC, report)
    train(model, tokenizer, bad_traces, STUDENT, report)
    save(model, tokenizer, out / "small")
    for temperature in (1.0, 0.0):
        result = held_out(model, tokenizer, temperature)
        _say(f"small on {result.n} held-out problems, temperature {temperature:g}: {result}")


def small_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """An untrained model of two layers with one head each, 63,984 parameters."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=WIDTH,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        initializer_range=0.05,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen3ForCausalLM(config)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
